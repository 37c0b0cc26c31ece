"""Progressive distillation (Salimans and Ho 2022): students of 16, 8, 4, 2 steps and 1, each the teacher of the next.

    diffusion train --config=students/progressive:runs/digits --workdir=runs/progressive
    diffusion sample --workdir=runs/progressive
    diffusion sample --workdir=runs/progressive --step=600 --config.sample.steps=4 --out=runs/progressive/4

One run: every 200 steps the student becomes the teacher and its number of steps halves; the checkpoints at these steps
are kept, and are the students of 16, 8, 4 and 2 steps. The last one takes one step.

Presets: `progressive:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")


FIRST, STAGE = 16, 200


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = base.student(arg)
    config.objective = {"name": "progressive_distillation", "N": FIRST, "stage": STAGE}
    config.train.steps = STAGE * FIRST.bit_length()
    config.checkpoint.every = config.checkpoint.keep_every = STAGE
    config.sample.sampler = {"name": "ddim"}
    config.sample.update({"steps": 1, "shift": 1.0})  # the steps that it halves are even
    return base.preset(config, arg, {"objective.N": 2, "objective.stage": 10, "checkpoint.keep_every": 10})
