"""Functions of symmetric matrices and their derivatives, against SciPy's and against equations that define them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from diffusion.manifolds import symmetric_functions

ROTATION = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
DIRECTION = np.array([[0.3, 0.5, -0.2], [0.5, -0.4, 0.7], [-0.2, 0.7, 0.6]])


@pytest.mark.parametrize("eigenvalues", [(0.4, 1.1, 2.5), (0.9, 0.9, 2.0), (1.5, 1.5, 1.5)], ids=str)
def test_derivatives_of_matrix_functions(eigenvalues):
    """Also where eigenvalues coincide; those of the logarithm and the root invert those of exp and of the square."""
    a = (ROTATION * np.array(eigenvalues)) @ ROTATION.T
    derivative = lambda function: jax.jvp(function, (jnp.float32(a),), (jnp.float32(DIRECTION),))
    exponential, change = scipy.linalg.expm_frechet(a, DIRECTION)
    value, slope = derivative(symmetric_functions.exp)
    np.testing.assert_allclose(value, exponential, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(slope, change, rtol=2e-5, atol=2e-5)
    value, slope = derivative(symmetric_functions.log)
    np.testing.assert_allclose(value, scipy.linalg.logm(a), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(scipy.linalg.expm_frechet(np.float64(value), np.float64(slope))[1], DIRECTION, atol=2e-5)
    value, slope = derivative(symmetric_functions.square_root)
    np.testing.assert_allclose(value @ value, a, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(value @ slope + slope @ value, DIRECTION, atol=2e-5)


def test_second_derivatives_of_matrix_functions_are_second_divided_differences():
    """Of diag(1, b) along what is beside the diagonal: 2 f[1, 1, b], for b near to 1 and far from it."""
    e = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    cases = {"exp": (np.exp, np.e), "log": (np.log, 1.0), "square_root": (np.sqrt, 0.5)}
    names = list(cases)

    @jax.jit
    def second(a):
        """By reverse mode, in which a form that is not used must be finite too."""
        first = lambda f: lambda a: jax.jvp(f, (a,), (e,))[1][0, 0]
        return [jnp.sum(e * jax.grad(first(getattr(symmetric_functions, name)))(a)) for name in names]

    for b in (1.3, 3.0):
        for name, value in zip(names, second(jnp.diag(jnp.array([1.0, b])))):
            f, slope = cases[name]
            expected = 2 * ((f(b) - f(1.0)) / (b - 1) - slope) / (b - 1)
            assert float(value) == pytest.approx(expected, rel=2e-4), (name, b)
