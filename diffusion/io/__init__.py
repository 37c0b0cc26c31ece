"""Files: written whole, read within limits, nothing executed, and by names that stay the same."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.io import (
        array_pickles as array_pickles,
        budgets as budgets,
        clips as clips,
        content_credentials as content_credentials,
        failures as failures,
        file_systems as file_systems,
        files as files,
        film_child as film_child,
        film_lengths as film_lengths,
        films as films,
        gif_blocks as gif_blocks,
        json_files as json_files,
        json_lines as json_lines,
        leaf_names as leaf_names,
        leases as leases,
        limits as limits,
        local_certificates as local_certificates,
        mesh_files as mesh_files,
        npy as npy,
        npz as npz,
        opener as opener,
        parquet_batches as parquet_batches,
        pickles as pickles,
        pictures as pictures,
        safetensors_files as safetensors_files,
        schema as schema,
        snapshots as snapshots,
        store_copies as store_copies,
        stores as stores,
        torch_files as torch_files,
        wav as wav,
    )

public.declare(__name__)
