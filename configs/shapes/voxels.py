"""Class-conditional flow matching on signed distances of solids at 16^3 voxels, by a U-Net of volumes.

    diffusion train --config=shapes/voxels --workdir=runs/voxels
    diffusion sample --workdir=runs/voxels
    diffusion evaluate --workdir=runs/voxels --metrics=clouds

The surface of a sample lies where its distance is zero.

Time and figures: docs/shapes.md.

Presets: `voxels:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("shapes/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.flow({"name": "solid_distances", "side": 16})
    config.model = {
        "name": "unet",
        "widths": (8, 16, 32),
        "blocks": 1,
        "attention_levels": (2,),
        "heads": 4,
        "groups": 8,
        "scale_shift": True,
        "resample": "block",
        "num_classes": 8,
    }
    config.train.batch_size = 16
    config.train.steps = 3000
    config.objective.density.strata = 16
    tiny = {
        "data.source": {"name": "solid_distances", "side": 8, "number": 40},
        "model.widths": (8, 8),
        "model.attention_levels": (),
    }
    return base.finished(config, arg, tiny, {})
