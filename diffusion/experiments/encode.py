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
from diffusion.experiments.config.data import named
from diffusion.experiments.sampling import autoencoder_folders
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
    """Writes a cache, or goes on with it; the flags of the command say what each argument is.

    Args:
        shard_records: records of a file; 0 for files of about 256 MiB.

    Returns:
        What the cache holds.

    Raises:
        ConfigError: if the dataset is not there or does not fit.
        CacheError: if the folder holds other latents.
    """
    source = named(data, data_dir, size) if isinstance(data, str) else data
    spec = source.spec
    kind, shape = autoencoder_folders.latent(autoencoder, spec.shape)
    number = lambda x: tuple(x) if isinstance(x, (tuple, list)) else float(x)
    description = latent_cache.Description(
        dataset={
            "name": spec.name,
            "version": spec.version,
            "split": spec.split,
            "size": spec.size,
            "num_classes": spec.num_classes,
            "shape": list(spec.shape),
        },
        autoencoder=autoencoder.record,
        shape=tuple(shape),
        kind="mean" if mean else kind,
        views=latent_cache.VIEWS if flip else ("plain",),
        dtype=dtype,
        scale=number(autoencoder.module.scale),
        shift=number(getattr(autoencoder.module, "shift", 0.0)),
    )
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
    values = flags.FLAGS
    cache = run(
        autoencoder_folders.load(values.autoencoder),
        values.data,
        values.out,
        values.data_dir or "",
        values.mean,
        values.flip,
        values.dtype,
        values.batch_size,
        values.threads,
        size=values.size,
    )
    print(
        f"{values.out}: {cache.kind} {cache.shape} of {cache.dataset['size']:,} pictures of {values.data}, "
        f"{'x'.join(map(str, cache.views))}, scale {cache.scale}, shift {cache.shift}. Train on them by "
        + shlex.quote(f"--config.data.latents.dir={values.out}")
    )


if __name__ == "__main__":
    command_line.run(
        main, (*autoencoder_folders.FAILURES, latent_cache.CacheError, sources.DamagedRecord, OSError), compiles=True
    )
