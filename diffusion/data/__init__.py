"""From sources of records to the batches of a run, through Grain and without TensorFlow.

- `digits`: the bundled dataset, a TFDS builder over scikit-learn's digits.
- `shapes`: captioned pictures for text to image, made of `shapes.scenes` (scenes and captions) by `shapes.drawing`.
- `solids`: parametric solids in space: signed distances, points on their surfaces; `level_sets`: surfaces on a grid.
- `image_folder`: a folder of pictures with a metadata CSV as a dataset.
- `catalog`: which datasets there are and where they lie; to bundle another, add its builder to `catalog.BUNDLED`.
- `sources`: random access to the records of a dataset, of files, or of one's own.
- `packing`: examples that are pytrees, as one vector each.
- `transforms`: decoding, augmentation and the change of range of one image.
- `keyed_permutation`: an order of any number of records, without a table.
- `pipeline`: the batches of a run, as a function of (seed, global example index); `stream_batches`: of a stream.
- `preparation`: datasets of TFDS, prepared in an environment of their own.
- `latent_cache`, `latent_writer`: a cache of an autoencoder's latents of a split, read by the same pipeline.
- `feature_cache`: the features of a frozen image encoder, beside a cache of latents.
- `series_masks`: the known and the hidden values of a series; `gaussian_processes`: series with exact conditionals.
- `english_prose`: documentation strings of installed packages, as letters.
- `identities`: the stored records that a source reads; `shared_records`: the records that two sources share.
- `sound`: clips as arrays, and how a clip is an example; `proteins`: backbones, ideal folds and their files.
- `buckets`: batches of several sizes and aspect ratios in one run.
"""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.data import (
        augmentation as augmentation,
        buckets as buckets,
        builder_checksums as builder_checksums,
        captions as captions,
        catalog as catalog,
        controls as controls,
        digits as digits,
        english_prose as english_prose,
        feature_cache as feature_cache,
        fingerprints as fingerprints,
        gaussian_processes as gaussian_processes,
        identities as identities,
        image_folder as image_folder,
        keyed_permutation as keyed_permutation,
        latent_cache as latent_cache,
        latent_writer as latent_writer,
        level_sets as level_sets,
        packing as packing,
        pipeline as pipeline,
        preparation as preparation,
        proteins as proteins,
        series_masks as series_masks,
        shapes as shapes,
        shared_records as shared_records,
        solids as solids,
        sound as sound,
        sources as sources,
        stream_batches as stream_batches,
        transforms as transforms,
    )

public.declare(__name__, renamed={"builders": "builder_checksums", "given_series": "series_masks"})
