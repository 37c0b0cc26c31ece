"""Progressive adversarial distillation (SDXL-Lightning; Lin et al. 2024): steps are halved, and a judge compares them.

    diffusion train --config=students/lightning:runs/digits --workdir=runs/lightning
    diffusion sample --workdir=runs/lightning
    diffusion sample --workdir=runs/lightning --step=600 --config.sample.steps=4 --out=runs/lightning/4

The stages of `students/progressive`: the first learns by the squared error, the later ones against a judge, which in
the first half of a stage also sees where a step began. The judge is the teacher's network, from its weights.

Score on the digits (docs/students_digits.md): 2.27 times the teacher's Frechet distance in pixels in eight steps, 3.78
times in one; `students/progressive` has 1.02 and 1.29.

Presets: `lightning:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

progressive = recipes.module("students/progressive")
base = recipes.module("students/base")

PLAYERS = ("objective", "second_player.objective")
STAGES = {"N": 2, "stage": 10}
TINY = {f"{player}.{field}": value for player in PLAYERS for field, value in STAGES.items()}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = progressive.get_config(arg)
    stages = {"N": progressive.FIRST, "stage": progressive.STAGE}
    config.objective = {"name": "progressive_adversarial", **stages}
    config.second_player = {
        "objective": {"name": "transition_judge", **stages},
        "network": {"name": ""},  # the teacher's
        "optimizer": {"name": "adamw", "learning_rate": 2e-4, "b1": 0.5, "clip": 1.0},
        "updates": 1,
    }
    config.optimizer.update({"learning_rate": 2e-4, "b1": 0.5})
    config.train.batch_size //= 2  # a step of both players has about four times the passes of `students/progressive`
    return base.preset(config, arg, TINY | {"checkpoint.keep_every": 10})
