"""Truncated consistency (TCM; Lee et al. 2024): a consistency model trains on, only at its noisy times.

    diffusion train --config=students/consistency:runs/digits --workdir=runs/consistency
    diffusion train --config=students/tcm:runs/consistency --workdir=runs/tcm
    diffusion sample --workdir=runs/tcm --config.sample.steps=1

The teacher is a consistency model, from whose weights the student starts, and which remains the target at the times
before sigma / alpha = 1. The student must not be sampled from at these times.

Time and score (docs/students_digits.md): 2.5 minutes of CPU time; on the digits in one evaluation 1.06 times the
Frechet distance of the teacher's 20 in pixels, 1.26 times in classifier features; its own teacher has 1.12 and 1.29
times.

Presets: `tcm:runs/consistency,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for the folder of a consistency model; see the module's docstring."""
    config = base.student(arg)
    config.objective = {
        "name": "truncated_consistency",
        "density": {"name": "log_normal", "mean": 0.0, "std": 2.0, "strata": 32},
        "pairs": {"name": "shrinking", "stage": 200},
        "pair_weighting": {"name": "inverse_gap"},
        "distance": {"name": "pseudo_huber"},
    }
    config.optimizer.learning_rate = 2e-4
    config.train.steps = 800
    config.sample.steps = 1
    return base.preset(config, arg, {})
