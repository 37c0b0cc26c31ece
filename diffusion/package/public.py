"""The public names of a module: imported when first used, shown by `dir()`, and the nearest one to a misspelt name."""

__all__ = ["declare", "moved", "nearest"]

import ast
import difflib
import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

ONE_SLIP = 0.66  # the likeness of two names of three letters that differ in one; those of more letters are more alike
NONE: Mapping[str, str] = MappingProxyType({})


def nearest(name: object, names: Iterable[str], alike: float = 0.5) -> str | None:
    """The name that is most like a misspelt one; of the nearest, one of the same letters: "ddim" for "ddmi".

    An abbreviation gives the name of these initials: "variance_preserving" for "vp"; with one letter more only where no
    name differs in a single letter: "classifier_free" for "CFG".

    Args:
        name: the misspelt name.
        names: the names that exist.
        alike: share of letters that the two must have in common, in [0, 1].

    Returns:
        One of `names`, or None where none is near.
    """
    misspelt, names = str(name)[:100], list(names)
    short = misspelt.lower()
    initials = {candidate: "".join(word[:1] for word in candidate.lower().split("_")) for candidate in names}
    abbreviated = [candidate for candidate in names if len(initials[candidate]) > 1 and initials[candidate] in short]
    if exact := [candidate for candidate in abbreviated if initials[candidate] == short]:
        return exact[0]
    alike_in = lambda share: difflib.get_close_matches(misspelt, names, n=3, cutoff=share)
    if close := alike_in(max(ONE_SLIP, alike)):
        return max(close, key=lambda candidate: sorted(candidate) == sorted(misspelt))
    if longer := [candidate for candidate in abbreviated if len(short) == len(initials[candidate]) + 1]:
        return longer[0]
    return next(iter(alike_in(alike)), None)


def declare(
    module: str,
    renamed: Mapping[str, str] = NONE,
    elsewhere: Mapping[str, str] = NONE,
    known_as: Mapping[str, str] = NONE,
) -> None:
    """Makes public the names that a module lists in `__all__` or imports as themselves (`import heun as heun`).

    `dir()` shows them, and a misspelt one gives the nearest. What the module imports so under `TYPE_CHECKING`, where
    editors and type checkers read it, is imported when it is first used.

    Args:
        module: the module's `__name__`; the call stands below its imports and its `__all__`.
        renamed: {deprecated name: present name}; a deprecated name warns, and goes with the next minor version.
        elsewhere: {deprecated name: the module that has this name now}; it warns in the same way.
        known_as: {name that papers and other libraries use: the public name that the hint gives}; it is no name here.
    """
    namespace = vars(sys.modules[module])
    origins = dict(_reexports(namespace))
    listed = namespace["__all__"] = sorted({*namespace.get("__all__", ()), *origins})

    def __getattr__(name: str) -> Any:
        if name in renamed:
            present = renamed[name]
            warnings.warn(f"{module}.{name} is now called {present}", DeprecationWarning, stacklevel=2)
            return getattr(sys.modules[module], present)
        if name in elsewhere:
            warnings.warn(f"{module}.{name} is now {elsewhere[name]}.{name}", DeprecationWarning, stacklevel=2)
            return getattr(importlib.import_module(elsewhere[name]), name)
        if name not in listed:
            known = known_as.get(name.lower())
            near = None if name.startswith("__") else known or nearest(name, listed)  # hasattr(.., "__wrapped__")
            hint = f"did you mean {near!r}?" if near else f"dir({module}) lists its names"
            # Without `obj=None` Python adds a hint of its own to this one.
            raise AttributeError(f"module {module!r} has no attribute {name!r}; {hint}", name=name, obj=None)
        if origins[name] == module:
            return importlib.import_module(f"{module}.{name}")
        namespace[name] = getattr(importlib.import_module(origins[name]), name)
        return namespace[name]

    def __dir__() -> list[str]:
        return sorted({*listed, *(name for name in namespace if name.startswith("__"))})

    namespace["__getattr__"] = __getattr__
    namespace["__dir__"] = __dir__


class _Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by the names that they had."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}

    def place(self, name: str) -> str | None:
        """The present name of a module that moved, by itself or within its package; None for any other module."""
        if name in self.places:
            return self.places[name]
        package, _, rest = name.rpartition(".")
        return f"{inside}.{rest}" if package and (inside := self.place(package)) else None

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if self.place(fullname) else None

    def exec_module(self, module: Any) -> None:
        name = module.__name__
        place = str(self.place(name))
        warnings.warn(f"{name} is now {place}", DeprecationWarning, stacklevel=2)
        sys.modules[name] = importlib.import_module(place)


MOVED = _Moved()


def moved(places: Mapping[str, str]) -> None:
    """Keeps the deprecated names of modules for one minor version: importing one warns and gives the module itself.

    Args:
        places: {name that a module had: its present name}; the modules of a package move with it.
    """
    MOVED.places |= places
    if MOVED not in sys.meta_path:
        sys.meta_path.insert(0, MOVED)  # a package that moved would otherwise find its modules a second time


def _reexports(namespace: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The names that a package imports as themselves, and the module that each comes from."""
    if "__path__" not in namespace:
        return
    source = namespace["__loader__"].get_source(namespace["__name__"])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.name, str(node.module)) for alias in node.names if alias.asname == alias.name)


declare(__name__)
