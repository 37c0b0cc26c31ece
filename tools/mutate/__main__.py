"""Mutation testing: makes one small wrong change at a time, runs the tests of that code, and reports unnoticed changes.

    python -m tools.mutate diffusion/guidance diffusion/objectives/weightings.py --per-file 5 --seed 0
    python -m tools.mutate diffusion/adapters --per-folder 20 --seed 7    20 mutants of a folder, in minutes
    python -m tools.mutate --again runs/mutate/report.json          the survivors of a report, after new tests
    python -m tools.mutate diffusion/flows/flow_maps.py --per-file 1000   every mutant of a file

A mutant is a source file with one such change. The first run executes all tests of `make test` that import a mutant's
folder, and records which lines each test runs. This takes some minutes; later runs update the record, which is in OUT,
for changed files. Each mutant is then written into a scratch copy, in a process forked from one that has imported JAX.
Its tests run until the first failure, and those that probably fail, and are fast, come first. The working tree is only
read.

If no test fails, the mutant survives. Then a test is missing, or the mutant is equivalent: it computes the same. An
equivalent mutant gets an entry with the reason in tools/mutate/equivalent.toml, and counts as explained. The score is
killed / (mutants - explained). The command writes OUT/report.txt and OUT/report.json.
"""

import argparse
import ast
import collections
import json
import os
import pathlib
import signal
import sys
import time
import tomllib
from collections.abc import Iterable
from typing import Any

from tools.mutate import forks, reached
from tools.mutate.mutants import Mutant, digest, mutants, sample
from tools.mutate.reached import Case

LIBRARY = "diffusion"
ROOT = pathlib.Path(__file__).parents[2]
EXPLAINED = pathlib.Path(__file__).with_name("equivalent.toml")
FOLDERS = (
    "schedules",
    "timesteps",
    "objectives",
    "samplers",
    "guidance",
    "metrics",
    "training",
    "manifolds",
    "discrete",
    "data/shapes",
    "data/sound",
    "data/proteins",
    "flows",
    "sampling/caching",
    "sampling/steering",
    "sampling/watermarks",
    "adapters",
    "data/sources",
    "text_to_image",
    "io",
    "models/image_encoders",
    "experiments/run",
    "experiments/sampling",
    "experiments/evaluation",
    "experiments/prompt_benchmark",
    "experiments/remake",
)
FILES = (
    "parameterizations/clocks.py",
    "parameterizations/conversions.py",
    "parameterizations/network_outputs.py",
    "parameterizations/targets.py",
    "sampling/editing.py",
    "sampling/videos.py",
    "published/pipeline_kinds.py",
    "data/series_masks.py",
    "data/gaussian_processes.py",
    *sorted(str(path.relative_to(ROOT / LIBRARY)) for path in (ROOT / LIBRARY / "published").glob("*/pipeline.py")),
)
SOURCES = (*FOLDERS, *FILES)
SELECTIONS = {False: "not slow and not extended", True: "not slow"}  # {--extended: the marker expression of the tests}
START = 30.0  # seconds that a child may take in addition to its tests


def main(words: list[str] | None = None, root: pathlib.Path = ROOT) -> int:
    """Runs the command; returns 1 if a mutant survives without an explanation."""
    arguments = _arguments(words)
    out = pathlib.Path(arguments.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    root = forks.copy(root, out / "copy")  # a copy, since the working tree may change during the run
    chosen = _chosen(arguments, root)
    tests = sorted(str(path.relative_to(root)) for path in _tests(arguments, root, chosen))
    forks.prepare()
    forks.ask_for_flags(root)
    forks.preload(root, [root / path for path in [*tests, *{mutant.path for mutant in chosen}]])
    forks.keep_compiled(out / "compiled")
    _say(f"{len(chosen)} mutants, {len(tests)} test files")
    selection, records = SELECTIONS[arguments.extended], out / ("map_extended" if arguments.extended else "map")
    cases = reached.find(root, LIBRARY, tests, selection, records, arguments.jobs, arguments.limit * 10, _say)
    rows = _outcomes(root, chosen, cases, out, arguments)
    number = f"{arguments.per_file} a file" + (f", {arguments.per_folder} a folder" if arguments.per_folder else "")
    text = _report(rows, f"seed {arguments.seed}, {number}, {time.monotonic() - began:.0f} s")
    (out / "report.txt").write_text(text)
    (out / "report.json").write_text(json.dumps({"rows": rows, "seed": arguments.seed}, indent=1))
    _say(text)
    return int(any(row["outcome"] == "survived" for row in rows))


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tools.mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sources",
        nargs="*",
        default=[f"diffusion/{name}" for name in SOURCES],
        help="files and folders to change (`SOURCES` of tools/mutate)",
    )
    parser.add_argument("--per-file", type=int, default=5, help="number of mutants of a file, on different lines (5)")
    parser.add_argument("--per-folder", type=int, help="number of mutants of a folder, chosen among these (all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of mutants (0)")
    parser.add_argument(
        "--tests",
        nargs="+",
        help="test files and folders to run (those that import a folder with a mutant, or have its name)",
    )
    parser.add_argument("--jobs", type=int, default=2, help="number of processes at once (2)")
    parser.add_argument(
        "--limit",
        type=float,
        default=60.0,
        help="most seconds of tests for one mutant, counted by the times of the tests without it (60)",
    )
    parser.add_argument("--again", help="a report.json, whose survivors alone are tried again")
    parser.add_argument(
        "--extended",
        action="store_true",
        help="run the tests of make test-extended too, whose record takes ten times as long",
    )
    parser.add_argument(
        "--out", default="runs/mutate", help="folder for reports, the record of lines and scratch copies (runs/mutate)"
    )
    return parser.parse_args(words)


def _files(root: pathlib.Path, names: Iterable[str], pattern: str) -> Iterable[pathlib.Path]:
    for name in names:
        paths = sorted(root.glob(name))
        if not paths:
            raise SystemExit(f"{name}: no such file or folder below {root}")
        for path in paths:
            if path.is_dir():
                yield from sorted(path.rglob(pattern))
            elif path.match(pattern):
                yield path


def _chosen(arguments: argparse.Namespace, root: pathlib.Path) -> list[Mutant]:
    """The mutants to try."""
    if arguments.again:
        rows = json.loads(pathlib.Path(arguments.again).read_text())["rows"]
        names = {row["name"] for row in rows if row["outcome"] == "survived"}
        paths = sorted({row["path"] for row in rows if row["outcome"] == "survived"})
        every = (mutant for path in paths for mutant in mutants(path, (root / path).read_bytes()))
        return [mutant for mutant in every if mutant.name in names]
    folders: dict[pathlib.Path, list[Mutant]] = {}
    for name in arguments.sources:
        if pathlib.PurePath(name).parts[:1] != (LIBRARY,):
            raise SystemExit(f"{name}: not a path below {LIBRARY}/, such as {LIBRARY}/schedules")
    for path in _files(root, arguments.sources, "*.py"):
        source = path.read_bytes()
        every = mutants(str(path.relative_to(root)), source)
        folders.setdefault(path.parent, []).extend(sample(every, source, arguments.per_file, arguments.seed))
    lot = lambda mutant: digest(arguments.seed, mutant.name)
    return [mutant for group in folders.values() for mutant in sorted(group, key=lot)[: arguments.per_folder]]


def _tests(arguments: argparse.Namespace, root: pathlib.Path, chosen: list[Mutant]) -> Iterable[pathlib.Path]:
    """The test files to run: the named ones, or those that import a module of a mutant's folder, or share its path."""
    if arguments.tests:
        return _files(root, arguments.tests, "test_*.py")
    parents = {pathlib.PurePath(mutant.path).parent for mutant in chosen}
    beside = {".".join(parent.parts) for parent in parents} - {LIBRARY}
    beside |= {mutant.path.removesuffix(".py").replace("/", ".") for mutant in chosen}
    same = [root / "tests" / parent.relative_to(LIBRARY) for parent in parents if parent.name != LIBRARY]
    readers = [root / "tests" / name for name in reached.READERS]
    near = lambda path: path in readers or any(folder in path.parents for folder in same)
    public = _public_names(root)
    names = lambda path: {name for word in imported(path) for name in (word, public.get(word, word))}
    reads = lambda path: any(name == part or name.startswith(part + ".") for name in names(path) for part in beside)
    live = ("peers", "cluster")  # these tests need other libraries and programs, in separate environments
    files = (path for path in _files(root, ["tests"], "test_*.py") if path.parent.name not in live)
    return (path for path in files if near(path) or reads(path))


def _public_names(root: pathlib.Path) -> dict[str, str]:
    """{a name that a package of the library makes public: its name where it is defined}."""
    names = {}
    for path in (root / LIBRARY).rglob("__init__.py"):
        package = ".".join(path.relative_to(root).parent.parts)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {
                    f"{package}.{alias.asname or alias.name}": f"{node.module}.{alias.name}" for alias in node.names
                }
    return names


def imported(path: pathlib.Path) -> set[str]:
    """Every module that a file imports, and every name that it imports from one."""
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _explained() -> dict[tuple[str, str, str], str]:
    entries = tomllib.loads(EXPLAINED.read_text())["mutant"]
    return {(entry["path"], entry["was"], entry["now"]): entry["why"] for entry in entries}


def _outcomes(
    root: pathlib.Path, chosen: list[Mutant], cases: list[Case], out: pathlib.Path, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The outcome of each mutant, as a row of the report, in the order of the mutants."""
    explained = _explained()
    rows = {}
    work = []
    for mutant in chosen:
        row = {
            "name": mutant.name,
            "path": mutant.path,
            "line": mutant.line,
            "kind": mutant.kind,
            "was": mutant.was,
            "now": mutant.now,
            "diff": mutant.diff((root / mutant.path).read_bytes()),
        }
        rows[mutant] = row
        if why := explained.get((mutant.path, mutant.was, mutant.now)):
            row |= {"outcome": "explained", "why": why}
            continue
        tests, seconds, left = [], 0.0, 0
        for cases_of_file in reached.order(cases, mutant):
            names = []
            for case in cases_of_file:
                if seconds + case.seconds > arguments.limit and seconds:
                    left += 1
                else:
                    seconds += case.seconds
                    names.append(case.name)
            tests += [names] if names else []
        row |= {"tests": sum(map(len, tests)), "left": left}
        if tests:
            work.append((mutant, tests, seconds))
        else:
            row |= {"outcome": "survived", "why": "no test runs it"}

    copies = [forks.copy(root, out / f"copy_{k}") for k in range(arguments.jobs)]
    selection = SELECTIONS[arguments.extended]
    do = lambda piece, place: _try(piece[0], piece[1], selection, root, place)
    for done in forks.run_all(work, do, copies, lambda piece: START + 3 * piece[2]):
        mutant = done.work[0]
        row = rows[done.work[0]]
        row["seconds"] = round(done.seconds, 1)
        if done.late:
            row |= {"outcome": "killed", "by": "time limit"}
        elif done.answer is None:
            row |= {"outcome": "killed", "by": "the end of the process", "said": done.said}
        elif done.answer["by"]:
            row |= {"outcome": "killed", "by": done.answer["by"]}
        else:
            row |= {"outcome": "survived", "why": f"{row['tests']} tests pass, {row['left']} were left out"}
        where = f"{mutant.path}:{mutant.line} {mutant.name}"
        _say(f"{row['outcome']:>9} {row['seconds']:5.1f} s  {where}  {row.get('by', '')}")
    return list(rows.values())


def _try(
    mutant: Mutant, tests: list[list[str]], selection: str, root: pathlib.Path, place: pathlib.Path
) -> dict[str, str]:
    """Runs a mutant's tests in a child: {"by": the first test that fails}, or {"by": ""} if none fails."""
    failed: list[str] = []

    class Plugin:
        def pytest_runtest_logreport(self, report):
            if report.failed:
                failed.append(report.nodeid)

    path = place / mutant.path
    source = (root / mutant.path).read_bytes()
    path.write_bytes(mutant.applied(source))
    try:
        for names in tests:
            code = forks.pytest_run(names, selection, Plugin())
            if code:
                return {"by": failed[0] if failed else f"pytest of {names[0]} ends with {code}"}
        return {"by": ""}
    finally:
        path.write_bytes(source)


def _report(rows: list[dict[str, Any]], heading: str) -> str:
    """The text of report.txt: the counts by folder, and every survivor with its diff."""
    table: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for row in rows:
        parent = str(pathlib.PurePath(row["path"]).parent)
        for name in (row["path"] if parent == LIBRARY else parent, "all"):
            table[name][row["outcome"]] += 1
    lines = [heading, "", f"{'':34} mutants killed explained survived  score"]
    for name in [*sorted(table.keys() - {"all"}), *(["all"] if rows else [])]:
        count = table[name]
        judged = count.total() - count["explained"]
        score = f"{100 * count['killed'] / judged:5.1f} %" if judged else "    -"
        counts = f"{count['killed']:6} {count['explained']:9} {count['survived']:8}"
        lines.append(f"{name:34} {count.total():7} {counts} {score}")
    for row in rows:
        if row["outcome"] == "survived":
            where = f"{row['path']}:{row['line']} {row['name']}"
            lines += ["", f"survived: {where} ({row['kind']}; {row['why']})", row["diff"]]
    return "\n".join(lines) + "\n"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    os.nice(10)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children end too
    sys.exit(main())
