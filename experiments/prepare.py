"""Prepares a TFDS dataset for training, with TensorFlow in a separate Python environment that the command creates.

    diffusion prepare cifar10
    diffusion prepare oxford_flowers102 --data_dir=data
    diffusion train --config=FILE --workdir=DIR --config.data.name=oxford_flowers102 --config.data.dir=data

This process and training runs never import TensorFlow. The environment (about 2 GB) is created once, in DIFFUSION_CACHE
or ~/.cache/diffusion. The command does not write into a folder that contains anything but datasets.

Exit status: 0 the dataset is prepared, or was already; 1 failed; 2 a mistake in the command line.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string(
        "data_dir", "", "folder of prepared datasets; by default TFDS_DATA_DIR or ~/tensorflow_datasets"
    )
    flags.DEFINE_string("environment", "", "folder of the Python environment; by default a folder in DIFFUSION_CACHE")
    command_line.begin(takes_words=True)

import functools
import pathlib
import shlex

from diffusion.data import preparation, sources
from diffusion.recipe import ConfigError


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    if len(argv) != 2:
        raise ConfigError("name one dataset by its name in TFDS, e.g. diffusion prepare cifar10.")
    place = pathlib.Path(values.environment).expanduser() if values.environment else None
    try:
        folder = preparation.prepare(argv[1], values.data_dir, place, functools.partial(print, flush=True))
    except ValueError as error:
        raise ConfigError(f"{error}.") from error
    where = [f"--config.data.dir={values.data_dir}"] if values.data_dir else []
    print(f"{folder}: train on it by " + shlex.join([f"--config.data.name={argv[1]}", *where]))
    try:
        spec = sources.describe(argv[1], "train", values.data_dir)
        print(f"{argv[1]} (train): {spec.size:,} pictures of {spec.shape}, {spec.num_classes} classes")
    except ValueError as error:
        print(f"note: {error}")


if __name__ == "__main__":
    command_line.run(main, (preparation.PreparationFailed, OSError))
