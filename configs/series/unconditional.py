"""Whole series, by flow matching: a model to be conditioned afterwards, without training (TSDiff's way).

    diffusion train --config=series/unconditional --workdir=runs/series
    diffusion sample --workdir=runs/series

docs/series.md has its forecasts and imputations. The data are those of series/forecast.

Presets: `unconditional:channels` (three related series), `unconditional:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("series/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    return base.finished(base.flow(None), arg)
