"""Finds out which test runs which lines, by running each test file on a library that records them."""

import ast
import builtins
import collections.abc
import functools
import glob
import inspect
import json
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tools.mutate.forks import copy, pytest_run, run_all
from tools.mutate.mutants import Mutant, digest

FORMAT = 2
# The files whose tests read what the import of a module defines: signatures, old names, tables, published figures.
READERS = ("test_defaults.py", "test_renamed.py", "test_remakes.py", "test_public.py", "test_fold_table.py")


class Case(NamedTuple):
    """One test that passes, and the lines of the library that it runs.

    Attributes:
        name: pytest's name of the test, with the path from the root.
        file: the path of the test file.
        seconds: the time of the test in the recorded run.
        lines: {path: lines} of the test itself, without its fixtures and the import of its file.
        around: {path: lines} of its fixtures and of the import of its file.
    """

    name: str
    file: str
    seconds: float
    lines: dict[str, frozenset[int]]
    around: dict[str, frozenset[int]]


class _Hits(ast.NodeTransformer):
    """Puts `__reached__(path, line)` before every statement and into every lambda of a module."""

    def __init__(self, path: str):
        self.path = path

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        self.generic_visit(node)
        node.body = ast.BoolOp(ast.Or(), [self._hit(node), node.body])  # the call returns None
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            if isinstance(statements := getattr(node, field, None), list):
                setattr(node, field, [new for old in statements for new in self._with_hit(old)])
        return node

    def _with_hit(self, statement: ast.stmt) -> list[ast.stmt]:
        if isinstance(statement, (ast.Import, ast.ImportFrom)) or _is_text(statement):
            return [statement]
        return [ast.Expr(self._hit(statement)), statement]

    def _hit(self, node) -> ast.Call:
        return ast.Call(ast.Name("__reached__", ast.Load()), [ast.Constant(self.path), ast.Constant(node.lineno)], [])


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def instrumented(path: str, source: str) -> str:
    """The source of a module that calls `builtins.__reached__`, if there is such a function, for each line that runs.

    Args:
        path: the path that the calls pass.
        source: the source of the module.
    """
    tree = ast.fix_missing_locations(_Hits(path).visit(ast.parse(source)))
    definition = "__reached__ = getattr(__import__('builtins'), '__reached__', lambda *_: None)"
    first = 1 if tree.body and _is_text(tree.body[0]) else 0
    tree.body[first:first] = ast.parse(definition).body
    return ast.unparse(tree)


class _Lines:
    """The lines that ran since the last call of `taken`."""

    def __init__(self):
        self.lines: set[tuple[str, int]] = set()
        builtins.__reached__ = lambda path, line: self.lines.add((path, line))  # pyright: ignore

    def taken(self) -> dict[str, list[int]]:
        lines = self.lines
        self.lines = set()
        by_path: dict[str, list[int]] = {}
        for path, line in sorted(lines):
            by_path.setdefault(path, []).append(line)
        return by_path


class _Recorder:
    """The pytest plugin that assigns the recorded lines to the test or fixture that ran them."""

    def __init__(self, reached: _Lines):
        self.reached, self.collect, self.cases, self.fixtures = reached, {}, {}, {}

    def pytest_collection_finish(self, session):
        self.collect = self.reached.taken()

    def pytest_fixture_setup(self, fixturedef, request):
        self._keep(fixturedef)

    def _keep(self, fixturedef) -> None:
        call = fixturedef.func
        key = f"{fixturedef.baseid}::{fixturedef.argname}"
        if getattr(call, "recorded", False):
            return

        def merge() -> None:
            lines = self.fixtures.setdefault(key, {})
            for path, numbers in self.reached.taken().items():
                lines[path] = sorted({*lines.get(path, ()), *numbers})

        def begun(*args, **kwargs):
            self.reached.taken()
            value = call(*args, **kwargs)
            generator = inspect.isgenerator(value)
            result = next(value) if generator else value
            merge()
            return result, value if generator else ()

        def recorded(*args, **kwargs):
            result, rest = begun(*args, **kwargs)
            yield result
            yield from rest

        fixturedef.func = functools.wraps(call)(recorded)
        fixturedef.func.recorded = True

    def pytest_runtest_logstart(self, nodeid, location):
        _forget()
        self.reached.taken()

    def pytest_runtest_makereport(self, item, call):
        if call.when == "call":
            fixtures = [
                f"{d.baseid}::{d.argname}"
                for name in item.fixturenames
                for d in item._fixtureinfo.name2fixturedefs.get(name, ())
            ]
            self.cases[item.nodeid] = {
                "passed": call.excinfo is None,
                "seconds": call.duration,
                "lines": self.reached.taken(),
                "fixtures": fixtures,
            }


def _forget() -> None:
    """Empties the caches and traces of our functions, so that a test runs all the lines that it would run alone."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("diffusion", "tests"):
            for value in vars(module).values():
                for clear in ("cache_clear", "clear_cache"):  # functools' and JAX's
                    if isinstance(value, collections.abc.Callable) and hasattr(type(value), clear):
                        getattr(value, clear)()


def _trace(test_file: str, place: pathlib.Path, selection: str) -> dict[str, Any]:
    recorder = _Recorder(_Lines())
    pytest_run([test_file, "--maxfail=1000000"], selection, recorder)
    return {"collect": recorder.collect, "cases": recorder.cases, "fixtures": recorder.fixtures}


def find(
    root: pathlib.Path,
    library: str,
    tests: Iterable[str],
    selection: str,
    folder: pathlib.Path,
    jobs: int,
    limit: float,
    say: Callable[[str], None],
) -> list[Case]:
    """Every test that passes, with the lines that it runs.

    A test file runs only if there is no record of it, or if it or a file that it runs has changed since.

    Args:
        root: the repository's folder.
        library: the folder in it whose lines are recorded.
        tests: the test files, as paths from the root.
        selection: the marker expression that selects the tests in them.
        folder: the folder of the records, one file for each test file.
        jobs: the number of children at once.
        limit: the seconds that one test file may take.
        say: a function that prints a line.
    """
    prints: dict[str, str] = {}

    def printed(path: str) -> str:
        if path not in prints:
            prints[path] = digest((root / path).read_text()) if (root / path).is_file() else ""
        return prints[path]

    folder.mkdir(parents=True, exist_ok=True)
    kept = lambda test: folder / (test.replace("/", ".") + ".json")
    tests = list(tests)
    known = {}
    stale = []
    for test in tests:
        record = json.loads(kept(test).read_text()) if kept(test).is_file() else {}
        if record.get("format") == FORMAT and all(printed(path) == was for path, was in record["prints"].items()):
            known[test] = record
        else:
            stale.append(test)
    if stale:
        copies = [copy(root, folder.parent / f"map_{k}") for k in range(jobs)]
        for place in copies:
            files = glob.glob(f"{place}/{library}/**/*.py", recursive=True)  # links are followed
            for path in map(pathlib.Path, files):
                path.write_text(instrumented(str(path.relative_to(place)), path.read_text()))
        trace = functools.partial(_trace, selection=selection)
        for done in run_all(stale, trace, copies, lambda _: limit):
            if done.answer is None:
                say(f"  {done.work}: {'late' if done.late else done.said[-300:]}: left out")
                continue
            record = done.answer | {"format": FORMAT}
            parts = [record["collect"], *record["fixtures"].values()]
            parts += [case["lines"] for case in record["cases"].values()]
            touched = {done.work, *(path for part in parts for path in part)}
            record["prints"] = {path: printed(path) for path in sorted(touched)}
            kept(done.work).write_text(json.dumps(record))
            known[done.work] = record
            say(f"  {done.work}: {len(record['cases'])} tests, {done.seconds:.0f} s")
    return [case for test in tests if test in known for case in _cases(test, known[test])]


def _cases(test: str, record: dict[str, Any]) -> Iterable[Case]:
    for name, case in record["cases"].items():
        if case["passed"]:
            around: dict[str, set[int]] = {path: set(lines) for path, lines in record["collect"].items()}
            for fixture in case["fixtures"]:
                for path, lines in record["fixtures"].get(fixture, {}).items():
                    around.setdefault(path, set()).update(lines)
            sets = ({path: frozenset(lines) for path, lines in part.items()} for part in (case["lines"], around))
            yield Case(name, test, case["seconds"], *sets)


def order(cases: Iterable[Case], mutant: Mutant) -> list[list[Case]]:
    """The tests that run a mutant's lines, grouped by test file; those that probably fail, and are fast, come first.

    Fast tests that run few lines come first. A test whose fixtures or imports alone run the changed lines comes later.
    If some tests run lines of the mutant's file themselves, tests whose fixtures or imports alone do so are left out,
    except for a change of a constant, which a test may read without running a line of the file. `READERS` test lines
    that an import runs, such as the defaults of arguments, although they call no function. If a test imports a module,
    those after it in the same file read it too.
    """
    cases = list(cases)
    stem = pathlib.PurePath(mutant.path).stem
    header = range(mutant.lines[0], mutant.lines[1] + 1)
    within = range(mutant.body[0], mutant.body[1] + 1)
    runs_header = lambda lines: not lines.get(mutant.path, frozenset()).isdisjoint(header)
    readers = {case.file for case in cases if pathlib.PurePath(case.file).name in READERS}
    readers &= {case.file for case in cases if runs_header(case.lines) or runs_header(case.around)}
    ranked: list[tuple[bool, float, str, Case]] = []
    for case in cases:
        lines, around = (part.get(mutant.path, frozenset()) for part in (case.lines, case.around))
        reads = case.file in readers
        direct = reads or any(line in lines for line in within)
        if not direct and not any(line in around for line in within):
            continue
        size = sum(map(len, case.lines.values())) + 20
        cost = (case.seconds + 0.05) * size * (1.0 if direct else 3.0)
        if stem in case.file or stem in case.name:
            cost /= 4
        ranked.append((not lines and not reads, cost, case.name, case))
    ranked.sort(key=lambda entry: entry[:3])
    files: dict[str, list[Case]] = {}
    for unlikely, _, _, case in ranked:
        if unlikely and not ranked[0][0] and not mutant.constant:
            break
        files.setdefault(case.file, []).append(case)
    return list(files.values())
