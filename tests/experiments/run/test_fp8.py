"""Runs with products in fp8: what refuses them; and (slow) the digits beside bfloat16."""

import numpy as np
import pytest

from benchmarks import fp8 as benchmark
from diffusion.experiments.run import program
from diffusion.models.layers import fp8
from diffusion.recipe import ConfigError, Recipe, recipes
from diffusion.training import sharding


def built(recipe="digits", shape=(8, 8, 1), **changes):
    config = recipes.load(recipe)
    config.update_from_flattened_dict({"train.products": "fp8"} | changes)
    return program.build(Recipe.from_config(config, shape), sharding.make_mesh({"data": 1}))


def test_a_device_without_fp8_is_refused(monkeypatch):
    monkeypatch.setattr(fp8, "refusal", lambda device: "A100 has compute capability 8.0")
    with pytest.raises(ConfigError, match=r"config\.train\.products = 'fp8': A100 has .*8\.0\. Valid here: dtype"):
        built()


def test_forward_mode_is_refused():
    with pytest.raises(ConfigError, match=r"'fp8' has no forward-mode derivative,.*\. Valid: dtype"):
        built("digits_mean_flow")


@pytest.mark.extended
def test_a_network_without_such_products_is_refused():
    config = recipes.load("digits")
    config.train.products = "fp8"
    config.model = {"name": "unet", "widths": (8,), "blocks": 1, "groups": 4, "num_classes": 10}
    with pytest.raises(ConfigError, match="'fp8' needs a network whose dense layers over tokens"):
        program.build(Recipe.from_config(config, (8, 8, 1)), sharding.make_mesh({"data": 1}))


@pytest.mark.slow
def test_the_digits_learn_in_fp8_as_in_bfloat16(tmp_path):
    plain, rounded = (benchmark.trained(tmp_path / name, name, 300)[1] for name in benchmark.PRODUCTS)
    assert plain != rounded
    assert np.mean(plain[3:]) < 0.6 * plain[0]  # it has learned something
    assert abs(np.mean(rounded[3:]) / np.mean(plain[3:]) - 1) < 0.03
