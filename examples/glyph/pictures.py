"""Writes five pictures of a ghost, which `shapes` does not contain, with captions, to finetune a model.

python -m examples.glyph.pictures --out=runs/glyph/pictures
diffusion train --config=tuning/glyph:lora --workdir=runs/glyph/lora
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("out", None, "folder for the pictures and their table, metadata.csv")
    flags.mark_flags_as_required(["out"])
    command_line.begin()

from diffusion.experiments.run_folder import workdir
from examples.glyph import glyph


def main(argv: list[str]) -> None:
    """Runs the command line."""
    print(glyph.write(flags.FLAGS.out) / "metadata.csv")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
