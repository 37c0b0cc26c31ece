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
        film_child,
        film_lengths,
        films,
        gif_blocks,
        json_lines,
        leaf_names,
        limits,
        local_certificates,
        mesh_files,
        npy,
        npz,
        opener,
        parquet_batches,
        pickles,
        pictures,
        safetensors_files,
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
    "film_child",
    "film_lengths",
    "films",
    "gif_blocks",
    "json_lines",
    "leaf_names",
    "limits",
    "local_certificates",
    "mesh_files",
    "npy",
    "npz",
    "opener",
    "parquet_batches",
    "pickles",
    "pictures",
    "safetensors_files",
    "schema",
    "torch_files",
    "wav",
]

public.declare(__name__)
