"""Every function that the tables in docs/ list is one that a config can name, or that a command calls.

Read from the source: from every file of `diffusion/experiments` (the tables of names are among them) along what each
function refers to. What a member of a table of the docs refers to in its own table does not count: `ct` calls
`consistency_training`, and would not let a config name the parts of that.
"""

import ast
import functools
import pathlib
from collections.abc import Iterator

import pytest

from tools.docs import catalogue

ROOT = pathlib.Path(__file__).parents[2]
Place = tuple[str, str]  # a module, and a name at its top level
UNREACHED = {  # that neither a config names nor a command calls, and why
    "diffusion.guidance.windows": "a canvas larger than the network's pictures, which no run folder describes",
    "diffusion.samplers.denoising_error": "a table of a trained network's errors, which `ddpm` takes as numbers",
    "diffusion.timesteps.flux_shift": "a scheduler's folder takes mu alone, and shifts by it or by its exponential",
    "diffusion.timesteps.held": "of `videos.fill`, frames that go their own ways; `diffusion film` makes them together",
    "diffusion.schedules.per_leaf": "takes the shape of a user's pytree; docs/pytrees.md names one by --extend",
} | {
    f"diffusion.manifolds.{name}": "no recipe has points of it; a source of a user's own names its manifold"
    for name in ("lorentz", "packed", "poincare", "positive_definite", "product", "se3", "simplex")
}
SECTIONS = [section for sections in catalogue.PAGES.values() for section in sections]


@functools.cache
def file_of(module: str) -> pathlib.Path | None:
    path = ROOT / module.replace(".", "/")
    files = path.with_suffix(".py"), path / "__init__.py"
    return next((file for file in files if file.is_file()), None)


def nodes_below(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, as `ast.walk` yields them in another order and in three times the time."""
    left = [node]
    while left:
        node = left.pop()
        yield node
        for value in vars(node).values():
            if isinstance(value, list):
                left += [each for each in value if isinstance(each, ast.AST)]
            elif isinstance(value, ast.AST):
                left.append(value)


@functools.cache
def read(module: str) -> tuple[dict[str, list[ast.stmt]], dict[str, Place], list[ast.stmt]]:
    """The definitions of a module by name, what its imports bind, and its other statements."""
    tree = ast.parse(file_of(module).read_text())
    defined: dict[str, list[ast.stmt]] = {}
    bound = {}
    rest = []
    for node in nodes_below(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            bound |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            bound |= {alias.asname: (alias.name, "") for alias in node.names if alias.asname}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            defined.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in (target for target in targets if isinstance(target, ast.Name)):
                defined.setdefault(target.id, []).append(statement)
        elif not isinstance(statement, ast.Import | ast.ImportFrom):
            rest.append(statement)
    return defined, bound, rest


@functools.cache
def origin(module: str, name: str) -> Place | None:
    """Where a name of a module is defined; (module, "") for a module; None outside of the library."""
    if not module.startswith(("diffusion", "examples")) or file_of(module) is None:
        return None
    if not name:
        return module, ""
    defined, bound, _ = read(module)
    if name in defined:
        return module, name
    if name in bound and bound[name] != (module, name):
        return origin(*bound[name])
    return (f"{module}.{name}", "") if file_of(f"{module}.{name}") else None


def references(module: str, statements: list[ast.stmt]) -> Iterator[Place]:
    """The places that statements of a module refer to: names, and attributes of modules."""

    def of(node: ast.expr) -> Place | None:
        if isinstance(node, ast.Name):
            return origin(module, node.id)
        if isinstance(node, ast.Attribute) and (base := of(node.value)) and not base[1]:
            return origin(base[0], node.attr)
        return None

    for statement in statements:
        for node in nodes_below(statement):
            if isinstance(node, ast.Name | ast.Attribute) and (place := of(node)) and place[1]:
                yield place


@functools.cache
def members() -> dict[Place, tuple[str, int]]:
    """The listed functions, by where they are defined: their public name, and the number of their table."""
    return {
        (function.__module__, function.__name__): (f"{section.module}.{name}", table)
        for table, section in enumerate(SECTIONS)
        for name, function in catalogue.members(section).items()
    }


@functools.cache
def reached() -> set[Place]:
    files = sorted([*(ROOT / "diffusion" / "experiments").rglob("*.py"), *(ROOT / "examples").rglob("*.py")])
    modules = [".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for f in files]
    found: set[Place] = set()
    new: list[Place] = []
    for module in modules:
        defined, _, rest = read(module)
        new += [(module, name) for name in defined]
        new += references(module, rest)
    while new:
        place = new.pop()
        if place in found:
            continue
        found.add(place)
        table = members().get(place, ("", -1))[1]
        for other in references(place[0], read(place[0])[0][place[1]]):
            if other not in members() or members()[other][1] != table:
                new.append(other)
    return found


@pytest.mark.extended
def test_every_listed_function_is_named_or_called_but_for_the_exceptions():
    unreached = {name for place, (name, _) in members().items() if place not in reached()}
    assert unreached - UNREACHED.keys() == set(), "let a config name it, or a command call it"
    assert UNREACHED.keys() == unreached


def test_a_reference_is_followed_to_where_it_is_defined():
    module = "diffusion.recipe.sampling_names"
    assert origin(module, "samplers") == ("diffusion.samplers", "")
    assert origin("diffusion.samplers", "heun") == ("diffusion.samplers.runge_kutta", "heun")
    assert origin("diffusion.recipe.names", "functools") is None
    statements = ast.parse("def f():\n    return samplers.heun(), np.zeros(1)").body
    assert list(references(module, statements)) == [("diffusion.samplers.runge_kutta", "heun")]
