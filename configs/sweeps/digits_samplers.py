"""Samplers by their steps on handwritten digits, down to one: 4 samplers of a teacher, and its students; 108 runs.

    diffusion sweep --sweep=digits_models --workdir=runs/digits_models --jobs=2
    diffusion sweep --sweep=digits_samplers --workdir=runs/samplers --jobs=2
    diffusion sweep --workdir=runs/samplers --table

A run samples one of the models of `digits_models.py` (which comes first), from the same noise as all others, and
evaluates the samples; nothing is trained. The ladder is 1000, 100, 50, 20, 8, 4, 2, 1 steps. Heun evaluates the network
twice in each step except the last: it has half as many steps, so that all are compared at equal evaluations ("nfe").
The students take the steps that they were distilled for. Seeds are those of the training.

Time: about half an hour on two CPU cores (measured: 63 minutes of one core of 2.6 GHz; a run of 1,000 evaluations takes
3 minutes, the others 16 to 40 s). Figures and conclusion: docs/results.md.
Presets: `digits_samplers:tiny` (of the tiny models in runs/digits_models_tiny, to see that everything works).
"""

from diffusion.experiments.sweeps.combinators import chain, each, product
from diffusion.experiments.sweeps.commands import evaluate, sample
from diffusion.experiments.sweeps.definition import Sweep, is_tiny
from diffusion.recipe import recipes

STUDENTS = recipes.module("digits_models", recipes.SWEEPS).STUDENTS

LADDER = (1000, 100, 50, 20, 8, 4, 2, 1)
ONE_A_STEP = ("ddpm", "ddim", "dpmpp_2m")  # evaluations of the network
HEUN = (500, 50, 25, 10, 4, 2, 1)


def get_sweep(arg: str = "") -> Sweep:
    """The sweep, or a preset of it; see the module's docstring."""
    tiny = is_tiny(arg)
    models = "runs/digits_models_tiny" if tiny else "runs/digits_models"
    shorten = lambda ladder: ladder[-2:] if tiny else ladder
    teacher_runs = product(
        [{"network": "teacher", "model": "teacher"}],
        chain(
            product(each("sample.sampler.name", ONE_A_STEP), each("sample.steps", shorten(LADDER))),
            product(each("sample.sampler.name", ("heun",)), each("sample.steps", shorten(HEUN))),
        ),
    )
    student_runs = [
        {"network": "student", "model": f"student_{N}", "sample.sampler.name": "ddim", "sample.steps": N}
        for N in shorten(STUDENTS)
    ]
    runs = product(chain(teacher_runs, student_runs), each("seed", range(1 if tiny else 3)))
    model = f"{models}/seed={{seed}}/{{model}}"
    if tiny:  # one seed, of which no name tells
        model = f"{models}/base/{{model}}"
    commands = [sample("--out={folder}", "{overrides}", folder=model), evaluate("--samples={folder}", folder=model)]
    return Sweep(runs, commands, titles=("network",))
