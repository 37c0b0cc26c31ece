"""Writes the latents of a dataset, which training then reads in place of its pictures.

    diffusion encode --autoencoder=sd-vae --data=cifar10@train --out=latents/cifar10
    diffusion encode --autoencoder=sd-vae --data=imagenet2012@train --size=256 --flip --out=latents/in256
    diffusion train --config=FILE --workdir=DIR --config.data.latents.dir=latents/in256

The autoencoder is a folder as its library publishes it, or a single file; the dataset is named as TFDS names it, with
its split. Each picture gives the mean and the log variance of its posterior, so that every epoch draws new latents of
it; --mean keeps the means alone. --flip adds those of the mirrored pictures, from which training draws as often.
The same command goes on with a writing that was interrupted; the result is the same.
"""

from absl import flags

from diffusion.experiments.config import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("autoencoder", None, "folder or file of the autoencoder")
    flags.DEFINE_string("data", None, "the pictures, NAME@SPLIT, e.g. cifar10@train")
    flags.DEFINE_integer(
        "size",
        0,
        "make squares of this side of pictures of any size: the shorter side is resized "
        "and the middle cut out, as ADM's code does; 0 for pictures of one size",
        lower_bound=0,
    )
    flags.DEFINE_string("data_dir", None, "folder of prepared datasets; TFDS_DATA_DIR by default")
    flags.DEFINE_string("out", None, "folder of the cache, made if missing")
    flags.DEFINE_bool("mean", False, "keep the means alone: half the size, and the same latent in every epoch")
    flags.DEFINE_bool("flip", False, "encode the mirrored pictures, too")
    flags.DEFINE_enum("dtype", "float32", ["float32", "float16"], "of the numbers on disk")
    flags.DEFINE_integer("batch_size", 64, "pictures encoded at once", lower_bound=1)
    flags.DEFINE_integer("threads", 4, "that read pictures", lower_bound=0)
    flags.mark_flags_as_required(["autoencoder", "data", "out"])
    command_line.begin()

import contextlib
import shlex

from diffusion.data import latent_cache, latent_writer, sources
from diffusion.experiments.config import ConfigError
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.training.runtime import progress


def description_of(
    autoencoder: autoencoder_folders.Autoencoder,
    spec: sources.DataSpec,
    mean: bool = False,
    flip: bool = False,
    dtype: str = "float32",
) -> latent_cache.Description:
    """What the cache of a dataset by an autoencoder holds.

    Args:
        autoencoder: the autoencoder.
        spec: of the pictures.
        mean: whether only means are kept.
        flip: whether there are mirrored views.
        dtype: of the numbers on disk.

    Raises:
        ConfigError: if it does not take such pictures.
    """
    kind, shape = autoencoder_folders.latent(autoencoder, spec.shape)
    module = autoencoder.module
    number = lambda x: tuple(x) if isinstance(x, (tuple, list)) else float(x)
    dataset = {
        "name": spec.name,
        "version": spec.version,
        "split": spec.split,
        "size": spec.size,
        "num_classes": spec.num_classes,
        "shape": list(spec.shape),
    }
    return latent_cache.Description(
        dataset,
        autoencoder.record,
        tuple(shape),
        "mean" if mean else kind,
        latent_cache.VIEWS if flip else ("plain",),
        dtype,
        number(module.scale),
        number(getattr(module, "shift", 0.0)),
    )


def run(
    autoencoder: autoencoder_folders.Autoencoder,
    data: str,
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
    """Writes a cache, or goes on with it.

    Args:
        autoencoder: that encodes.
        data: NAME@SPLIT.
        out: folder of the cache.
        data_dir: folder of prepared datasets.
        mean, flip, dtype: as in `description_of`.
        batch_size: pictures encoded at once.
        threads: that read pictures.
        shard_records: records of a file; 0 for files of about 256 MiB.
        size: side of the squares that pictures of several sizes are made; 0 for pictures of one size.

    Returns:
        What the cache holds.

    Raises:
        ConfigError: if the dataset is not there or does not fit.
        CacheError: if the folder holds other latents.
    """
    name, at, split = data.rpartition("@")
    if not at:
        raise ConfigError(f"--data={data} is no dataset with its split. Valid: NAME@SPLIT, e.g. cifar10@train.")
    try:
        source, spec = sources.open_source(name, split, data_dir, size)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"--data={data}: {error}") from error
    description = description_of(autoencoder, spec, mean, flip, dtype)
    encode = autoencoder_folders.encoder(autoencoder)
    parts = (lambda images: encode(images)[:, :1]) if mean else encode
    with contextlib.ExitStack() as stack:

        def begin(records):
            if 0 < records < spec.size:
                print(f"going on: {spec.size - records:,} of {spec.size:,} pictures are encoded already", flush=True)
            return stack.enter_context(progress.bar("encoding", records, "pictures"))

        latent_writer.write(
            out,
            source,
            spec,
            description,
            parts,
            batch_size=batch_size,
            threads=threads,
            shard_records=shard_records,
            begin=begin,
        )
    return description


def main(argv: list[str]) -> None:
    """Runs the command line."""
    given = flags.FLAGS
    autoencoder = autoencoder_folders.load(given.autoencoder)
    found = run(
        autoencoder,
        given.data,
        given.out,
        given.data_dir or "",
        given.mean,
        given.flip,
        given.dtype,
        given.batch_size,
        given.threads,
        size=given.size,
    )
    print(
        f"{given.out}: {found.kind} {found.shape} of {found.dataset['size']:,} pictures of {given.data}, "
        f"{'x'.join(map(str, found.views))}, scale {found.scale}, shift {found.shift}. Train on them by "
        + shlex.quote(f"--config.data.latents.dir={given.out}")
    )


if __name__ == "__main__":
    command_line.run(main, (*autoencoder_folders.FAILURES, latent_cache.CacheError, sources.DamagedRecord, OSError))
