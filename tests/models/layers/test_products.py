"""rows_first is dot_general: the same product and derivatives, whatever dimensions x keeps and the kernel gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.layers.products import rows_first

CASES = [((2, 3, 4), (4, 5), 1), ((3, 4), (4, 2, 5), 1), ((2, 3, 4, 5), (4, 5, 6), 2), ((4,), (4, 5), 1)]


@pytest.mark.extended
@pytest.mark.parametrize(("shape", "kernel", "summed"), CASES)
def test_it_is_the_product_and_its_derivatives(shape, kernel, summed):
    rng = np.random.default_rng(0)
    x, w, dx, dw = (jnp.asarray(rng.integers(-4, 5, size), jnp.float32) for size in (shape, kernel, shape, kernel))
    product = lambda x, w: rows_first(x, w, ((tuple(range(x.ndim - summed, x.ndim)), tuple(range(summed))), ((), ())))
    out, tangent = jax.jvp(product, (x, w), (dx, dw))
    np.testing.assert_array_equal(out, np.tensordot(x, w, summed))  # integers: exact in any order
    np.testing.assert_array_equal(tangent, np.tensordot(dx, w, summed) + np.tensordot(x, dw, summed))
    gx, gw = jax.vjp(product, x, w)[1](out)
    kept = len(shape) - summed
    free = len(kernel) - summed
    outputs = tuple(range(summed, len(kernel)))
    np.testing.assert_array_equal(gx, np.tensordot(out, w, (tuple(range(kept, kept + free)), outputs)))
    np.testing.assert_array_equal(gw, np.tensordot(x, out, (tuple(range(kept)), tuple(range(kept)))))


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="the last dimensions of x over the first of the kernel"):
        rows_first(jnp.ones((3, 4)), jnp.ones((3, 5)), (((0,), (0,)), ((), ())))
