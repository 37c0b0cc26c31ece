"""The tool that makes mutants, on a toy library whose tests see some of its mistakes."""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import pytest

from tools.mutate import __main__ as mutate, forks, reached
from tools.mutate.mutants import mutants, sample

ROOT = pathlib.Path(__file__).parents[2]


def changes(source, **only):
    """The lines after each change of a source."""
    return [m.now for m in mutants("toy.py", source.encode()) if all(getattr(m, k) == v for k, v in only.items())]


@pytest.mark.parametrize(
    ("line", "kind", "expected"),
    [
        ("a = b - c", "sign", ["a = b + c"]),
        ("a = b - c", "swap", ["a = (c - b)"]),
        ("a = -b", "sign", ["a = (b)"]),
        ("a = (b + 1) * c", "factor", ["a = (b + 1) / c", "a = (b + 1)", "a = (c)"]),
        ("a = b[1:]", "off by one", ["a = b[0:]", "a = b[2:]"]),
        ("a = 0.5 * b", "factor", ["a = 0.5 / b", "a = (0.5)", "a = (b)", "a = 0.25 * b"]),
        ("if a <= b: pass", "bound", ["if a < b: pass"]),
        ("if a <= b: pass", "condition", ["if a > b: pass"]),
        ("if a or b: pass", "condition", ["if a and b: pass", "if not (a or b): pass"]),
        ("a = b if not c else d", "condition", ["a = (d if not c else b)", "a = b if (c) else d"]),
        ("a = b and c is not None", "condition", ["a = b or c is not None", "a = b and c is None"]),
        ("a = jnp.minimum(b, c)", "name", ["a = jnp.maximum(b, c)"]),
        ("a = jax.lax.stop_gradient(b)", "dropped", ["a = (b)"]),
        ("a = x.mean(axis=i)", "dropped", ["a = x.mean()"]),
        ("a = f(b, c, d)", "order", ["a = f(c, b, d)", "a = f(b, d, c)"]),
        ("a = jnp.where(b > 0, c, d)", "swap", ["a = jnp.where(b > 0, d, c)"]),
        ("a += b", "sign", ["a -= b"]),
        ("def f(a=True): return a", "condition", ["def f(a=False): return a"]),
        ("a = lambda x: x - 1", "off by one", ["a = lambda x: x - 0", "a = lambda x: x - 2"]),
    ],
)
def test_changes_of_a_line(line, kind, expected):
    assert sorted(changes(line, kind=kind)) == sorted(expected)


@pytest.mark.parametrize(
    "line",
    ['"""1 + 2."""', "import a", "from a import b", "raise ValueError(1 + 2)", "assert 1 < 2, 1 + 2", 'a = f"{1 + 2}"',
     "a: f(1, 2)", "def f(a: g(1)) -> g(2): pass", "@f(1)\ndef g(): pass", 'warnings.warn("a", 3)', 'a = "b" + c',
     "if TYPE_CHECKING: a = 1", "a = max(b, c)[d]", "Scale = ArrayLike | None"],
)  # fmt: skip
def test_what_only_speaks_is_left_alone(line):
    assert not any(changes(line, kind=kind) for kind in ("swap", "order", "off by one", "sign", "condition"))


def test_the_looks_of_a_chart_are_left_alone_and_what_it_shows_is_not():
    line = "axes.plot(x, y + 1, color=INK, linewidth=1.5, alpha=a / 2, zorder=3)"
    changed = [now for now in changes(line) if now.count(line[-41:]) == 0]
    assert changed == ["axes.plot(x, y + 1, linewidth=1.5, alpha=a / 2, zorder=3)"]  # without its colour
    assert {"axes.plot(x, y - 1" + line[18:], "axes.plot(x, y + 2" + line[18:]} <= set(changes(line))
    assert {"a = cosine()", "a = cosine(s=b * 2)"} <= set(changes("a = cosine(s=b / 2)"))  # no chart


@pytest.mark.parametrize(
    "line, first, second",
    [
        ("a = b.reshape(-1, 3)", "a = b.reshape(-1, 4)", "a = b.reshape(-1, 2)"),
        ("a = np.reshape(b, (2, -1))", "a = np.reshape(b, (3, -1))", "a = np.reshape(b, (1, -1))"),
        ("a = b.mean(-1).reshape(n)", "a = b.mean(-2).reshape(n)", "a = b.mean(-0).reshape(n)"),
        ("a = b.reshape(c[-1])", "a = b.reshape(c[-2])", "a = b.reshape(c[-0])"),
    ],
)
def test_the_rest_of_a_reshape_is_left_alone(line, first, second):
    """-1 is the rest; numpy takes -2 for the same."""
    assert set(changes(line, kind="off by one")) == {first, second}


SOURCE = b'''"""A module."""

import math


def f(a, b=2):
    """Of 1 and 2."""
    if a > 0:
        return [a, math.sqrt(a),
                a + 3]
    return (lambda x: x * b)(a)
'''


def test_a_mutant_knows_the_lines_that_run_it_and_its_diff():
    every = mutants("toy.py", SOURCE)
    lines = {m.now: (m.line, m.lines, m.body) for m in every}
    assert lines["if a >= 0:"] == (8, (8, 8), (8, 8))
    assert lines["a + 4]"] == (10, (9, 10), (9, 10))
    assert lines["def f(a, b=3):"] == (6, (6, 6), (8, 11))  # a default: what runs the function
    assert lines["return (lambda x: x / b)(a)"] == (11, (11, 11), (11, 11))
    for mutant in every:
        compile(mutant.applied(SOURCE), "toy.py", "exec")
        removed, added = (
            [line[1:].strip() for line in mutant.diff(SOURCE).splitlines()[2:] if line[0] == sign] for sign in "-+"
        )
        assert (" ".join(removed), " ".join(added)) == (mutant.was, mutant.now)


def test_the_sample_is_of_the_seed_and_stays_where_other_lines_are_added():
    later = b"NEW = 5\n" + SOURCE
    names = lambda source, seed: [m.name for m in sample(mutants("toy.py", source), source, 4, seed)]
    assert names(SOURCE, 0) == names(SOURCE, 0) != names(SOURCE, 1)
    assert {m.line for m in sample(mutants("toy.py", SOURCE), SOURCE, 5, 0)} == {6, 8, 9, 10, 11}  # one on each line
    of_f = [m for m in mutants("toy.py", later) if m.line > 1]
    assert [m.name for m in sample(of_f, later, 4, 0)] == names(SOURCE, 0)
    same = b"a = f(b, b)\n"
    assert not sample(mutants("toy.py", same), same, 9, 0)  # what changes nothing is no mutant


def test_the_words_of_a_comment_do_not_change_a_mutant():
    source = "sizes = [1,  # über\n         2]  # two\nname = '# no comment' + str(3)\n"
    reworded = source.replace("# über", "# the first").replace("  # two", "")
    content = lambda text: [(m.name, m.was, m.now) for m in mutants("toy.py", text.encode())]
    assert content(source) == content(reworded)
    assert [(was, now) for _, was, now in content(source)] == [
        ("sizes = [1,", "sizes = [0,"), ("sizes = [1,", "sizes = [2,"), ("2]", "1]"), ("2]", "3]"),
        ("name = '# no comment' + str(3)", "name = '# no comment' + str(2)"),
        ("name = '# no comment' + str(3)", "name = '# no comment' + str(4)"),
    ]  # fmt: skip
    first = mutants("toy.py", source.encode())[0]
    assert first.applied(source.encode()).decode() == source.replace("[1,", "[0,")


@pytest.mark.parametrize("name", ["experiments/run", "tests", "/tmp"])
def test_a_folder_outside_the_library_is_refused(name):
    with pytest.raises(SystemExit, match=f"^{name}: not a path below diffusion/"):
        mutate._chosen(mutate._arguments([name]), ROOT)


@pytest.mark.extended
def test_tests_that_import_a_module_by_its_public_name_are_run():
    """`from diffusion import flow_maps` imports diffusion.flows.flow_maps."""
    path = "diffusion/flows/flow_maps.py"
    chosen = mutants(path, (ROOT / path).read_bytes())[:1]
    files = {str(file.relative_to(ROOT)) for file in mutate._tests(argparse.Namespace(tests=None), ROOT, chosen)}
    assert {"tests/flows/test_flow_maps.py", "tests/test_ranges.py"} <= files
    assert "tests/data/test_shapes.py" not in files


@pytest.mark.extended
def test_every_mutant_that_is_explained_exists():
    """An entry whose line has changed explains nothing any more: mend it, or remove it."""
    entries = {}
    for path, was, now in mutate._explained():
        entries.setdefault(path, set()).add((was, now))
    for path, changes_of_path in entries.items():
        assert not changes_of_path - {(m.was, m.now) for m in mutants(path, (ROOT / path).read_bytes())}, path


def test_an_instrumented_module_does_the_same_and_says_which_lines_run(monkeypatch):
    seen = []
    text = reached.instrumented("toy.py", SOURCE.decode())
    monkeypatch.setattr("builtins.__reached__", lambda path, line: seen.append((path, line)), raising=False)
    space = {}
    exec(text, space)
    assert seen == [("toy.py", 6)] and space["__doc__"] == "A module." and space["f"].__doc__ == "Of 1 and 2."
    seen.clear()
    assert space["f"](-4) == -8
    assert [line for _, line in seen] == [8, 11, 11]  # the condition, the return, the lambda


def test_a_default_is_tested_by_what_runs_its_function_and_by_what_reads_its_signature():
    """A test that reads a signature runs no line of the function: its import alone runs the line of the default."""

    def case(name, lines, around):
        at = lambda numbers: {"toy.py": frozenset(numbers)} if numbers else {}
        return reached.Case(f"{name}::test", name, 0.1, at(lines), at(around))

    cases = [case("test_calls.py", {8, 9}, {6}), case("test_imports.py", (), {6}), case("test_defaults.py", (), {6})]
    cases += [case("test_public.py", {6}, ()), case("test_public.py", (), ())._replace(name="test_public.py::later")]
    tested_by = lambda now: {
        one.name.removesuffix("::test")
        for of_file in reached.order(cases, next(m for m in mutants("toy.py", SOURCE) if m.now == now))
        for one in of_file
    }
    readers = {"test_defaults.py", "test_public.py", "test_public.py::later"}  # the first test there has imported it
    assert tested_by("def f(a, b=3):") == {"test_calls.py", *readers}
    assert tested_by("if a >= 0:") == {"test_calls.py"}


def test_a_constant_is_judged_by_all_who_import_it():
    """A test of a table may run no line of its module; a function is judged by those who call it."""
    source = b"LIMIT = 3\nwide = lambda a: a > 4\n\n\ndef f(a):\n    return a + LIMIT\n"
    at = lambda numbers: {"toy.py": frozenset(numbers)} if numbers else {}
    cases = [
        reached.Case(f"{name}::test", name, 0.1, at(lines), at({1, 2, 5}))
        for name, lines in (("test_calls.py", {2, 6}), ("test_tables.py", ()))
    ]
    by_change = {m.now: m for m in mutants("toy.py", source)}
    constants = {now for now, mutant in by_change.items() if mutant.constant}
    assert constants and all(now.startswith("LIMIT = ") for now in constants)
    files = lambda now: [of_file[0].file for of_file in reached.order(cases, by_change[now])]
    assert files("LIMIT = 4") == ["test_calls.py", "test_tables.py"]
    assert files("wide = lambda a: a > 5") == files("return a - LIMIT") == ["test_calls.py"]


@pytest.mark.parametrize("in_git", [True, False])
def test_a_copy_has_the_links_to_folders_and_what_lies_in_them(tmp_path, in_git):
    """`diffusion/configs` is such a link: without it, the tests that read a recipe by its name fail in every copy."""
    root = tmp_path / "root"
    for name in ("library/core.py", "recipes/digits.py"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("1")
    (root / "library/recipes").symlink_to("../recipes")
    if in_git:
        subprocess.run(["git", "init", "-q", root], check=True)
    copied = forks.copy(root, tmp_path / "copy")
    assert (copied / "library/recipes").is_symlink()
    (copied / "library/recipes/digits.py").write_text("2")
    assert (copied / "recipes/digits.py").read_text() == "2" and (root / "recipes/digits.py").read_text() == "1"


@pytest.mark.extended
def test_a_child_that_does_not_end_is_killed_with_what_it_started(tmp_path):
    """Pieces of work in children: one answers, one raises, one waits with a process of its own, one turns round."""

    def do(piece, place):
        if piece == "raises":
            raise RuntimeError("as it should")
        if piece == "waits":
            waiting = subprocess.Popen(["sleep", "60"])
            (tmp_path / "process").write_text(str(waiting.pid))
            waiting.wait()
        while piece == "turns":
            pass
        return f"{piece} in {pathlib.Path.cwd().name}"

    (tmp_path / "copy").mkdir()
    work, limits = ["answers", "raises", "waits", "turns"], {"waits": 0.2, "turns": 1.0}
    limit = lambda piece: limits.get(piece, 60)
    results = {done.work: done for done in forks.run_all(work, do, [tmp_path / "copy"], limit)}
    assert results["answers"].answer == "answers in copy" and not results["answers"].late
    assert results["raises"].answer is None and "as it should" in results["raises"].said and not results["raises"].late
    assert results["waits"].answer is None and results["waits"].late
    assert results["turns"].answer is None and results["turns"].late  # it exceeds its CPU time
    stat = pathlib.Path("/proc", (tmp_path / "process").read_text(), "stat")
    assert not stat.is_file() or stat.read_text().split()[2] == "Z"  # killed; no one has waited for it yet


TOY = """
import numpy as np

LIMIT = 3


def clipped(x):
    return min(x, LIMIT)


def scaled(x, factor=2.0):
    return factor * x


def unseen(x):
    return x + 1

"""
CONFTEST = """
import pathlib

from tests import xla_flags

XLA_FLAGS = ("--xla_cpu_no_version_has_this=1", "--xla_cpu_parallel_codegen_split_count=1")


def known(flags):
    with open(pathlib.Path("LOG"), "a") as log:
        log.write("asked\\n")
    return [*flags][1:]


xla_flags.known = known


def pytest_configure(config):
    xla_flags.add(XLA_FLAGS)

"""
TESTS = """
import pytest

from diffusion import toy


@pytest.fixture(scope="module")
def value():
    return toy.scaled(3.0)


def test_clipped():
    assert toy.clipped(5) == 3 and toy.clipped(1) == 1


def test_scaled_through_a_fixture(value):
    assert value > 0  # too weak

"""


BETTER = """

def test_more():
    assert toy.scaled(5.0) == 10 and toy.unseen(1) == 2
"""
EXPLAINED = """
[[mutant]]
path = "diffusion/toy.py"
was = "return x + 1"
now = "return x + 0"
why = "for the sake of this test"
"""


@pytest.mark.slow
def test_survivors_of_a_toy_library_are_reported_and_fall_to_a_new_test(tmp_path):
    """One run over every mutant; then, of the survivors alone, one with a better test and an explanation."""
    root = tmp_path / "root"
    out = tmp_path / "out"
    for name, text in {
        "diffusion/__init__.py": "",
        "diffusion/toy.py": TOY,
        "tests/__init__.py": "",
        "tests/conftest.py": CONFTEST.replace("LOG", str(tmp_path / "log")),
        "tests/xla_flags.py": (ROOT / "tests" / "xla_flags.py").read_text(),
        "tests/test_toy.py": TESTS,
        "explained.toml": "mutant = []",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    code = (
        "import pathlib, sys\nfrom tools.mutate import __main__ as tool\n"
        "root = pathlib.Path(sys.argv[1])\ntool.EXPLAINED = root / 'explained.toml'\n"
        "sys.exit(tool.main(sys.argv[2:], root))"
    )

    def run(*words):
        command = [sys.executable, "-c", code, root, "diffusion/toy.py", "--tests", "tests", "--out", out, *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "TESTS_REFUSED_XLA_FLAGS": ""}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode in (0, 1), done.stderr
        rows = json.loads((out / "report.json").read_text())["rows"]
        return done, {row["now"]: row for row in rows}

    done, rows = run("--per-file", "100")
    assert (tmp_path / "log").read_text() == "asked\n"  # XLA's flags: once for all mutants
    survived = {now for now, row in rows.items() if row["outcome"] == "survived"}
    assert survived == {
        "return (factor)",
        "return (x)",
        "return factor / x",
        "def scaled(x, factor=4.0):",
        "return x - 1",
        "return x + 0",
        "return x + 2",
    }
    assert rows["return x - 1"]["why"] == "no test runs it"
    assert rows["return max(x, LIMIT)"]["by"] == "tests/test_toy.py::test_clipped"
    assert rows["LIMIT = 4"]["outcome"] == "killed"  # runs as the module is imported
    assert "-    return factor * x\n+    return factor / x" in done.stdout and done.returncode == 1
    assert (root / "diffusion/toy.py").read_text() == TOY

    (root / "tests/test_toy.py").write_text(TESTS + BETTER)
    (root / "explained.toml").write_text(EXPLAINED)
    done, rows = run("--again", out / "report.json")
    assert len(rows) == len(survived) and done.returncode == 0
    assert [now for now, row in rows.items() if row["outcome"] != "killed"] == ["return x + 0"]
    assert "100.0 %" in done.stdout
