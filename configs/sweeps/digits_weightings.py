"""What a network predicts, and how its loss is weighted: 3 x 5 on handwritten digits, three seeds each, 45 runs.

    diffusion sweep --sweep=digits_weightings --workdir=runs/weightings --jobs=2
    diffusion sweep --workdir=runs/weightings --table

A weighting multiplies the squared error of x0, so it means the same loss whatever the network predicts
(diffusion/objectives/weightings.py). What remains between epsilon, x0 and v is how well the network learns each. The
training is short, a quarter of `configs/digits.py`, so that differences show. All share the process (variance
preserving, linear beta), its times (uniform), the network, the noise of the samples, and DPM-Solver++ in 20 steps
without guidance.

Time: about 45 minutes on two CPU cores (measured: a run with its samples and their evaluation 2 minutes of one core of
2.6 GHz; 45 runs, two at a time). Figures and conclusion: docs/results.md.
Presets: `digits_weightings:tiny` (4 runs of a tiny network, to see that everything works).
"""

from diffusion.experiments.sweeps.combinators import each, product, zip
from diffusion.experiments.sweeps.commands import evaluate, sample, train
from diffusion.experiments.sweeps.definition import Sweep, is_tiny

PREDICTIONS = ("epsilon", "x0", "v")
WEIGHTINGS = {
    "x0": {"name": "constant", "parameterization": {"name": "x0"}},  # weight one on the error of x0
    "epsilon": {"name": "snr"},  # constant on the error of epsilon: DDPM's loss
    "v": {"name": "constant", "parameterization": {"name": "v"}},  # constant on the error of v: SNR + 1
    "min_snr": {"name": "min_snr", "gamma": 5.0},
    "p2": {"name": "p2"},
}
COMMON = {
    "schedule": {"name": "variance_preserving"},
    "parameterization": {"name": "v", "clock": {"name": "steps"}},
    "objective": {
        "name": "denoising",
        "density": {"name": "uniform_density", "strata": 64},
        "weighting": {"name": "snr"},
    },
    "train.steps": 1000,
    "checkpoint.every": 500,
    "sample.sampler": {"name": "dpmpp_2m"},
    "sample.guidance.scale": 1.0,
    "sample.number": 1000,
}
TINY = {"objective.density.strata": 32, "train.steps": 40, "checkpoint.every": 20, "sample.number": 20}


def get_sweep(arg: str = "") -> Sweep:
    """The sweep, or a preset of it; see the module's docstring."""
    tiny = is_tiny(arg)
    few = 2 if tiny else None
    runs = product(
        [COMMON | TINY if tiny else COMMON],
        each("parameterization.name", PREDICTIONS[:few]),
        zip(each("weighting", list(WEIGHTINGS)[:few]), each("objective.weighting", list(WEIGHTINGS.values())[:few])),
        each("seed", range(1 if tiny else 3)),
    )
    config = "digits:tiny" if tiny else "digits"
    return Sweep(runs, [train(config), sample(), evaluate()], titles=("weighting",))
