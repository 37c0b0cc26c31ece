"""Class-conditional flow matching on points in the plane, three arms of a spiral: a small run on vectors.

    diffusion train --config=points --workdir=runs/points
    diffusion sample --workdir=runs/points

Time: under a minute on two CPU cores. `diffusion sample` writes a chart of the samples, with a colour for each arm.

To train on your own points, float32 [N, D], write them by `np.savez("mine.npz", x=points)` and add these flags:
`--config.data.source='{"name": "arrays", "path": "mine.npz"}' --config.model.num_classes=0
--config.objective.wrappers='()'`.

Presets: `points:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("small_flow")

PRESETS = {
    "tiny": {
        "data.source": {"name": "spirals", "number": 500},
        "model.width": 16,
        "model.depth": 1,
        "train.steps": 20,
        "train.batch_size": 32,
        "train.log_every": 10,
        "objective.density.strata": 32,
        "optimizer.warmup": 5,
        "checkpoint.every": 20,
        "ema.decay": 0.9,
        "sample.steps": 4,
        "sample.number": 30,
        "sample.batch_size": 30,
    }
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    objective = {
        "name": "flow_matching",
        "density": {"name": "uniform_density", "strata": 128},
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config = base.flow({"name": "spirals"}, objective, steps=3000, batch_size=128)
    config.model = {"name": "mlp", "width": 64, "depth": 3, "num_classes": 3}
    config.train.log_every = 500
    base.sampled(config, "dpmpp_2m", steps=20, number=3000, batch_size=3000)
    config.evaluate.number = 3000
    return recipes.preset(config, arg, PRESETS)
