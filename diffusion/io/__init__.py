"""Files: written whole, read within limits, without pickle, and by names that stay the same."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.io import (
        failures,
        file_systems,
        files,
        json_lines,
        leaf_names,
        limits,
        npz,
        pictures,
        schema,
        torch_files,
    )

__all__ = [
    "failures",
    "file_systems",
    "files",
    "json_lines",
    "leaf_names",
    "limits",
    "npz",
    "pictures",
    "schema",
    "torch_files",
]

public.declare(__name__)
