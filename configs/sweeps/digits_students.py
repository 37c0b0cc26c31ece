"""The few-step students of a run of the recipe `digits`, and MeanFlow from scratch beside them: 7 runs.

    diffusion train --config=digits --workdir=runs/digits
    diffusion sweep --sweep=digits_students --workdir=runs/digits_students
    diffusion few_steps --teacher=runs/digits --students="runs/digits_students/*" --out=runs/few_steps

Each run is one command, that of its recipe in configs/students; the last command compares them (docs/students.md).
Presets: `digits_students:tiny` (of a run in runs/digits_tiny, to see that everything works).
"""

from diffusion.experiments.sweeps.combinators import each, zip
from diffusion.experiments.sweeps.commands import train
from diffusion.experiments.sweeps.definition import Sweep, is_tiny

STUDENTS = ("lcm", "turbo", "consistency", "progressive", "dmd", "reflow")
FROM_SCRATCH = "mean_flow"


def get_sweep(arg: str = "") -> Sweep:
    """The sweep, or a preset of it; see the module's docstring."""
    teacher, tiny = ("runs/digits_tiny,tiny", ":tiny") if is_tiny(arg) else ("runs/digits", "")
    recipes = [f"students/{name}:{teacher}" for name in STUDENTS]
    recipes.append(f"digits_mean_flow{tiny}")
    runs = zip(each("student", (*STUDENTS, FROM_SCRATCH)), each("recipe", recipes))
    return Sweep(runs, [train("{recipe}")], titles=("student",))
