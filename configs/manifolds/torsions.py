"""Flow matching on the torus: simulated torsions of a peptide, wrapped normals in the Ramachandran plot's basins.

    diffusion train --config=manifolds/torsions --workdir=runs/torsions
    diffusion sample --workdir=runs/torsions
    diffusion evaluate --workdir=runs/torsions --metrics=nll

The torsions are drawn from textbook centres and widths; no measured structure is behind them.

Presets: `torsions:diffusion` (score matching by the heat kernel, sampled by a geodesic random walk), `torsions:tiny`
(seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("manifolds/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.flow("torsion_mixture", {"name": "torus", "n": 2})
    config.model.periodic = True
    if arg == "diffusion":
        base.diffused(config, {"name": "torus", "dimension": 2}, sigma_max=3.0)
        arg = ""
    return base.finished(config, arg)
