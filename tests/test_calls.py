"""Every name that our files read from a module of ours is there, and every call of it has its arguments.

Names are read from the source, also those inside functions that no test runs, and compared with the imported modules.
"""

import ast
import importlib
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.library_files import ROOT, example_files, library_files

OURS = ("diffusion", "examples", "benchmarks", "tools")
LACKING = ("gradio", "torch")  # packages that only the playground and the peers of the timings need
FILES = {
    "library": library_files(),
    "configs": sorted((ROOT / "configs").rglob("*.py")),
    "examples": example_files(),
    "benchmarks": sorted((ROOT / "benchmarks").rglob("*.py")),
    "tools": sorted((ROOT / "tools").rglob("*.py")),
}


def imported(module: str, name: str | None = None) -> Any:
    """A module, or a name of it, which may be a module too; None if it needs a package of LACKING."""
    try:
        parent = importlib.import_module(module)
        return parent if name is None else getattr(parent, name)
    except ModuleNotFoundError as error:
        if error.name in LACKING:
            return None
        raise
    except AttributeError:
        return imported(f"{module}.{name}")


def imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The names that imports of our modules bind, and what each is bound to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    alias.asname or alias.name.partition(".")[0],
                    (alias.name if alias.asname else alias.name.partition(".")[0],),
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, (node.module, alias.name)


def only_bound_by_imports(tree: ast.Module) -> dict[str, Any]:
    """The objects of the names that one import binds, and nothing else in the file."""
    origins: dict[str, set[tuple[str, ...]]] = {}
    for name, origin in imports(tree):
        origins.setdefault(name, set()).add(origin)
    others = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    others |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    alone = {name: origin.pop() for name, origin in origins.items() if len(origin) == 1 and name not in others}
    return {name: imported(*origin) for name, origin in alone.items() if origin[0].partition(".")[0] in OURS}


def value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """What a name, or an attribute of a module, stands for; None if that cannot be told.

    Raises:
        AttributeError: A module lacks the attribute.
    """
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = value(node.value, names)
        return getattr(owner, node.attr) if isinstance(owner, types.ModuleType) else None
    return None


def bind(function: Any, call: ast.Call) -> None:
    """Gives a function the arguments of a call.

    Raises:
        TypeError: The arguments are not those of the function.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a module, or a class of C
        return
    named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    if starred or len(named) < len(call.keywords):
        signature.bind_partial(**named)  # what a star brings is not known
    else:
        signature.bind(*call.args, **named)


def slips(source: str) -> list[str]:
    """The lines of a file that read what a module lacks, or call a function with other arguments than it takes."""
    tree = ast.parse(source)
    names = only_bound_by_imports(tree)
    found = []
    for node in ast.walk(tree):
        try:
            if isinstance(node, ast.Attribute):
                value(node, names)
            elif isinstance(node, ast.Call) and (function := value(node.func, names)) is not None:
                bind(function, node)
        except (AttributeError, TypeError) as error:
            assert isinstance(node, ast.expr)
            found.append(f"line {node.lineno}: {ast.unparse(node)[:60]}: {error}")
    return found


@pytest.mark.extended
@pytest.mark.parametrize("part", FILES)
def test_what_is_read_from_our_modules_is_there_and_is_called_with_its_arguments(part):
    wrong = {str(path.relative_to(ROOT)): slips(path.read_text()) for path in FILES[part]}
    assert not (wrong := {path: lines for path, lines in wrong.items() if lines}), wrong


@pytest.mark.parametrize(
    "line, slip",
    [
        ("schedules.cosine()", None),
        ("schedules.cosines()", "cosines"),
        ("diffusion.schedules.cosines", "cosines"),
        ("schedules.cosine(width=3)", "unexpected keyword argument 'width'"),
        ("timesteps.plan()", "missing a required argument"),
        ("timesteps.plan(*rows)", None),
        ("timesteps.plan(*rows, width=3)", "unexpected keyword argument 'width'"),
        ("samplers.euler.step", None),  # an attribute of a function, which is not a module
    ],
)
def test_a_slip_inside_a_function_is_found(line, slip):
    source = (
        f"import diffusion\nfrom diffusion import samplers, schedules, timesteps\ndef run(rows):\n    return {line}\n"
    )
    lines = slips(source)
    assert lines == [] if slip is None else len(lines) >= 1 and all(slip in each for each in lines)


def test_a_name_that_a_function_binds_anew_is_left_alone():
    assert slips("from diffusion import schedules\ndef run(schedules):\n    return schedules.cosines()\n") == []
