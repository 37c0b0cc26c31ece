"""Forecasting: flow matching on the last 16 steps of a series, given the 32 steps before.

    diffusion train --config=series/forecast --workdir=runs/forecast
    diffusion sample --workdir=runs/forecast
    diffusion evaluate --workdir=runs/forecast --metrics=crps

Series are drawn from a Gaussian process with a trend, a season of 12 steps and noise, whose exact forecasts stand
beside the model's in every figure. Series of your own: docs/series.md.

Presets: `forecast:channels` (three related series), `forecast:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("series/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    return base.finished(base.flow({"name": "forecast", "horizon": 16}), arg)
