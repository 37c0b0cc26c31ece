"""FrameFlow's flow on the frames of 32 residues, by class of fold, on ideal folds that are made here.

    diffusion train --config=proteins/frames --workdir=runs/frames
    diffusion sample --workdir=runs/frames
    diffusion evaluate --workdir=runs/frames --metrics=backbone

Rotations start uniform and positions normal, in nanometres, and both move along geodesics. The commands write each
sample as a PDB file, and measure bonds, angles, clashes and torsions beside those of real folds and of noise.

Presets: `frames:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.experiments.config.defaults import defaults
from diffusion.experiments.config.recipes import preset

RESIDUES = 32
PRESETS = {
    "tiny": {
        "data.source": {"name": "ideal_folds", "number": 60},
        "model.width": 16,
        "model.heads": 2,
        "model.depth": 1,
        "model.pair_width": 8,
        "train.steps": 20,
        "train.batch_size": 8,
        "train.log_every": 10,
        "objective.density.strata": 8,
        "optimizer.warmup": 5,
        "checkpoint.every": 20,
        "ema.decay": 0.9,
        "sample.steps": 4,
        "sample.number": 12,
        "sample.batch_size": 12,
        "evaluate.number": 12,
    }
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = defaults()
    config.data.source = {"name": "ideal_folds"}
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "time"}}
    config.objective = {
        "name": "riemannian_flow_matching",
        "manifold": {"name": "frames", "n": RESIDUES},
        "prior": {"name": "frame_prior", "n": RESIDUES},
        "density": {"name": "uniform_density", "strata": 32},
        "condition_dropout": 0.1,
    }
    config.model = {
        "name": "frame_transformer",
        "width": 64,
        "depth": 3,
        "heads": 4,
        "pair_width": 32,
        "num_classes": 6,
    }
    config.optimizer = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "warmup": 100,
        "decay": "cosine",
        "weight_decay": 0.0,
        "clip": 1.0,
    }
    config.ema.update({"decay": 0.999, "warmup": True})
    config.train.steps = 2000
    config.train.batch_size = 32
    config.train.log_every = 100
    config.checkpoint.every = 500
    config.sample.sampler = {"name": "geodesic_euler"}
    config.sample.steps = 100
    config.sample.number = 240
    config.sample.batch_size = 60
    config.sample.guidance.scale = 1.0
    config.evaluate.update({"every": 0, "number": 600, "split": "test", "features": ("pixels",)})
    return preset(config, arg, PRESETS)
