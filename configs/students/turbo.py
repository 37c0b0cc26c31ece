"""Adversarial diffusion distillation (ADD, the Turbo models; Sauer et al. 2023): one to four steps against a critic.

    diffusion train --config=students/turbo:runs/digits --workdir=runs/turbo
    diffusion sample --workdir=runs/turbo --config.sample.steps=1

The student is trained at the four times at which it is sampled. It learns to fool a discriminator, and to stay close to
the teacher's denoised prediction. The discriminator is the teacher's network, starting from its weights, with the mean
of its output as the logit. The paper's discriminator reads the features of an image encoder (DINO), but not every kind
of data has such an encoder.

The settings are the digits'; a text-to-image teacher needed a stronger discriminator (docs/students_text.md).

Presets: `turbo:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = base.student(arg)
    four = {"name": "discrete_density", "T": 4, "strata": 32, "shift": config.sample.shift}
    config.objective = {
        "name": "adversarial_generator",
        "student_density": four,
        "density": {"name": "uniform_density", "strata": 32},
        "weight": 0.5,  # the paper's 2.5 and more lose variety here
    }
    config.second_player = {
        "objective": {"name": "adversarial_discriminator", "student_density": four, "r1": 1.0},
        "network": {"name": ""},  # the teacher's
        "optimizer": {"name": "adamw", "learning_rate": 2e-4, "b1": 0.5, "clip": 1.0},
        "updates": 1,
    }
    config.optimizer.update({"learning_rate": 2e-4, "b1": 0.5})
    config.train.batch_size //= 2  # a step of both players costs about six plain ones
    config.train.steps = 400
    return base.preset(config, arg, {})
