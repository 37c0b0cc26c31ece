"""Examples that are pytrees, as one vector each."""

import jax
import numpy as np
import pytest

from diffusion import pytrees
from diffusion.data import packing

SHAPE = {"charges": (2,), "positions": (2, 3), "energy": ()}


def example(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf).astype(np.float32), SHAPE, is_leaf=pytrees.is_shape)


def test_a_pytree_of_a_batch_comes_back():
    several = [example(seed) for seed in range(3)]
    packed = np.stack([packing.pack(one, SHAPE) for one in several])
    assert packed.shape == (3, 9) == (3, *pytrees.packed_shape(SHAPE)) and packed.dtype == np.float32
    back = pytrees.unpack(packed, SHAPE)
    assert pytrees.shapes_of(jax.tree.map(lambda leaf: leaf[0], back)) == SHAPE
    for row, one in enumerate(several):
        jax.tree.map(lambda leaf, expected, row=row: np.testing.assert_array_equal(leaf[row], expected), back, one)
    np.testing.assert_array_equal(packed[:, :2], [one["charges"] for one in several])  # in the order of the keys


def test_an_array_is_packed_as_it_is():
    x = np.arange(6, dtype=np.uint8).reshape(3, 2)
    assert packing.pack(x, (3, 2)) is x and pytrees.unpack(x, (2,)) is x and pytrees.packed_shape((3, 2)) == (3, 2)


@pytest.mark.parametrize("other", [{"charges": np.zeros(3), "positions": np.zeros((2, 3)), "energy": 0.0}, {"x": 1.0}])
def test_another_pytree_is_refused(other):
    with pytest.raises(ValueError, match=r"the example has the shape .*; expected .*positions.: \(2, 3\)"):
        packing.pack(other, SHAPE)
