"""The public names of a module: imported when first used, shown by `dir()`, and the nearest one to a misspelt name."""

__all__ = ["declare", "nearest"]

import difflib
import importlib
import sys
import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

NONE: Mapping[str, Any] = MappingProxyType({})


def nearest(name: object, names: Iterable[str], alike: float = 0.5) -> str | None:
    """The name that is most like a misspelt one; of the nearest, one of the same letters: "ddim" for "ddmi".

    Args:
        name: the misspelt name.
        names: the names that exist.
        alike: share of letters that the two must have in common, in [0, 1].

    Returns:
        One of `names`, or None where none is near.
    """
    misspelt = str(name)[:100]
    close = difflib.get_close_matches(misspelt, list(names), n=3, cutoff=alike)
    return max(close, key=lambda each: sorted(each) == sorted(misspelt), default=None)


def declare(module: str, origins: Mapping[str, tuple[str, ...]] = NONE, renamed: Mapping[str, str] = NONE) -> None:
    """Makes the names of a module's `__all__` its public ones: `dir()` shows them; a misspelt one gives the nearest.

    Names that the module neither defines nor imports are imported when they are first used; the module lists these
    imports under `TYPE_CHECKING`, for editors and type checkers.

    Args:
        module: the module's `__name__`; `__all__` stands above the call.
        origins: {submodule: the names of `__all__` that it defines}; the other names are submodules.
        renamed: {deprecated name: present name}; a deprecated name warns, and goes with the next minor version.
    """
    namespace = vars(sys.modules[module])
    listed = namespace["__all__"]
    submodule = {name: origin for origin, names in origins.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name in renamed:
            present = renamed[name]
            warnings.warn(f"{module}.{name} is now called {present}", DeprecationWarning, stacklevel=2)
            return getattr(sys.modules[module], present)
        if name not in listed:
            near = None if name.startswith("__") else nearest(name, listed)  # hasattr(module, "__wrapped__") is common
            hint = f"did you mean {near!r}?" if near else f"dir({module}) lists its names"
            # Without `obj=None` Python adds a hint of its own to this one.
            raise AttributeError(f"module {module!r} has no attribute {name!r}; {hint}", name=name, obj=None)
        if name not in submodule:
            return importlib.import_module(f"{module}.{name}")
        namespace[name] = getattr(importlib.import_module(f"{module}.{submodule[name]}"), name)
        return namespace[name]

    def __dir__() -> list[str]:
        return sorted({*listed, *(name for name in namespace if name.startswith("__"))})

    namespace["__getattr__"] = __getattr__
    namespace["__dir__"] = __dir__


declare(__name__)
