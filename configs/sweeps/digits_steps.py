"""Samplers by their steps on a run of the recipe `digits`, from the same noise: 12 runs that train nothing.

    diffusion train --config=digits --workdir=runs/digits
    diffusion sweep --sweep=digits_steps --workdir=runs/digits_steps
    diffusion sweep --workdir=runs/digits_steps --table

Time: about 4 minutes on two CPU cores (20 s a run, most of it start and evaluation).
Presets: `digits_steps:tiny` (of a run in runs/digits_tiny, to see that everything works).
"""

from diffusion.experiments.sweeps.combinators import each, product
from diffusion.experiments.sweeps.commands import evaluate, sample
from diffusion.experiments.sweeps.definition import Sweep, is_tiny


def get_sweep(arg: str = "") -> Sweep:
    """The sweep, or a preset of it; see the module's docstring."""
    few, model = (2, "runs/digits_tiny") if is_tiny(arg) else (None, "runs/digits")
    runs = product(
        [{"sample.number": 20 if few else 1000}],
        each("sample.sampler.name", ("euler", "heun", "dpmpp_2m")[:few]),
        each("sample.steps", (2, 4, 8, 16)[:few]),
    )
    return Sweep(
        runs, [sample("--out={folder}", "{overrides}", folder=model), evaluate("--samples={folder}", folder=model)]
    )
