"""T2I-Adapters: which of their features a U-Net receives, and pictures of odd sides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.published.stable_diffusion.network import ConditionalUNet, level_shapes
from diffusion.published.stable_diffusion.t2i_adapter import T2IAdapter
from tests import numpy_programs

UNET = ConditionalUNet((16, 32), (1, 1), (2, 2), 8, groups=8)
X = jnp.zeros((2, 8, 8, 4))


def entries(seen):
    """The level residuals that the U-Net receives of features, with the weights 0.5 and 2."""
    attachment = T2IAdapter((16, 32, 32), 1, 2, kind="light").attachment({}, UNET, {})
    weight = jnp.array([0.5, 2.0])
    return attachment.entries({}, weight, seen, X, jnp.zeros(2), jnp.zeros(2), {})["level_residuals"]


@pytest.mark.extended
def test_a_light_adapter_with_a_width_for_each_level_has_one_feature_too_many():
    """Its last one is half as large as the middle: it is left out, and was refused by the U-Net."""
    module = T2IAdapter((16, 32, 32), 1, 2, kind="light")
    picture = np.random.default_rng(0).uniform(0, 1, (2, 16, 16, 3)).astype(np.float32)
    features = module.init_with_output(jax.random.key(0), picture)[0]
    assert [feature.shape[1:] for feature in features] == [(8, 8, 16), (4, 4, 32), (2, 2, 32)]
    received = entries(features)
    assert [leaf.shape[1:] for leaf in received] == list(level_shapes(UNET, 8, 8)[:-1])
    for leaf, feature in zip(received, features):
        np.testing.assert_allclose(leaf, feature * np.array([0.5, 2.0])[:, None, None, None], rtol=1e-6)
    UNET.checked(X, jnp.zeros(2), {"text": jnp.zeros((2, 3, 8)), "level_residuals": received})


def test_a_feature_of_the_middles_shape_is_added_there():
    features = tuple(jnp.ones((2, *shape)) for shape in level_shapes(UNET, 8, 8))
    assert len(entries(features)) == 3
    assert len(entries(features[:-1])) == 2
    received = entries((*features[:-1], jnp.ones((2, 2, 2, 32))))  # half as large as the middle
    assert [leaf.shape for leaf in received] == [leaf.shape for leaf in features[:-1]]


@pytest.mark.parametrize(
    ("kind", "sides"), [("full", (8, 4, 2, 1)), ("full_xl", (8, 8, 4, 4)), ("light", (8, 4, 2, 1))]
)
def test_a_kind_halves_the_side_before_its_levels(kind, sides):
    """That of SDXL only once, before the third."""
    module = T2IAdapter((8, 12, 12, 16), 1, 2, kind=kind)
    features = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, 16, 16, 3)))
    assert [feature.shape[1] for feature in features] == list(sides)


def test_an_odd_side_is_halved_with_the_mean_of_what_is_there():
    """By an adapter whose layers pass on a grey picture."""
    module = T2IAdapter((4, 4), 1, 1, 1, kind="light")
    picture = np.random.default_rng(0).uniform(0, 1, (1, 3, 5, 1)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), picture)["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    params["level_0_in"]["kernel"] += 1
    params["level_1_in"]["kernel"] += 1 / 4
    for level in range(2):
        params[f"level_{level}_out"]["kernel"] += 1
    first, second = numpy_programs.outputs(module.apply, {"params": params}, picture)
    np.testing.assert_allclose(first[..., 0], picture[..., 0], rtol=1e-6)
    means = [[picture[0, i : i + 2, j : j + 2].mean() for j in (0, 2, 4)] for i in (0, 2)]
    np.testing.assert_allclose(second[0, ..., 0], means, rtol=1e-6)
