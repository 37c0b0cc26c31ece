"""Objectives that leave out patches, by their names in a config, with the networks that take them."""

import pytest

from configs import digits
from diffusion.experiments import train
from diffusion.experiments.run import program
from diffusion.recipe import ConfigError, checks

MASK_DIT = {"name": "mask_dit", "patch": 2, "width": 16, "depth": 1, "heads": 2, "num_classes": 10}
MASK_DIT |= {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
MASKED = {"name": "masked_denoising", "density": {"name": "log_normal"}, "weighting": {"name": "edm"}}


def config_of(**objective):
    """EDM's process, as MaskDiT has it, with a small network."""
    config = digits.get_config("tiny")
    config.schedule = {"name": "edm"}
    config.parameterization = {"name": "edm"}
    config.objective = {**MASKED, **objective, "wrappers": ({"name": "condition_dropout", "rate": 0.1},)}
    config.model = MASK_DIT
    return config


@pytest.mark.extended
def test_a_step_is_built_with_masks():
    config = config_of(patch=2, ratio=0.5, reconstruction=0.1)
    recipe = checks.validate(config).at((8, 8, 1))
    assert recipe.objective.condition.masks == 2 and recipe.objective.condition.dropout == pytest.approx(0.1)
    program.build(recipe, program.mesh_of(config))  # which traces the step


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"patches of 4 x 4 pixels.*patch = 4"):
        checks.validate(config_of(patch=4))
    with pytest.raises(ConfigError, match=r"config\.objective.*ratio = 2.0"):
        checks.validate(config_of(ratio=2.0))
    config = config_of()
    config.objective = {
        "name": "flow_matching",
        "density": {"name": "uniform_density"},
        "wrappers": ({"name": "masked_copy", "least": 0.9},),
    }
    with pytest.raises(ConfigError, match=r"config\.objective\.wrappers\[0\].*least = 0.9, most = 0.5"):
        checks.validate(config)
    config.objective.wrappers = ({"name": "masked_copy", "lest": 0.3},)
    with pytest.raises(ConfigError, match=r"config\.objective\.wrappers\[0\].*'lest'.*'least'"):
        checks.validate(config)
    config.objective.wrappers = ({"name": "masked_copy"},)
    config.model = {"name": "dit", "patch": 2, "width": 16, "depth": 1, "heads": 2, "num_classes": 10}
    with pytest.raises(ConfigError, match="which this network does not support"):
        checks.validate(config)


@pytest.mark.slow
def test_a_step_of_mdt_is_built_with_both_losses():
    config = digits.get_config("tiny")
    config.schedule = {"name": "linear_beta"}
    learned = {"name": "epsilon", "clock": {"name": "steps", "T": 1000}}
    config.parameterization = {"name": "learned_variance", "parameterization": learned}
    config.objective = {
        "name": "hybrid",
        "density": {"name": "discrete_density"},
        "wrappers": ({"name": "masked_copy", "patch": 2},),
    }
    config.model = {"name": "mdt", "patch": 2, "width": 16, "depth": 3, "heads": 2, "num_classes": 10}
    config.model.decoder_depth = 1
    config.sample.guidance.scale = 1.0
    recipe = checks.validate(config).at((8, 8, 1))
    assert recipe.network.shape == (8, 8, 1) and recipe.network.learn_sigma and recipe.objective.condition.masks == 2
    program.build(recipe, program.mesh_of(config))


@pytest.mark.slow
def test_a_run_trains_with_masks_goes_on_without_and_makes_samples(tmp_path):
    config = config_of()
    config.train.update({"steps": 4, "log_every": 2, "batch_size": 8})
    config.sample.update({"number": 4, "batch_size": 4, "steps": 3})
    assert train.run(config, tmp_path / "masked") == 0
    config.objective = {**MASKED, "name": "denoising", "wrappers": ({"name": "condition_dropout", "rate": 0.1},)}
    config.init_from.path = str(tmp_path / "masked")
    assert train.run(config, tmp_path / "whole") == 0
