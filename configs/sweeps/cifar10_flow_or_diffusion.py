"""Flow matching against diffusion at equal compute on CIFAR-10: three methods, three seeds each, 9 runs.

    diffusion sweep --sweep=cifar10_flow_or_diffusion --workdir=runs/methods --jobs=2
    diffusion sweep --workdir=runs/methods --table

TFDS_DATA_DIR holds CIFAR-10 as TFDS prepares it. The methods have the same network (a DiT of 1.3 M parameters in
patches of 4), the same batches, steps and optimizer, and 35 evaluations of the network for a sample, by Heun's method:

- flow: rectified flow, velocity, logit-normal times (Lipman et al. 2023; Esser et al. 2024);
- diffusion: cosine schedule, v, min-SNR weights, uniform times (Nichol and Dhariwal 2021; Hang et al. 2023);
- edm: EDM's preconditioning, weights and times, and its grid (Karras et al. 2022).

A tiny network that trains for an hour gives no good pictures, but the methods can be compared. Distances are those of
2,000 samples to the test images, in pixels and in features of a classifier. With FILE, a file of FID's Inception
network, `cifar10_flow_or_diffusion:FILE` adds the FID by EDM's protocol.

Time: a step is 0.31 s of one core, 2,000 of them with the samples and their evaluation a quarter of an hour; 9 runs,
one on each of two cores, some 70 minutes. Figures: docs/results.md.
Presets: `cifar10_flow_or_diffusion:tiny` (3 runs of 20 steps, to see that everything works).
"""

from diffusion.experiments.sweeps.combinators import each, product, zip
from diffusion.experiments.sweeps.commands import evaluate, sample, train
from diffusion.experiments.sweeps.definition import Sweep
from diffusion.recipe import ConfigError

STEPS_CLOCK = {"name": "steps"}
METHODS = {
    "flow": {
        "schedule": {"name": "rectified_flow"},
        "parameterization": {"name": "velocity", "clock": STEPS_CLOCK},
        "objective": {"name": "flow_matching", "density": {"name": "logit_normal", "strata": 64}},
    },
    "diffusion": {
        "schedule": {"name": "cosine"},
        "parameterization": {"name": "v", "clock": STEPS_CLOCK},
        "objective": {
            "name": "denoising",
            "density": {"name": "uniform_density", "strata": 64},
            "weighting": {"name": "min_snr"},
        },
    },
    "edm": {
        "schedule": {"name": "edm"},
        "parameterization": {"name": "edm"},
        "objective": {
            "name": "denoising",
            "density": {"name": "log_normal", "strata": 64},
            "weighting": {"name": "edm"},
        },
        "sample.grid": {"name": "karras"},
    },
}
COMMON = {
    "model.patch": 4,
    "model.width": 128,
    "model.depth": 4,
    "model.heads": 4,
    "model.unroll": 4,
    "train.dtype": "float32",
    "train.batch_size": 64,
    "train.steps": 2000,
    "train.log_every": 50,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup": 200,
    "optimizer.decay": "cosine",
    "ema.decay": 0.999,
    "checkpoint.every": 500,
    "evaluate.every": 0,
    "sample.steps": 18,
    "sample.guidance.scale": 1.0,
    "sample.number": 2000,
    "sample.batch_size": 250,
    "evaluate.number": 2000,
    "evaluate.features": ("pixels", "classifier"),
    "data.threads": 1,
}
TINY = {
    "model.width": 32,
    "model.depth": 2,
    "model.unroll": 1,
    "train.steps": 20,
    "train.log_every": 5,
    "checkpoint.every": 10,
    "optimizer.warmup": 5,
    "sample.steps": 3,
    "sample.number": 20,
    "evaluate.number": 20,
    "evaluate.features": ("pixels",),
}


def get_sweep(arg: str = "") -> Sweep:
    """The sweep, its preset "tiny", or with the FID by the network in the file `arg`."""
    tiny = arg == "tiny"
    if arg and not tiny and not arg.endswith((".safetensors", ".pth", ".pt")):
        raise ConfigError(
            f"cifar10_flow_or_diffusion:{arg} is not known. Valid: tiny, or a file of FID's Inception network."
        )
    runs = product(
        [COMMON | TINY if tiny else COMMON],
        zip(each("method", METHODS), list(METHODS.values())),
        each("seed", range(1 if tiny else 3)),
    )
    fid = ("--protocol=edm", f"--inception={arg}") if arg and not tiny else ()
    return Sweep(runs, [train("cifar10_dit"), sample(), evaluate(*fid)], titles=("method",))
