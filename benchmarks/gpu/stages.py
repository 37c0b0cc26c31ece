"""Runs named stages in order, each as a process with a time limit, and continues after an interruption.

It is made for a machine that is lent for minutes at a time. The results of all stages are in one file, `results.json`,
which is replaced atomically after each stage. A later call that finds this file, in its output folder or in a folder
that was brought back to the machine, leaves out the stages that are done. A stage receives two settings: `--out=FILE`,
where it writes its result as JSON, and the environment variable STAGE_SECONDS, the time after which it is ended. A
stage that needs more time ends with status 75 (UNFINISHED); the next call begins with it.
"""

import contextlib
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

UNFINISHED = 75  # exit status of a stage that must continue in the next call
SECONDS = "STAGE_SECONDS"  # the environment variable with the seconds that a stage may take
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
LINES = 15  # number of last lines of a failed stage that are stored in its result
CASE = "case "  # beginning of a line by which a stage says on which case it works


class Stage(NamedTuple):
    """One part of the work.

    Attributes:
        name: the name of the stage in the results.
        command: the words of the process's command; `--out=FILE` is added.
        least: the seconds that must be left for the stage to begin.
        most: the seconds after which the stage is ended.
        makes: a file or folder that later stages read; if it is missing, as on another machine, the stage counts as not
            done. None if later stages read nothing.
    """

    name: str
    command: tuple[str, ...]
    least: float = 30.0
    most: float = 540.0
    makes: pathlib.Path | None = None


def run(
    stages: Sequence[Stage], out: pathlib.Path, seconds: float, done: Iterable[pathlib.Path] = ()
) -> dict[str, dict[str, Any]]:
    """Runs the stages that are not done, in order, while time is left; a stage that failed before comes last.

    Args:
        stages: the stages in order; a stage may need the results of the stages before it.
        out: the folder of results.json and log.txt.
        seconds: the time that this call may take.
        done: folders with the results.json of earlier calls, the latest last.

    Returns:
        {name: {"status": "done", "failed", "late" or "unfinished", "seconds": float, "at": UTC time, "result": the JSON
        of a stage that is done, "said": the last lines that another stage printed, "case": the case on which a late
        stage worked}}.
    """
    ends = time.monotonic() + seconds
    out.mkdir(parents=True, exist_ok=True)
    results = gathered([*done, out])
    keep(out, results)
    waiting = [stage for stage in stages if not is_done(stage, results)]
    waiting.sort(key=lambda stage: results.get(stage.name, {}).get("status") in ("failed", "late"))
    for stage in waiting:
        left = ends - time.monotonic() - GRACE
        if left < stage.least:
            print(f"{stage.name}: needs {stage.least:.0f} s, and {max(left, 0):.0f} are left", flush=True)
            break
        print(f"{stage.name}: begins, {left:.0f} s are left", flush=True)
        results[stage.name] = carry_out(stage, out, min(stage.most, left))
        keep(out, results)
        print(f"{stage.name}: {ending(results[stage.name])} after {results[stage.name]['seconds']:.0f} s", flush=True)
        if results[stage.name]["status"] == "unfinished":
            break
    return results


def is_done(stage: Stage, results: dict[str, dict[str, Any]]) -> bool:
    """Whether a stage has a result, and the files that it makes exist."""
    there = stage.makes is None or stage.makes.exists()
    return there and results.get(stage.name, {}).get("status") == "done"


def carry_out(stage: Stage, out: pathlib.Path, limit: float) -> dict[str, Any]:
    """Runs one stage for at most `limit` seconds, and ends all its processes; returns its result as in `run`."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, open(out / "log.txt", "a+b") as log:
        file = pathlib.Path(scratch) / "result.json"
        start = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [*stage.command, f"--out={file}"],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, SECONDS: f"{limit:.0f}"},
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
        times = {
            "seconds": round(time.monotonic() - began, 1),
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        if status == 0 and file.is_file():
            return {"status": "done", **times, "result": json.loads(file.read_text())}
        log.seek(start)
        said = log.read().decode(errors="replace").splitlines()
        if status == 0:
            said.append("It ended with status 0, and wrote no result.")
        kind = {None: "late", UNFINISHED: "unfinished"}.get(status, "failed")
        more = {}
        if kind == "unfinished" and file.is_file():
            more["result"] = json.loads(file.read_text())
        if kind == "late":
            cases = (line.removeprefix(CASE) for line in reversed(said) if line.startswith(CASE))
            more["case"] = next(cases, "no case named")
        return {"status": kind, **times, **more, "exit": status, "said": said[-LINES:]}


def ending(result: dict[str, Any]) -> str:
    """A phrase that says how a stage ended; for a late stage, with its case and the last line that it printed."""
    if result["status"] != "late":
        return result["status"]
    return f"late ({result.get('case', 'no case named')}; its last line: {(result['said'] or ['none'])[-1]})"


def gathered(folders: Iterable[pathlib.Path]) -> dict[str, dict[str, Any]]:
    """The results in some folders; a later folder's result replaces an earlier one, unless only the earlier is done."""
    results = {}
    for folder in folders:
        file = pathlib.Path(folder) / "results.json"
        for name, result in (json.loads(file.read_text())["stages"] if file.is_file() else {}).items():
            if results.get(name, {}).get("status") != "done" or result["status"] == "done":
                results[name] = result
    return results


def keep(out: pathlib.Path, results: dict[str, dict[str, Any]]) -> None:
    """Replaces results.json atomically."""
    part = out / "results.part"
    part.write_text(json.dumps({"stages": results}, indent=1) + "\n")
    part.replace(out / "results.json")


def summary(stages: Sequence[Stage], results: dict[str, dict[str, Any]]) -> int:
    """Prints the stages that are not done, and the reasons.

    Returns:
        0 if all stages are done, UNFINISHED if a later call can continue, else 1.
    """
    begun = lambda stage: is_done(stage, results) or results.get(stage.name, {}).get("status", "done") != "done"
    statuses = [results[stage.name] if begun(stage) else {"status": "not begun"} for stage in stages]
    for stage, result in zip(stages, statuses):
        if result["status"] != "done":
            print(f"{stage.name}: {ending(result)}")
            print("".join(f"    {line}\n" for line in result.get("said", ())), end="")
    kinds = {result["status"] for result in statuses}
    return 0 if kinds <= {"done"} else UNFINISHED if kinds & {"not begun", "unfinished"} else 1


def stoppable() -> None:
    """Turns SIGTERM, and the loss of the terminal, into an exception, so that the running stage is ended too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup lets a process ignore SIGHUP
            signal.signal(number, lambda *_: sys.exit(128 + signal.SIGTERM))


def _end(process: subprocess.Popen) -> None:
    """Ends the leader of a session, and all processes of the session."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
