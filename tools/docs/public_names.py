"""Reads the public names of the library from its source: for each name its module, its kind, and its first sentence.

The names in a module's `__all__` are public, and so are the names that a package imports as themselves (`from a import
b as b`). A module without either makes its functions, classes and types public, and those constants that have a
docstring. Names and modules that begin with an underscore are not public. A name that a package imports from one of
its modules is public only in the package.
"""

import ast
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
UNLISTED = ("experiments", "launch", "recipe")  # commands and their configs; --help and the pages describe them
TYPE = re.compile("[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*")  # Denoiser = Callable[...], not DENOISERS = {...}


class Name(NamedTuple):
    """A public name.

    Attributes:
        module: the module where the name is public, e.g. "diffusion.samplers".
        name: the name in that module, e.g. "heun".
        kind: "function", "class", "type" or "constant".
        sentence: the first sentence of its docstring, without the full stop; "" if there is no docstring.
        path: the path of its definition, e.g. "diffusion.samplers.runge_kutta.heun".
    """

    module: str
    name: str
    kind: str
    sentence: str
    path: str


class _Module(NamedTuple):
    name: str
    sentence: str
    defined: dict[str, Name]  # all names that the module defines at its top level, public or not
    taken: dict[str, tuple[str, str]]  # {public name that is imported: (module that defines it, its name there)}
    listed: tuple[str, ...] | None  # the names of `__all__`, and those that a package imports as themselves

    def public(self) -> set[str]:
        """The names that the module lists; without a list, those without an underscore that are no bare constants."""
        if self.listed is not None:
            return set(self.listed)
        known = {name for name, what in self.defined.items() if what.kind != "constant" or what.sentence}
        return {name for name in known if not name.startswith("_")}


def public_names(root: pathlib.Path = ROOT, package: str = "diffusion") -> dict[str, list[Name]]:
    """All public names of a package, by the module where they are public.

    Args:
        root: the folder that contains the package.
        package: the package's name.

    Returns:
        {module: its public names}, sorted; modules without public names are left out.
    """
    every = _modules(root, package)
    taken = {
        place for module in every.values() for place in module.taken.values() if place[0].startswith(f"{module.name}.")
    }
    public = {}
    for module in every.values():
        names = [
            every[place[0]].defined[place[1]]._replace(module=module.name, name=name)
            for name, place in module.taken.items()
            if place[0] in every and place[1] in every[place[0]].defined
        ]
        names += [
            name
            for name in module.defined.values()
            if name.name in module.public() and not name.name.startswith("_") and (module.name, name.name) not in taken
        ]
        if names:
            public[module.name] = sorted(names, key=lambda name: name.name.casefold())
    return dict(sorted(public.items()))


def module_sentences() -> dict[str, str]:
    """The first sentence of the docstring of each public module, by its name."""
    return {name: module.sentence for name, module in sorted(_modules(ROOT, "diffusion").items())}


def sentence(docstring: str | None) -> str:
    """The first sentence of a docstring, without its full stop."""
    paragraph = " ".join((docstring or "").strip().split("\n\n")[0].split())
    return re.split(r"(?<![A-Z.])\.\s|[.:,]?$", paragraph, maxsplit=1)[0]


def _modules(root: pathlib.Path, package: str) -> dict[str, _Module]:
    files = [
        path
        for path in (root / package).rglob("*.py")
        if not any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(root).parts)
        and path.relative_to(root).parts[1] not in UNLISTED
    ]
    read = [_read(path, path.relative_to(root)) for path in files]
    return {module.name: module for module in read}


def _read(path: pathlib.Path, relative: pathlib.Path) -> _Module:
    name = ".".join(part for part in relative.with_suffix("").parts if part != "__init__")
    tree = ast.parse(path.read_text(), str(path))
    defined, taken, listed = {}, {}, None
    body = [*tree.body, *_for_type_checkers(tree)]
    for statement, after in zip(body, [*body[1:], None]):
        if isinstance(statement, ast.ImportFrom):
            taken |= {alias.asname or alias.name: (statement.module or "", alias.name) for alias in statement.names}
            if itself := [alias.name for alias in statement.names if alias.asname == alias.name]:
                listed = (*(listed or ()), *itself)
        for target, kind, docstring in _definitions(statement, after):
            if target == "__all__":
                listed = (*(listed or ()), *ast.literal_eval(statement.value))  # type: ignore[attr-defined]
            elif target not in defined or docstring:  # of the overloads of a function, the one with a docstring counts
                defined[target] = Name(name, target, kind, sentence(docstring), f"{name}.{target}")
    taken = {name: place for name, place in taken.items() if name in (listed or ())}
    return _Module(name, sentence(ast.get_docstring(tree)), defined, taken, listed)


def _for_type_checkers(tree: ast.Module) -> Iterator[ast.stmt]:
    """The imports of a package that imports its names on their first use; type checkers alone read them.

    `diffusion.public` explains such packages.
    """
    for statement in tree.body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            yield from statement.body


def _definitions(statement: ast.stmt, after: ast.stmt | None) -> Iterator[tuple[str, str, str | None]]:
    """The (name, kind, docstring) of everything that a statement defines.

    The docstring of an assignment is the text that follows it.
    """
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        kind = "class" if isinstance(statement, ast.ClassDef) else "function"
        yield statement.name, kind, ast.get_docstring(statement)
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        for target in targets:
            if isinstance(target, ast.Name) and not ast.unparse(statement).startswith(f"{target.id} = TypeVar("):
                kind = "type" if TYPE.fullmatch(target.id) else "constant"
                yield target.id, kind, text if isinstance(text, str) else None
