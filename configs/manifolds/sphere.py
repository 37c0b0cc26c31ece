"""Flow matching on the sphere S^2: four von Mises-Fisher distributions.

    diffusion train --config=manifolds/sphere --workdir=runs/sphere
    diffusion sample --workdir=runs/sphere
    diffusion evaluate --workdir=runs/sphere --metrics=nll

The picture of the samples is the whole sphere, in Hammer's projection, which keeps areas.

Presets: `sphere:diffusion` (score matching by the heat kernel, sampled by a geodesic random walk), `sphere:tiny`
(seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("manifolds/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.flow("sphere_mixture", {"name": "sphere", "n": 2})
    if arg == "diffusion":
        base.diffused(config, {"name": "sphere", "dimension": 2}, sigma_max=3.0)
        arg = ""
    return base.finished(config, arg)
