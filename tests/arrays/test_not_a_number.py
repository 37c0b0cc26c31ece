"""NaN in place of values that may not be used: it is NaN after every function, as XLA compiles it in use."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion.arrays.not_a_number import exponential, nan_unless, table_rows

FUNCTIONS = (jnp.exp, jnp.exp2, jnp.cosh, jnp.expm1, jax.nn.sigmoid, jax.nn.softmax, jax.nn.softplus, jax.nn.silu)
X = jnp.array([0.0, 2.0, 1.0, -9.0])


def after_each_function(lost):
    """A jitted function of x and a number, compiled anew: each of FUNCTIONS of what `lost` returns."""
    return jax.jit(lambda x, a: [function(lost(x, a)) for function in FUNCTIONS])


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_lost_value_is_nan_after_every_function(dtype):
    lost = lambda x, a: nan_unless(a < 1, x)
    for values in after_each_function(lost)(X.astype(dtype), 2.0):
        assert values.dtype == dtype and np.isnan(values).all()
    for values, function in zip(after_each_function(lost)(X.astype(dtype), 0.5), FUNCTIONS):
        np.testing.assert_allclose(*(np.asarray(a, np.float32) for a in (values, function(X.astype(dtype)))), 0.01)


@pytest.mark.usefixtures("as_in_use")
def test_a_row_that_a_table_does_not_have_is_nan_after_every_function():
    indices = jnp.array([[0, 3], [4, -1]])
    for values in after_each_function(table_rows)(jnp.outer(X, X), indices):
        assert values.shape == (2, 2, 4)
        np.testing.assert_array_equal(np.isnan(values).all(-1), [[False, False], [True, True]])
    np.testing.assert_array_equal(table_rows(X, indices)[0], [0, -9])


def test_a_table_may_be_an_array_of_numpy():
    """As the parameters of a network that a file holds."""
    np.testing.assert_array_equal(table_rows(np.array([3.0, 5.0]), np.array([1, 2])), [5, np.nan])


@pytest.mark.usefixtures("as_in_use")
def test_the_exponential_of_a_constant_nan_is_nan():
    of_constant = jax.jit(lambda a: exponential(jnp.where(a < 1, X, jnp.nan)))
    assert np.isnan(of_constant(2.0)).all()
    np.testing.assert_allclose(of_constant(0.5), np.exp(X), 1e-6)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.nansum(exponential(x)))(jnp.array([0.0, jnp.nan])), [1, 0])


def test_only_the_chosen_values_have_a_slope():
    x = jnp.array([1.0, -jnp.inf, 3.0, jnp.nan])
    chosen = jnp.array([True, True, False, False])
    np.testing.assert_array_equal(nan_unless(chosen, x), [1, -np.inf, np.nan, np.nan])
    slope = jax.grad(lambda x: jnp.nansum(nan_unless(chosen, 2 * x)))(x)
    np.testing.assert_array_equal(slope, [2, 2, 0, 0])
    slope = jax.grad(lambda table: jnp.nansum(table_rows(table, jnp.array([1, 1, 4, -1]))))(X)
    np.testing.assert_array_equal(slope, [0, 2, 0, 0])


def test_values_that_are_all_valid_pass_a_search_for_nan():
    with jax.debug_nans(True):
        np.testing.assert_array_equal(nan_unless(X > -10, X), X)
        np.testing.assert_array_equal(jax.grad(lambda x: nan_unless(X > -10, x).sum())(X), 1)


HARMLESS = {
    "arrays/not_a_number.py": "what `exponential` returns",
    "data/proteins/backbone.py": "angles that a chain's ends do not have",
    "guidance/thresholding.py": "values that a quantile leaves out",
    "training/alternating.py": "metrics of a step that does not measure them",
}  # constants that no exponential of the library receives


def test_no_constant_nan_is_chosen_by_a_condition():
    package = Path(diffusion.__file__).parent
    texts = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*.py")}
    nodes = ((name, node) for name, text in texts.items() if "jnp.nan" in text for node in ast.walk(ast.parse(text)))
    assert {name for name, node in nodes if isinstance(node, ast.Attribute) and node.attr == "nan"} == set(HARMLESS)
