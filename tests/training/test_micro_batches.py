"""The rule that cuts a step's batch."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, Mesh

from configs import digits
from diffusion.experiments.run import program
from diffusion.models.dit import DiT
from diffusion.models.song_unet import SongUNet
from diffusion.recipe import ConfigError, Recipe
from diffusion.training import micro_batches, sharding


@pytest.mark.parametrize(
    ("batch_size", "block", "expected"), [(64, 1, 4), (2, 1, 1), (66, 1, 1), (64, 16, 4), (64, 32, 1)]
)
def test_a_cpu_takes_four_parts_where_they_divide(batch_size, block, expected):
    mesh = Mesh(jax.devices()[:1], "data")
    assert micro_batches.number(batch_size, mesh, block) == expected
    assert micro_batches.number(4, mesh) == 4  # blocks of one, if nothing is said


@pytest.mark.parametrize(
    ("platform", "devices", "expected"), [("cpu", 1, 4), ("gpu", 1, 1), ("tpu", 1, 1), ("cpu", 2, 1)]
)
def test_accelerators_and_several_devices_take_the_batch_whole(monkeypatch, platform, devices, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert micro_batches.number(64, AbstractMesh((devices,), ("data",))) == expected


def test_a_config_names_the_number_or_leaves_it_to_the_rule():
    one = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    config = digits.get_config()
    product = lambda seed: jnp.ones((2, 2)) @ jnp.full((2, 2), seed)
    assert Recipe.from_config(config).micro_batches(one, product) == 4
    config.train.accumulate = 2
    assert Recipe.from_config(config).micro_batches(one, product) == 2
    config.train.accumulate = 0
    config.objective["coupling"] = {"name": "optimal_transport", "block": 32}
    assert Recipe.from_config(config).micro_batches(one, product) == 1
    config.objective["coupling"] = {"name": "independent"}
    assert Recipe.from_config(config).micro_batches(one, lambda seed: convolution(3, 1)(jnp.ones((1, 8, 8, 1)))) == 1


def test_a_block_that_a_micro_batch_would_draw_from_several_devices_is_refused():
    config = digits.get_config("tiny")
    config.objective["coupling"] = {"name": "optimal_transport", "block": 16}
    config.train.update({"batch_size": 64, "accumulate": 2})
    recipe = Recipe.from_config(config).at((8, 8, 1))
    with pytest.raises(ConfigError, match=r"accumulate = 2: block = 16 does not divide the 8 examples.*each of 4 devi"):
        program.build(recipe, AbstractMesh((4, 1, 1, 1), sharding.AXES))


def convolution(side: int, stride: int):
    """A convolution in a compiled function, which is where networks have theirs."""
    kernel = jnp.ones((side, side, 1, 1))
    names = ("NHWC", "HWIO", "NHWC")
    inner = lambda x: jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=names)
    return lambda x: jax.lax.scan(lambda carry, _: (jax.jit(inner)(x).mean() + carry, None), 0.0, None, length=2)[0]


@pytest.mark.parametrize(("side", "stride", "expected"), [(3, 1, True), (3, 2, True), (1, 1, True), (2, 2, False)])
def test_a_convolution_is_found_wherever_it_stands_and_patches_are_none(side, stride, expected):
    assert micro_batches.convolves(convolution(side, stride), jax.ShapeDtypeStruct((1, 8, 8, 1), "float32")) == expected


@pytest.mark.extended
def test_networks_that_convolve_are_distinguished_from_transformers():
    shape = jax.ShapeDtypeStruct((1, 16, 16, 3), "float32")
    transformer = DiT(patch=2, width=8, depth=1, heads=2, num_classes=0)
    for network, expected in ((transformer, False), (SongUNet(16, width=8, multipliers=(1,), blocks=1), True)):
        init = lambda x, network=network: network.init(jax.random.key(0), x, jnp.ones([1]))
        assert micro_batches.convolves(init, shape) == expected
