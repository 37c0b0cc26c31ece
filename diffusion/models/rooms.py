"""Reads tables from the packages of published families, which are called rooms; `diffusion.published` names them.

The other parts of the library do not import a room. They read a table of all rooms here, by the name of a file in the
rooms and the name of the table in it:

    FAMILIES = rooms.Entries("table", "FAMILIES")       # {name of a class: Family}, of every room that has a table.py
"""

__all__ = ["Entries"]

import collections
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from diffusion.package import public

PLACE = "diffusion.published"


class Entries(collections.UserDict[str, Any]):
    """One table of all rooms as a dictionary.

    It is read on its first use, since the rooms import the modules that use it.
    """

    def __init__(self, file: str, table: str, others: Mapping[str, Any] = public.NONE):
        """The table of that name in each room's file of that name.

        Args:
            file: the name of a room's file, "network", "table" or "pipeline"; files whose names end with it, such as
                "control_net_table", count too.
            table: the name of a mapping in the file.
            others: entries that no room has, which follow the entries of the rooms.
        """
        self.file, self.table, self.others = file, table, others

    @functools.cached_property
    def data(self) -> dict[str, Any]:  # type: ignore[override]  # of a UserDict, which makes it at once
        """The entries."""
        entries: dict[str, Any] = {}
        for room in importlib.import_module(PLACE).__all__:
            folder = getattr(importlib.import_module(f"{PLACE}.{room}"), "__path__", ())
            for file in sorted(module.name for module in pkgutil.iter_modules(folder)):
                if file == self.file or file.endswith(f"_{self.file}"):
                    entries |= getattr(importlib.import_module(f"{PLACE}.{room}.{file}"), self.table, {})
        return entries | dict(self.others)


public.declare(__name__)
