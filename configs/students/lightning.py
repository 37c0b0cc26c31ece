"""Progressive adversarial distillation (SDXL-Lightning; Lin et al. 2024): steps are halved, and a judge compares them.

    diffusion train --config=students/lightning:runs/digits --workdir=runs/lightning
    diffusion sample --workdir=runs/lightning
    diffusion sample --workdir=runs/lightning --step=400 --config.sample.steps=2 --out=runs/lightning/2

Students of 4, 2 and 1 steps, in the stages of `students/progressive`. The first one learns by the squared error. The
later ones learn against a judge, which also sees where a step began in the first half of a stage. The judge has a small
head for each block of the frozen teacher; the paper's judge is the teacher's encoder with one head, and trains as a
whole.

Time and score (docs/students_digits.md): 3.8 minutes of CPU time for 498 steps; on the digits 1.20, 1.95 and 4.48 times
the teacher's Frechet distance in pixels in four, two and one steps; `students/progressive` has 1.02, 1.08 and 1.34.

Presets: `lightning:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

progressive = recipes.module("students/progressive")
base = recipes.module("students/base")

FIRST, STAGE = 4, 200
PLAYERS = ("objective", "second_player.objective")
STAGES = {"N": 2, "stage": 10}
TINY = {f"{player}.{field}": value for player in PLAYERS for field, value in STAGES.items()}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = progressive.get_config(arg)
    shared = {"N": FIRST, "stage": STAGE, "blocks": tuple(range(1, config.model.get("depth", 1) + 1))}
    config.objective = {"name": "progressive_adversarial", **shared}
    config.second_player = {
        "objective": {"name": "transition_judge", **shared},
        "network": {"name": "feature_heads"},
        "optimizer": {"name": "adamw", "learning_rate": 3e-3, "b1": 0.5, "clip": 1.0},
        "updates": 1,
    }
    config.optimizer.update({"learning_rate": 5e-4, "b1": 0.5})
    config.train.steps = STAGE * FIRST.bit_length()
    config.train.batch_size //= 2  # a step of both players has nearly three times the passes of `students/progressive`
    return base.preset(config, arg, TINY | {"checkpoint.keep_every": 10})
