"""Every method of few steps on the handwritten digits, at one cost of training, with three seeds: 54 runs.

    diffusion train --config=digits --workdir=runs/digits
    diffusion train --config=digits --workdir=runs/digits_time --config.parameterization.clock='{"name": "time"}'
    diffusion sweep --sweep=digits_few_step --workdir=runs/digits_few_step --jobs=2
    diffusion few_steps --teacher=runs/digits --students="runs/digits_few_step/*" --out=runs/few_steps

A student has 300,000 passes of the network (`configs.sweeps.equal_cost` says how they are counted). A method without a
teacher has those of the teacher in addition (3,600 steps of 64 examples, three passes each). The pairs of reflow belong
to its cost. TCM is left out: it begins with the run of a consistency model, and so has twice the cost. rCM needs a
teacher whose clock is t, and the others have been tuned with the clock 1,000 t. All methods of one seed run before the
next seed.

Time and results: docs/students_digits.md; two hours of two cores.

Presets: `digits_few_step:tiny` (of a run in runs/digits_tiny, to see that everything works).
"""

from diffusion.configs.sweeps.equal_cost import Method, halvings, sweep
from diffusion.experiments.sweeps.definition import Sweep

STUDENT = 300_000  # passes
TEACHER = 3600 * 64 * 3
PAIRS = 4096 * 10 * 2  # of reflow, each with ten guided steps of the teacher
SCRATCH = STUDENT + TEACHER

METHODS = {
    "lcm": Method("students/lcm", 6, STUDENT),
    "turbo": Method("students/turbo", 17, STUDENT, batch=32),
    "ladd": Method("students/ladd", 6.25, STUDENT, batch=32),
    "consistency": Method("students/consistency", 8, STUDENT),
    "rcm": Method("students/rcm", 6.4, STUDENT, stages=lambda n: {"objective.warmup": n // 10}, teacher="digits_time"),
    "progressive": Method("students/progressive", 7, STUDENT, stages=halvings(5, "objective")),
    "lightning": Method(
        "students/lightning", 18.7, STUDENT, batch=32, stages=halvings(3, "objective", "second_player.objective")
    ),
    "guided": Method("students/guided", 5, STUDENT),
    "dmd": Method("students/dmd", 5.2, STUDENT),
    "dmd2": Method("students/dmd2", 8.8, STUDENT),
    "f_distill": Method("students/f_distill", 8.4, STUDENT),
    "sid": Method("students/sid", 13, STUDENT),
    "sida": Method("students/sida", 16, STUDENT),
    "reflow": Method("students/reflow", 3, STUDENT - PAIRS),
    "mean_flow": Method("digits_mean_flow", 4, SCRATCH),
    "improved_mean_flow": Method("digits_improved_mean_flow", 6.3, SCRATCH),
    "alpha_flow": Method("digits_alpha_flow", 5, SCRATCH),
    "drifting": Method("digits_drifting", 3, SCRATCH, batch=128),
}


def get_sweep(arg: str = "") -> Sweep:
    """The sweep, or a preset of it; see the module's docstring."""
    return sweep(METHODS, arg, "digits_tiny")
