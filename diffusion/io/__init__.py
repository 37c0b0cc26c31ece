"""Files: written whole, read within limits, nothing executed, and by names that stay the same."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.io import (
        array_pickles,
        budgets,
        clips,
        content_credentials,
        failures,
        file_systems,
        files,
        json_lines,
        leaf_names,
        limits,
        local_certificates,
        mesh_files,
        npz,
        opener,
        pickles,
        pictures,
        schema,
        torch_files,
        wav,
    )

__all__ = [
    "array_pickles",
    "budgets",
    "clips",
    "content_credentials",
    "failures",
    "file_systems",
    "files",
    "json_lines",
    "leaf_names",
    "limits",
    "local_certificates",
    "mesh_files",
    "npz",
    "opener",
    "pickles",
    "pictures",
    "schema",
    "torch_files",
    "wav",
]

public.declare(__name__)
