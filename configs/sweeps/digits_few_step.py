"""Every method of few steps on the handwritten digits, at one cost of training, with three seeds: 54 runs.

    diffusion train --config=digits --workdir=runs/digits
    diffusion train --config=digits --workdir=runs/digits_time --config.parameterization.clock='{"name": "time"}'
    diffusion sweep --sweep=digits_few_step --workdir=runs/digits_few_step --jobs=2
    diffusion few_steps --teacher=runs/digits --students="runs/digits_few_step/*" --out=runs/few_steps

The cost is counted in passes of one example through the network, where a gradient counts as two and a guided teacher as
two. A student has 300,000 of them. A method without a teacher has those of the teacher in addition (3,600 steps of 64
examples, three passes each). `diffusion plan` counts the passes of a step. The pairs of reflow belong to its cost.
TCM is left out: it begins with the run of a consistency model, and so has twice the cost. rCM needs a teacher whose
clock is t, and the others have been tuned with the clock 1,000 t. All methods of one seed run before the next seed.

Time and results: docs/students_digits.md; two hours of two cores.

Presets: `digits_few_step:tiny` (of a run in runs/digits_tiny, to see that everything works).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffusion.experiments.sweeps.combinators import Overrides, each, product
from diffusion.experiments.sweeps.commands import train
from diffusion.experiments.sweeps.definition import Sweep, is_tiny

STUDENT = 300_000  # passes
TEACHER = 3600 * 64 * 3
PAIRS = 4096 * 10 * 2  # of reflow, each with ten guided steps of the teacher
ROUND = 10  # steps are a multiple, since the model acts in each fifth step of some methods


class Method(NamedTuple):
    """A recipe and the cost of its steps.

    Attributes:
        recipe: the recipe, without its teacher.
        passes: the mean passes of a step for each example of its batch.
        batch: the examples of a step.
        total: the passes of the whole training.
        stages: a function from the number of steps to the fields that divide the training.
        teacher: the folder of the teacher in runs/, for a method that has one.
    """

    recipe: str
    passes: float
    batch: int = 64
    total: int = STUDENT
    stages: Callable[[int], Mapping[str, Any]] = lambda steps: {}
    teacher: str = "digits"

    @property
    def steps(self) -> int:
        """The steps that come nearest to the total."""
        return round(self.total / (self.passes * self.batch * ROUND)) * ROUND


def halvings(*players: str) -> Callable[[int], Mapping[str, Any]]:
    """A function from the steps to the fields of five stages; after each stage the student becomes the teacher."""
    fields = (*(f"{player}.stage" for player in players), "checkpoint.every", "checkpoint.keep_every")
    return lambda steps: dict.fromkeys(fields, steps // 5)


METHODS = {
    "lcm": Method("students/lcm", 6),
    "turbo": Method("students/turbo", 17, batch=32),
    "ladd": Method("students/ladd", 6.25, batch=32),
    "consistency": Method("students/consistency", 8),
    "rcm": Method("students/rcm", 6.4, stages=lambda n: {"objective.warmup": n // 10}, teacher="digits_time"),
    "progressive": Method("students/progressive", 7, stages=halvings("objective")),
    "lightning": Method("students/lightning", 24, batch=32, stages=halvings("objective", "second_player.objective")),
    "guided": Method("students/guided", 5),
    "dmd": Method("students/dmd", 5.2),
    "dmd2": Method("students/dmd2", 8.8),
    "f_distill": Method("students/f_distill", 8.4),
    "sid": Method("students/sid", 13),
    "sida": Method("students/sida", 16),
    "reflow": Method("students/reflow", 3, total=STUDENT - PAIRS),
    "mean_flow": Method("digits_mean_flow", 4, total=STUDENT + TEACHER),
    "improved_mean_flow": Method("digits_improved_mean_flow", 6.3, total=STUDENT + TEACHER),
    "alpha_flow": Method("digits_alpha_flow", 5, total=STUDENT + TEACHER),
    "drifting": Method("digits_drifting", 3, batch=128, total=STUDENT + TEACHER),
}


def get_sweep(arg: str = "") -> Sweep:
    """The sweep, or a preset of it; see the module's docstring."""
    tiny = is_tiny(arg)

    def run(name: str, method: Method) -> Overrides:
        folder = f":runs/{'digits_tiny' if tiny else method.teacher}" if method.recipe.startswith("students/") else ""
        preset = ("," if folder else ":") + "tiny" if tiny else ""
        fields = {} if tiny else {"train.steps": method.steps, **method.stages(method.steps)}
        return {"student": name, "recipe": method.recipe + folder + preset, **fields}

    runs = [run(name, method) for name, method in METHODS.items()]
    return Sweep(product(each("seed", range(1 if tiny else 3)), runs), [train("{recipe}")], titles=("student",))
