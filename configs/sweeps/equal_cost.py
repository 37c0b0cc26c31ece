"""Methods of few steps whose trainings have one cost, for the sweeps that compare them.

The cost is counted in passes of one example through the network, where a gradient counts as two and a guided teacher as
two. `diffusion plan` counts the operations of a step.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffusion.experiments.sweeps.combinators import Overrides, each, product
from diffusion.experiments.sweeps.commands import train
from diffusion.experiments.sweeps.definition import Sweep, is_tiny

ROUND = 10  # steps are a multiple, since the model acts in each fifth step of some methods


class Method(NamedTuple):
    """A recipe and the cost of its steps.

    Attributes:
        recipe: the recipe, without its teacher.
        passes: the mean passes of a step for each example of its batch.
        total: the passes of the whole training.
        batch: the examples of a step, as the recipe or `fields` set them.
        stages: a function from the number of steps to the fields that divide the training.
        teacher: the folder of the teacher in runs/, for a recipe of a student.
        fields: further fields of the config.
    """

    recipe: str
    passes: float
    total: int
    batch: int = 64
    stages: Callable[[int], Mapping[str, Any]] = lambda steps: {}
    teacher: str = "digits"
    fields: Mapping[str, Any] = {}

    @property
    def steps(self) -> int:
        """The number of steps whose cost is nearest to the total."""
        return round(self.total / (self.passes * self.batch * ROUND)) * ROUND


def halvings(stages: int, *players: str) -> Callable[[int], Mapping[str, Any]]:
    """A function from the steps to the fields of these stages; after each stage the student becomes the teacher."""
    fields = (*(f"{player}.stage" for player in players), "checkpoint.every", "checkpoint.keep_every")
    return lambda steps: dict.fromkeys(fields, steps // stages) | {"train.steps": steps // stages * stages}


def sweep(methods: Mapping[str, Method], arg: str, tiny_teacher: str) -> Sweep:
    """The sweep of all methods with three seeds, or its preset "tiny" of one seed and the recipes' presets "tiny".

    Args:
        methods: {name: method}.
        arg: the argument of `get_sweep`.
        tiny_teacher: the folder in runs/ of the teacher of the preset.
    """
    tiny = is_tiny(arg)

    def run(name: str, method: Method) -> Overrides:
        is_student = method.recipe.startswith("students/")
        teacher = f":runs/{tiny_teacher if tiny else method.teacher}" if is_student else ""
        preset = ("," if is_student else ":") + "tiny" if tiny else ""
        lengths = {"train.steps": method.steps, **method.stages(method.steps)}
        fields = {} if tiny else {**lengths, **method.fields}
        return {"student": name, "recipe": method.recipe + teacher + preset, **fields}

    runs = [run(name, method) for name, method in methods.items()]
    return Sweep(product(each("seed", range(1 if tiny else 3)), runs), [train("{recipe}")], titles=("student",))
