"""Score-regularised consistency (rCM; Zheng et al. 2025): consistency distillation in continuous time, with DMD beside.

    diffusion train --config=students/rcm:runs/digits --workdir=runs/rcm
    diffusion sample --workdir=runs/rcm --config.sample.steps=2

The student's network has EDM's preconditioning. It starts from the teacher's weights where the teacher has it too, and
from new ones otherwise. Its clock is t itself, since the loss differentiates it by time.

Score on the digits (docs/students_digits.md): none that is of use. From new weights it makes noise after 2,000 steps.

Presets: `rcm:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")
dmd = recipes.module("students/dmd")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = dmd.get_config(arg)
    sigma_data = 0.5
    if config.teacher.parameterization.name == "edm":
        sigma_data = config.teacher.parameterization.get("sigma_data", 0.5)
    else:
        config.init_from.path = ""
    config.parameterization = {"name": "edm", "sigma_data": sigma_data, "clock": {"name": "time"}}
    config.objective = {
        "name": "score_regularised_consistency",
        "student_density": {"name": "uniform_density", "strata": 32},
        "density": dmd.TIMES,
        "sigma_data": sigma_data,
        "warmup": 200,
    }
    config.train.steps = 2000
    return base.preset(config, arg, {"objective.warmup": 5})
