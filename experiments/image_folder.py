"""Prepares a folder of pictures with captions as a named dataset for training.

    diffusion image_folder --folder=photos --name=photos --side=64 --data_dir=data
    diffusion train --config=FILE --workdir=DIR --config.data.name=photos --config.data.dir=data

FOLDER/metadata.csv has the columns file_name, caption and, optionally, category.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("folder", None, "folder of the pictures, with metadata.csv")
    flags.DEFINE_string("name", None, "name of the new dataset")
    flags.DEFINE_string("data_dir", None, "folder of prepared datasets, into which the new one is written")
    flags.DEFINE_integer(
        "side", 0, "side length of the squares to which pictures are resized; 0 if all pictures have one size"
    )
    flags.mark_flags_as_required(["folder", "name", "data_dir"])
    command_line.begin()

import shlex

from diffusion.data import image_folder, sources
from diffusion.recipe import ConfigError


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    try:
        builder = image_folder.prepare(values.folder, values.name, values.data_dir, values.side)
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        raise ConfigError(str(error)) from error
    spec = sources.describe(values.name, "train", values.data_dir)
    height, width, _ = spec.shape
    print(
        f"{builder}: {spec.size:,} pictures of {height} x {width} with captions. Read them by "
        + shlex.join([f"--config.data.name={values.name}", f"--config.data.dir={values.data_dir}"])
    )


if __name__ == "__main__":
    command_line.run(main, ())
