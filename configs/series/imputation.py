"""Imputation: flow matching on single points and gaps of a series, given the rest.

    diffusion train --config=series/imputation --workdir=runs/imputation
    diffusion sample --workdir=runs/imputation
    diffusion evaluate --workdir=runs/imputation --metrics=crps

Single points and gaps of up to 12 steps, which may join, are hidden until a share between 10 and 70 % of the series is
reached. The data are those of series/forecast, and the exact conditional distribution stands beside the model's in
every figure. Series of your own: docs/series.md.

Presets: `imputation:channels` (three related series), `imputation:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("series/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    return base.finished(base.flow({"name": "gaps"}), arg)
