import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.training import gradient_norms
from tests.training import toys


def tree():
    """Two scanned layers, a module with nothing stacked, and one named like a stack whose leaves share no axis."""
    draw = lambda *shape: np.asarray(rng.normal(size=shape), np.float32)
    rng = np.random.default_rng(0)
    return {
        "params": {
            "single_blocks": {"mlp": {"kernel": draw(2, 3, 4), "bias": draw(2, 4)}},
            "final": {"kernel": draw(5, 5), "bias": draw(5)},
            "layers": {"a": draw(2), "b": draw(3)},
            "scale": draw(),
        }
    }


def norm(part):
    return np.linalg.norm(np.concatenate([np.ravel(leaf).astype(float) for leaf in jax.tree.leaves(part)]))


def test_norms_are_those_of_the_parts():
    gradients = tree()
    norms = dict(zip(gradient_norms.names(gradients), jax.jit(gradient_norms.by_block)(gradients), strict=True))
    assert list(norms) == ["final", "layers", "scale", "single_blocks/0", "single_blocks/1"]
    of = gradients["params"]
    for layer in range(2):
        part = jax.tree.map(lambda leaf, layer=layer: leaf[layer], of["single_blocks"])
        np.testing.assert_allclose(norms[f"single_blocks/{layer}"], norm(part), rtol=1e-6)
    for block in ("final", "layers", "scale"):
        np.testing.assert_allclose(norms[block], norm(of[block]), rtol=1e-6)


def test_squares_add_up_to_the_whole_whatever_the_type():
    gradients = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree())
    norms = jax.jit(gradient_norms.by_block)(gradients)
    assert norms.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(norms), norm(gradients), rtol=1e-6)


@pytest.mark.parametrize("size", [300.0, 1e-4])
def test_no_square_of_half_precision_overflows_or_vanishes(size):
    """The squares 9e4 and 1e-8 are infinite and 0 in float16."""
    leaf = np.full((2, 3), size, np.float16)
    norms = gradient_norms.by_block({"out": leaf, "layers": {"kernel": leaf}})
    expected = float(leaf[0, 0]) * np.sqrt([3, 3, 6])  # of each scanned layer, and of the whole leaf
    np.testing.assert_allclose(norms, expected, rtol=1e-6)


def test_names_need_shapes_alone_and_a_plain_pytree_will_do():
    shapes = jax.eval_shape(toys.make_state).params
    assert gradient_norms.names(shapes) == ["hidden", "out"]
    assert jax.eval_shape(gradient_norms.by_block, shapes).shape == (2,)
    assert gradient_norms.by_block({}).shape == (0,)
