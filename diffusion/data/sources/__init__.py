"""Sources of records, one file for each format; each function returns a `Source`.

- `tfds_records`: a dataset that TFDS has prepared, by its name.
- `picture_files`: a folder of class folders; a folder of pictures with a table, or a text beside each.
- `tar_files`: WebDataset's tar shards; `parquet_files`: Hugging Face's layout; `record_files`: ArrayRecord.
- `array_files`: the arrays of a .npz or .npy file, or of a folder of .npy files, mapped into memory.
- `sequences`: any Python sequence of records; `iterated`: any iterable; `of_python`: the choice between them, and
  Hugging Face's datasets. `stream_values`: the values that an iterable yields.
- `spiral_points`: synthetic points in the plane; `sound_clips`: notes of synthetic instruments, and WAV files.
- `clip_files`: films (GIF, MP4, WebM) and folders of numbered pictures.
- `solid_records`: synthetic solids in space; `mesh_records`: a folder of meshes.
- `series`: series of which a part is given, from a Gaussian process or from the user's files.
- `file_streams`: tar shards and Parquet from their beginning to their end.
- `combined`: mixtures by weight, and records that pass a filter; `combined_streams`: the same for streams.
- `controlled_pictures`: pictures with a control that is computed from each, or with a mask.
- `paced_clips`: clips cut out of longer ones at several frame rates.
- `streams`: sources without random access.
- `table_records`: the reader that all formats of files share; `columns`: the columns of the example, label and text.
- `splits`: the parts of a source of files; `spec`: the description of a source's records.

A new format is a function that returns a `Source`, and a line in `diffusion.experiments.config.names.SOURCES`.
"""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.data.sources import (
        array_files,
        clip_files,
        columns,
        combined,
        combined_streams,
        controlled_pictures,
        file_streams,
        iterated,
        made_drawings,
        mesh_records,
        of_python,
        paced_clips,
        parquet_files,
        picture_files,
        protein_chains,
        record_files,
        sequences,
        series,
        solid_records,
        sound_clips,
        spec,
        spiral_points,
        splits,
        stream_values,
        streams,
        table_records,
        tar_files,
        tfds_records,
    )
    from diffusion.data.sources.array_files import arrays
    from diffusion.data.sources.clip_files import clip_folder, clip_shards
    from diffusion.data.sources.combined import filtered, mixture
    from diffusion.data.sources.controlled_pictures import controlled, painted
    from diffusion.data.sources.file_streams import parquet_stream, tar_stream
    from diffusion.data.sources.made_drawings import arranged_drawings, drawings, moving_drawings
    from diffusion.data.sources.manifold_points import rotation_mixture, sphere_mixture, torsion_mixture
    from diffusion.data.sources.mesh_records import mesh_clouds
    from diffusion.data.sources.of_python import huggingface
    from diffusion.data.sources.paced_clips import paced
    from diffusion.data.sources.parquet_files import parquet
    from diffusion.data.sources.picture_files import class_folders, picture_folder
    from diffusion.data.sources.protein_chains import ideal_folds
    from diffusion.data.sources.record_files import array_records
    from diffusion.data.sources.series import gaussian_series, series_windows
    from diffusion.data.sources.solid_records import solid_distances, solid_points
    from diffusion.data.sources.sound_clips import instruments, wav_folder
    from diffusion.data.sources.spec import DamagedRecord, DataSpec, Leaf, Source, is_picture
    from diffusion.data.sources.spiral_points import spirals
    from diffusion.data.sources.tar_files import tar_shards
    from diffusion.data.sources.tfds_records import Records, column, describe, open_source, shape, tfds

__all__ = [
    "DamagedRecord",
    "DataSpec",
    "Leaf",
    "Records",
    "Source",
    "arranged_drawings",
    "array_files",
    "array_records",
    "arrays",
    "class_folders",
    "clip_files",
    "clip_folder",
    "clip_shards",
    "column",
    "columns",
    "combined",
    "combined_streams",
    "controlled",
    "controlled_pictures",
    "describe",
    "drawings",
    "file_streams",
    "filtered",
    "gaussian_series",
    "huggingface",
    "ideal_folds",
    "instruments",
    "is_picture",
    "iterated",
    "made_drawings",
    "mesh_clouds",
    "mesh_records",
    "mixture",
    "moving_drawings",
    "of_python",
    "open_source",
    "paced",
    "paced_clips",
    "painted",
    "parquet",
    "parquet_files",
    "parquet_stream",
    "picture_files",
    "picture_folder",
    "protein_chains",
    "record_files",
    "rotation_mixture",
    "sequences",
    "series",
    "series_windows",
    "shape",
    "solid_distances",
    "solid_points",
    "solid_records",
    "sound_clips",
    "spec",
    "sphere_mixture",
    "spiral_points",
    "spirals",
    "splits",
    "stream_values",
    "streams",
    "table_records",
    "tar_files",
    "tar_shards",
    "tar_stream",
    "tfds",
    "tfds_records",
    "torsion_mixture",
    "wav_folder",
]

public.declare(
    __name__,
    {
        "array_files": ("arrays",),
        "clip_files": ("clip_folder", "clip_shards"),
        "combined": ("filtered", "mixture"),
        "controlled_pictures": ("controlled", "painted"),
        "made_drawings": ("arranged_drawings", "drawings", "moving_drawings"),
        "file_streams": ("parquet_stream", "tar_stream"),
        "paced_clips": ("paced",),
        "parquet_files": ("parquet",),
        "mesh_records": ("mesh_clouds",),
        "manifold_points": ("rotation_mixture", "sphere_mixture", "torsion_mixture"),
        "of_python": ("huggingface",),
        "picture_files": ("class_folders", "picture_folder"),
        "protein_chains": ("ideal_folds",),
        "record_files": ("array_records",),
        "series": ("gaussian_series", "series_windows"),
        "solid_records": ("solid_distances", "solid_points"),
        "sound_clips": ("instruments", "wav_folder"),
        "spec": ("DamagedRecord", "DataSpec", "Leaf", "Source", "is_picture"),
        "spiral_points": ("spirals",),
        "tar_files": ("tar_shards",),
        "tfds_records": ("Records", "column", "describe", "open_source", "shape", "tfds"),
    },
)
