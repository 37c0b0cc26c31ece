"""Stages that resume: what is done is kept through every way to end, and no process outlives its stage."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from benchmarks.gpu import stages
from tests.reliability.driver import until

ROOT = pathlib.Path(__file__).parents[2]


def stage(name: str, script: str, least: float = 0.0, most: float = 300.0) -> stages.Stage:
    """A stage that runs a script, whose `write(result)` writes the result, and which finds its folder as `here`."""
    begin = """
        import json, os, pathlib, subprocess, sys, time
        file = pathlib.Path(sys.argv[-1].removeprefix("--out="))
        write = lambda result: file.write_text(json.dumps(result))
    """
    return stages.Stage(name, (sys.executable, "-c", textwrap.dedent(begin) + textwrap.dedent(script)), least, most)


def counted(path: pathlib.Path) -> str:
    """A script that counts its runs in a file, and writes their number."""
    return (
        f"p = pathlib.Path({str(path)!r}); n = p.read_text().count('.') + 1 if p.exists() else 1\n"
        "p.write_text('.' * n); write({'runs': n})"
    )


@pytest.mark.extended
def test_stages_run_once_in_order_and_a_failure_stops_none(tmp_path):
    a = stage("a", counted(tmp_path / "a"))
    b = stage("b", "print('why'); sys.exit(3)")
    c = stage("c", "write([1])")
    results = stages.run([a, b, c], tmp_path / "out", 900)
    assert [results[name]["status"] for name in "abc"] == ["done", "failed", "done"]
    assert results["a"]["result"] == {"runs": 1} and results["b"]["said"] == ["why"] and results["b"]["exit"] == 3
    again = stages.run([a, stage("b", "write('mended')"), c], tmp_path / "out", 900)
    assert again["a"]["result"] == {"runs": 1} and again["b"]["result"] == "mended"
    assert json.loads((tmp_path / "out" / "results.json").read_text())["stages"] == again


@pytest.mark.extended
def test_results_that_were_carried_back_are_not_made_again(tmp_path):
    one = stage("one", counted(tmp_path / "one"))
    two = stage("two", counted(tmp_path / "two"))
    stages.run([one], tmp_path / "first", 900)
    results = stages.run([one, two], tmp_path / "second", 60, done=[tmp_path / "absent", tmp_path / "first"])
    assert results["one"]["result"] == results["two"]["result"] == {"runs": 1}
    assert stages.gathered([tmp_path / "second"]) == results


@pytest.mark.extended
def test_what_another_machine_made_is_made_again(tmp_path):
    made = tmp_path / "made"
    one = stage("one", counted(tmp_path / "one"))._replace(makes=made)
    stages.run([one], tmp_path / "out", 900)
    assert stages.run([one], tmp_path / "out", 900)["one"]["result"] == {"runs": 2}
    assert stages.summary([one], stages.gathered([tmp_path / "out"])) == stages.UNFINISHED
    made.mkdir()
    assert stages.run([one], tmp_path / "out", 900)["one"]["result"] == {"runs": 2}


@pytest.mark.extended
def test_a_stage_over_its_limit_is_ended_with_its_children_and_tried_last(tmp_path, monkeypatch, capsys):
    pid = tmp_path / "pid"

    class OverItsLimit(subprocess.Popen):
        """A process whose limit of 3 s ends as soon as its child runs, whenever that is."""

        def wait(self, timeout=None):
            if timeout != 3.0:
                return super().wait(timeout)
            until(lambda: pid.is_file() and pid.read_text())
            raise subprocess.TimeoutExpired(self.args, timeout)

    slow = stage(
        "slow",
        f"""
        print("case base: timed", "case ours: compiles", *["a warning"] * 20, "the last word", sep="\\n", flush=True)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pathlib.Path({str(pid)!r}).write_text(str(child.pid)); time.sleep(600)
        """,
        most=3.0,
    )
    with monkeypatch.context() as patch:
        patch.setattr(stages.subprocess, "Popen", OverItsLimit)
        results = stages.run([slow], tmp_path / "out", 900)
    assert results["slow"]["status"] == "late"
    assert stages.summary([slow], results) == 1
    said = "slow: late (ours: compiles; its last line: the last word)"
    assert capsys.readouterr().out.count(said) == 2  # when it ends, and among what is not done
    until(lambda: not alive(int(pid.read_text())))  # it got the signal; the kernel takes a moment
    order = tmp_path / "order"
    writes = lambda name: stage(name, f"open({str(order)!r}, 'a').write({name!r}); write(0)")
    stages.run([writes("slow"), writes("x")], tmp_path / "out", 900)
    assert order.read_text() == "xslow"


def test_nothing_begins_that_cannot_end_in_time(tmp_path):
    results = stages.run([stage("short", "write(0)"), stage("long", "write(0)", least=1000)], tmp_path / "out", 900)
    assert list(results) == ["short"]
    both = [stage("short", ""), stage("long", "")]
    assert stages.summary(both, results) == stages.UNFINISHED
    assert stages.summary(both[:1], results) == 0
    assert stages.summary(both, {**results, "long": {"status": "failed", "said": []}}) == 1


@pytest.mark.extended
def test_a_stage_knows_its_time_and_goes_on_in_the_next_call(tmp_path):
    script = "write(float(os.environ['STAGE_SECONDS'])); sys.exit(75)"
    results = stages.run([stage("training", script), stage("after", "write(0)")], tmp_path / "out", 900)
    assert list(results) == ["training"] and results["training"]["status"] == "unfinished"
    assert results["training"]["result"] == 300  # its `most`
    results = stages.run([stage("training", "write('end')"), stage("after", "write(0)")], tmp_path / "out", 900)
    assert [result["status"] for result in results.values()] == ["done", "done"]


@pytest.mark.extended
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_driver_that_is_killed_goes_on(tmp_path, number):
    script = textwrap.dedent(f"""
        import pathlib, sys
        sys.path.insert(0, {str(ROOT)!r})
        from benchmarks.gpu import stages
        stages.stoppable()
        work = lambda name, seconds: stages.Stage(name, (sys.executable, "-c", "import os, sys, time, pathlib;"
            "pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()));"
            f"time.sleep({{seconds}}); open(sys.argv[-1][6:], 'w').write('1')"), 0, 600)
        stages.run([work("a", 0), work("b", float(sys.argv[1]))], pathlib.Path({str(tmp_path / "out")!r}), 900)
        """)
    driver = subprocess.Popen([sys.executable, "-c", script, "600"])
    file = tmp_path / "out" / "results.json"
    until(lambda: file.is_file() and "a" in json.loads(file.read_text())["stages"])
    until(lambda: (tmp_path / "pid").read_text() and alive(int((tmp_path / "pid").read_text())))
    driver.send_signal(number)
    assert driver.wait(300) == (143 if number == signal.SIGTERM else -number)
    child = int((tmp_path / "pid").read_text())
    if number == signal.SIGTERM:
        assert not alive(child)
    elif alive(child):
        os.kill(child, signal.SIGKILL)
    assert json.loads(file.read_text())["stages"]["a"]["status"] == "done"
    subprocess.run([sys.executable, "-c", script, "0"], check=True)
    assert {name: each["status"] for name, each in stages.gathered([tmp_path / "out"]).items()} == {
        "a": "done",
        "b": "done",
    }


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet reaped does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
