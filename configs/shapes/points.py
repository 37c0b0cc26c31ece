"""Class-conditional flow matching on point clouds, 128 or 512 points on surfaces of solids, by a transformer of sets.

    diffusion train --config=shapes/points --workdir=runs/clouds
    diffusion sample --workdir=runs/clouds
    diffusion evaluate --workdir=runs/clouds --metrics=clouds

Time: 8.6 minutes of CPU, compilation included. Figures: docs/shapes.md.

To train on your own meshes and clouds, FOLDER/CLASS/FILE.obj (.off, .ply, .stl, .npy), add these flags:
`--config.data.source='{"name": "mesh_clouds", "path": FOLDER}' --config.model.num_classes=N
--config.data.split='train[:90%]' --config.evaluate.split='train[90%:]'`.

Presets: `points:large` (512 points, a network of 9.7 M parameters, for a GPU: 30,000 steps in 9 minutes of an H200 that
two other trainings used too), `points:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("shapes/base")
LARGE = {
    "model.width": 256,
    "model.depth": 8,
    "model.heads": 8,
    "data.source": {"name": "solid_points", "points": 512, "number": 40_000},
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup": 200,
    "ema.decay": 0.999,
    "train.steps": 30_000,
    "train.batch_size": 64,
    "train.dtype": "bfloat16",
    "objective.density.strata": 64,
    "sample.steps": 50,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.flow({"name": "solid_points"})
    config.model = {"name": "set_transformer", "width": 64, "depth": 4, "heads": 4, "num_classes": 8}
    tiny = {"data.source": {"name": "solid_points", "points": 24, "number": 40}, "model.width": 16, "model.depth": 1}
    return base.finished(config, arg, tiny, {"large": LARGE})
