"""Flow matching on the rotations SO(3): three distributions IGSO(3).

    diffusion train --config=manifolds/so3 --workdir=runs/so3
    diffusion sample --workdir=runs/so3
    diffusion evaluate --workdir=runs/so3 --metrics=nll

Each rotation is a matrix [3, 3]. The picture shows where the rotations take the axis z, and the angle about it as
colour.

Presets: `so3:diffusion` (score matching by the heat kernel, sampled by a geodesic random walk), `so3:tiny`
(seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("manifolds/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.flow("rotation_mixture", {"name": "so3"})
    if arg == "diffusion":
        base.diffused(config, {"name": "so3"}, sigma_max=3.0)
        arg = ""
    return base.finished(config, arg)
