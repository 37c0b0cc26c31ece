"""Encodes a dataset once: stores its latents, and features of an encoder, for training.

    diffusion encode --autoencoder=sd-vae --data=cifar10@train --out=latents/cifar10
    diffusion encode --autoencoder=sd-vae --data=imagenet2012@train --size=256 --flip --out=latents/in256
    diffusion train --config=FILE --workdir=DIR --config.data.latents.dir=latents/in256

Training then reads the latents instead of the pictures. --autoencoder is a published folder or a single file. --data is
the TFDS name of the dataset, or a source as JSON, with its split. The command stores the mean and the log variance of
each picture's posterior, so that every epoch draws new latents. --mean stores only the means. --flip also stores the
latents of the mirrored pictures, which training uses equally often. The same command continues after an interruption,
with the same result.

    diffusion encode --encoder=dinov2-base --encoder_size=224 --data=imagenet2012@train --size=256 --flip \\
        --out=latents/in256

This command adds the features of a frozen encoder to the latents of the same pictures, for objectives with an alignment
term. OUT/features then contains the features of each patch in float16. --encoder is a folder or a file in the format of
transformers. The encoder receives the pictures at the size --encoder_size. With --autoencoder and --encoder together,
one command writes latents and features.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("autoencoder", None, "folder or file of the autoencoder")
    flags.DEFINE_string("encoder", None, "folder or file of a frozen image encoder, whose features are stored")
    flags.DEFINE_integer(
        "encoder_size", 0, "side length in pixels to which pictures are resized for the encoder", lower_bound=0
    )
    flags.DEFINE_string("data", None, "dataset of pictures, as NAME@SPLIT, e.g. cifar10@train, or '{SOURCE}@SPLIT'")
    flags.DEFINE_integer(
        "size",
        0,
        "side length of the squares to which pictures are resized and cropped in the middle, as in ADM's "
        "code; 0 if all pictures have one size",
        lower_bound=0,
    )
    flags.DEFINE_string("data_dir", None, "folder of prepared datasets; TFDS_DATA_DIR by default")
    flags.DEFINE_string("out", None, "folder for the cache, created if missing")
    flags.DEFINE_bool("mean", False, "store only the means: half the size, but the same latent in every epoch")
    flags.DEFINE_bool("flip", False, "also encode the mirrored pictures")
    flags.DEFINE_enum("dtype", "float32", ["float32", "float16"], "type of the latents on disk")
    flags.DEFINE_integer("batch_size", 64, "number of pictures to encode at once", lower_bound=1)
    flags.DEFINE_integer("threads", 4, "number of threads that read pictures", lower_bound=0)
    flags.mark_flags_as_required(["data", "out"])
    command_line.begin()

import contextlib
import shlex
from collections.abc import Callable
from typing import Any

from diffusion.data import feature_cache, latent_cache, latent_writer, sources
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders, encoder_features
from diffusion.recipe import ConfigError
from diffusion.recipe.companions import Encoder
from diffusion.recipe.data import named
from diffusion.training.runtime import progress


def run(
    autoencoder: autoencoder_folders.Autoencoder,
    data: str | sources.Source,
    out: str,
    data_dir: str = "",
    mean: bool = False,
    flip: bool = False,
    dtype: str = "float32",
    batch_size: int = 64,
    threads: int = 4,
    shard_records: int = 0,
    size: int = 0,
) -> latent_cache.Description:
    """Writes a cache of latents, or continues an unfinished one.

    Args:
        autoencoder: the autoencoder that encodes the pictures.
        data: a source, or its name with the split, in the form of `--data`.
        out: the folder of the cache.
        data_dir: the folder of prepared datasets; "" for TFDS's default.
        mean: whether to store only the mean of the posterior, without its log variance.
        flip: whether to encode the mirrored pictures as well.
        dtype: the type of the stored latents, "float32" or "float16".
        batch_size: the number of pictures that are encoded at once.
        threads: the number of threads that read pictures.
        shard_records: the number of records in a file; 0 for files of about 256 MiB.
        size: the side length of the squares to which pictures are cropped and resized; 0 for their own size.

    Returns:
        The description of the cache.

    Raises:
        ConfigError: if the dataset does not exist or does not fit the autoencoder.
        CacheError: if the folder holds other latents.
    """
    source = named(data, data_dir, size)
    description = autoencoder_folders.describe_cache(autoencoder, source.spec, flip)._replace(dtype=dtype)
    description = description._replace(kind="mean") if mean else description
    encode = autoencoder_folders.encoder(autoencoder)
    parts = (lambda images: encode(images)[:, :1]) if mean else encode
    fingerprint = source.fingerprint()
    options = {"batch_size": batch_size, "threads": threads, "shard_records": shard_records, "fingerprint": fingerprint}
    _write(out, source, description, parts, "encoding", options)
    return description


def features(
    encoder: Encoder,
    params: Any,
    data: str | sources.Source,
    out: str,
    data_dir: str = "",
    flip: bool = False,
    batch_size: int = 64,
    threads: int = 4,
    shard_records: int = 0,
    size: int = 0,
) -> latent_cache.Description:
    """Writes the features of an encoder beside the latents in a folder, or continues an unfinished cache of them.

    Args:
        encoder: the encoder, with the size of the pictures that it receives.
        params: the parameters of the encoder.
        data, out, data_dir, flip, batch_size, threads, shard_records, size: the data, the folder and the other
            settings, as in `run`.

    Returns:
        The description of the cache of features.

    Raises:
        ConfigError: if the dataset does not exist or does not fit the encoder.
        CacheError: if the folder holds other features, or latents of other pictures.
    """
    source = named(data, data_dir, size)
    dataset = latent_cache.dataset_of(source.spec)
    description = encoder_features.description(encoder, params, dataset, latent_cache.VIEWS[: 1 + flip])
    fingerprint = source.fingerprint()
    latent_writer.require_same_pictures(out, fingerprint)
    latent_writer.require_same_names(out, source)
    options = {"batch_size": batch_size, "threads": threads, "shard_records": shard_records, "fingerprint": fingerprint}
    encode = encoder_features.encode(encoder, params)
    _write(feature_cache.beside(out), source, description, encode, "features", options)
    return description


def _write(
    folder: Any,
    source: sources.Source,
    description: latent_cache.Description,
    encode: Callable,
    doing: str,
    options: dict[str, Any],
) -> None:
    size = source.spec.size
    with contextlib.ExitStack() as stack:

        def begin(records):
            if 0 < records < size:
                print(f"going on: {size - records:,} of {size:,} pictures are encoded already", flush=True)
            return stack.enter_context(progress.bar(doing, records, "pictures"))

        latent_writer.write(folder, source, source.spec, description, encode, begin=begin, **options)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    if not (values.autoencoder or values.encoder):
        raise ConfigError(
            "--autoencoder and --encoder are both missing. Name at least one of them: the network whose output is "
            "stored."
        )
    if not values.encoder:
        flag_errors.refuse(["encoder_size"], "is the size of the pictures for --encoder, which is missing.")
    if not values.autoencoder:
        flag_errors.refuse(["mean", "dtype"], "has no effect without latents: name the --autoencoder that makes them.")
    latent_writer.require_folder(workdir.output_folder(values.out))
    loaded = encoder_features.load(values.encoder, values.encoder_size) if values.encoder else None
    pictures = {"data": values.data, "out": values.out, "data_dir": values.data_dir or "", "size": values.size}
    pictures |= {"flip": values.flip, "batch_size": values.batch_size, "threads": values.threads}
    if values.autoencoder:
        cache = run(autoencoder_folders.load(values.autoencoder), mean=values.mean, dtype=values.dtype, **pictures)
        print(
            f"{values.out}: {cache.kind} {cache.shape} of {cache.dataset['size']:,} pictures of {values.data}, "
            f"{'x'.join(map(str, cache.views))}, scale {cache.scale}, shift {cache.shift}. Train on them by "
            + shlex.quote(f"--config.data.latents.dir={values.out}")
        )
    if loaded:
        cache = features(*loaded, **pictures)
        print(
            f"{feature_cache.beside(values.out)}: features {cache.shape[1:]} in {cache.dtype} of "
            f"{cache.dataset['size']:,} pictures of {values.data}, {'x'.join(cache.views)}, of the encoder "
            f"{cache.autoencoder['sha256'][:12]}"
        )


if __name__ == "__main__":
    command_line.run(
        main, (*autoencoder_folders.FAILURES, latent_cache.CacheError, sources.DamagedRecord, OSError), compiles=True
    )
