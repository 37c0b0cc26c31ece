"""Sources of records, one file for each format; each function returns a `Source`.

- `tfds_records`: a dataset that TFDS has prepared, by its name.
- `picture_files`: a folder of class folders; a folder of pictures with a table, or a text beside each.
- `tar_files`: WebDataset's tar shards; `parquet_files`: Hugging Face's layout; `record_files`: ArrayRecord.
- `array_files`: the arrays of a .npz or .npy file, or of a folder of .npy files, mapped into memory.
- `sequences`: any Python sequence of records; `iterated`: any iterable; `python_objects`: the choice between these two,
  and Hugging Face's datasets. `stream_values`: the values that an iterable yields.
- `spiral_points`: synthetic points in the plane; `manifold_points`: synthetic points on manifolds.
- `sound_clips`: notes of synthetic instruments, and WAV files.
- `made_drawings`: synthetic drawings of shapes; `protein_chains`: synthetic backbones of proteins.
- `clip_files`: films (GIF, MP4, WebM) and folders of numbered pictures.
- `solid_records`: synthetic solids in space; `mesh_records`: a folder of meshes.
- `text_windows`: windows of characters of prose, and of a file.
- `series`: partly observed series, from a Gaussian process or from the user's files.
- `file_streams`: tar shards and Parquet from their beginning to their end.
- `combined`: mixtures by weight, and records that pass a filter; `combined_streams`: the same for streams.
- `controlled_pictures`: pictures, each with a control that is computed from it, or with a mask.
- `preference_pairs`: pairs of examples of which the second was preferred less.
- `paced_clips`: clips that are cut out of longer clips at several frame rates.
- `streams`: sources without random access.
- `process_records`: records of any source, read by worker processes.
- `table_records`: the reader that all formats of files share; `columns`: the columns of the example, label and text.
- `splits`: the parts of a source of files; `spec`: the description of a source's records.

A new format is a function that returns a `Source`, and a line in `diffusion.recipe.names.SOURCES`.
"""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.data.sources import (
        array_files as array_files,
        clip_files as clip_files,
        columns as columns,
        combined as combined,
        combined_streams as combined_streams,
        controlled_pictures as controlled_pictures,
        file_streams as file_streams,
        iterated as iterated,
        made_drawings as made_drawings,
        mesh_records as mesh_records,
        paced_clips as paced_clips,
        parquet_files as parquet_files,
        picture_files as picture_files,
        preference_pairs as preference_pairs,
        process_records as process_records,
        protein_chains as protein_chains,
        python_objects as python_objects,
        record_files as record_files,
        sequences as sequences,
        series as series,
        solid_records as solid_records,
        sound_clips as sound_clips,
        spec as spec,
        spiral_points as spiral_points,
        splits as splits,
        stream_values as stream_values,
        streams as streams,
        table_records as table_records,
        tar_files as tar_files,
        text_windows as text_windows,
        tfds_records as tfds_records,
    )
    from diffusion.data.sources.array_files import arrays as arrays
    from diffusion.data.sources.clip_files import clip_folder as clip_folder, clip_shards as clip_shards
    from diffusion.data.sources.combined import filtered as filtered, mixture as mixture
    from diffusion.data.sources.controlled_pictures import controlled as controlled, painted as painted
    from diffusion.data.sources.file_streams import parquet_stream as parquet_stream, tar_stream as tar_stream
    from diffusion.data.sources.made_drawings import (
        arranged_drawings as arranged_drawings,
        drawings as drawings,
        moving_drawings as moving_drawings,
        moving_pairs as moving_pairs,
        spelled_drawings as spelled_drawings,
    )
    from diffusion.data.sources.manifold_points import (
        rotation_mixture as rotation_mixture,
        sphere_mixture as sphere_mixture,
        torsion_mixture as torsion_mixture,
    )
    from diffusion.data.sources.mesh_records import mesh_clouds as mesh_clouds
    from diffusion.data.sources.paced_clips import paced as paced
    from diffusion.data.sources.parquet_files import parquet as parquet
    from diffusion.data.sources.picture_files import class_folders as class_folders, picture_folder as picture_folder
    from diffusion.data.sources.preference_pairs import preferences as preferences
    from diffusion.data.sources.protein_chains import ideal_folds as ideal_folds
    from diffusion.data.sources.python_objects import huggingface as huggingface
    from diffusion.data.sources.record_files import array_records as array_records
    from diffusion.data.sources.series import gaussian_series as gaussian_series, series_windows as series_windows
    from diffusion.data.sources.solid_records import solid_distances as solid_distances, solid_points as solid_points
    from diffusion.data.sources.sound_clips import instruments as instruments, wav_folder as wav_folder
    from diffusion.data.sources.spec import (
        DamagedRecord as DamagedRecord,
        DataSpec as DataSpec,
        IndexedRecords as IndexedRecords,
        Leaf as Leaf,
        Source as Source,
        is_clip as is_clip,
        is_picture as is_picture,
    )
    from diffusion.data.sources.spiral_points import spirals as spirals
    from diffusion.data.sources.tar_files import tar_shards as tar_shards
    from diffusion.data.sources.text_windows import prose as prose, text_file as text_file
    from diffusion.data.sources.tfds_records import (
        Records as Records,
        column as column,
        describe as describe,
        open_source as open_source,
        shape as shape,
        tfds as tfds,
    )

public.moved({f"{__name__}.of_python": f"{__name__}.python_objects"})
public.declare(__name__)
