"""FrameFlow's flow on the frames of 32 residues, by class of fold, on ideal folds that are made here.

    diffusion train --config=proteins/frames --workdir=runs/frames
    diffusion sample --workdir=runs/frames
    diffusion evaluate --workdir=runs/frames --metrics=backbone

Rotations start uniform and positions normal, in nanometres, turned towards the chain, and both move along geodesics.
Close to the data the loss has a largest weight, and those of atoms and of their distances. The commands write each
sample as a PDB file, and measure bonds, angles, clashes and torsions beside those of real folds and of noise. The test
split has a variant of each fold that training never sees.

Presets: `frames:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("small_flow")
RESIDUES = 32
TINY = base.tiny(batch_size=8, samples=12) | {
    "data.source": {"name": "ideal_folds", "number": 60},
    "model.width": 16,
    "model.heads": 2,
    "model.depth": 1,
    "model.pair_width": 8,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    objective = {
        "name": "riemannian_flow_matching",
        "manifold": {"name": "frames", "n": RESIDUES},
        "prior": {"name": "frame_prior", "n": RESIDUES},
        "density": {"name": "uniform_density", "strata": 32},
        "coupling": {"name": "aligned_frames"},
        "weighting": {"name": "at_most", "most": 100.0, "weighting": {"name": "constant"}},
        "auxiliary": {"name": "atoms_and_distances", "until": 0.25},
        "wrappers": (),
    }
    config = base.flow({"name": "ideal_folds", "withheld": 1}, objective, steps=7500, batch_size=32)
    config.parameterization.clock = {"name": "time"}
    config.model = {
        "name": "frame_transformer",
        "width": 64,
        "depth": 3,
        "heads": 4,
        "pair_width": 32,
        "num_classes": 6,
    }
    config.checkpoint.every = 500
    base.sampled(config, "frame_ancestral", steps=100, number=240, batch_size=60)
    config.sample.grid = {"name": "polynomial", "rho": 2.0}
    config.evaluate.number = 600
    return recipes.preset(config, arg, {"tiny": TINY})
