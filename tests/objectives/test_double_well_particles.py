"""DW-4: its energy as published, and its integral by a closed form and by annealing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, steering
from diffusion.objectives import double_well_particles

SQUARE = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], np.float32) - 1.0


def test_a_square_has_the_energy_of_its_sides_and_diagonals():
    """The sides of length 4 have the energy 0; the diagonals are longer by u = 4 (sqrt 2 - 1)."""
    target, u = objectives.dw4(), 4 * (2**0.5 - 1)
    diagonals = 2 * (0.9 * u**4 - 4 * u**2)
    value = target.log_density(SQUARE.reshape(1, 8))[0]
    assert value == pytest.approx(-diagonals - 2 * 2 * 1.0**2, rel=1e-5)  # the mean is (1, 1)
    assert target.shape == (8,)


def test_its_density_beside_the_mean_does_not_depend_on_pose_or_order():
    x = np.asarray(jax.random.normal(jax.random.key(0), (5, 4, 2))) * 2
    x = x - x.mean(1, keepdims=True)
    turned = x[:, [2, 0, 3, 1]] @ np.array([[0.6, -0.8], [0.8, 0.6]], np.float32)
    values = objectives.dw4().log_density(np.stack([x, turned]).reshape(10, 8)).reshape(2, 5)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4)


def test_its_gradient_is_finite_where_particles_meet():
    slope = jax.grad(lambda x: objectives.dw4().log_density(x).sum())(jnp.zeros((1, 8)))
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("stiffness", [0.5, 1.3])
def test_the_integral_of_springs_has_its_closed_form(stiffness):
    """The sum over pairs of k d^2 is 4 k |y|^2 in the six coordinates y beside the mean."""
    result = double_well_particles.log_integral(lambda d: stiffness * d**2)
    assert result == pytest.approx(np.log(2 * np.pi) + 3 * np.log(np.pi / (4 * stiffness)), abs=1e-12)


def test_the_integral_does_not_depend_on_the_grid():
    finer = double_well_particles.log_integral(double_well_particles.well, 140, 100)
    assert objectives.dw4().log_normaliser == pytest.approx(finer, abs=1e-8)


@pytest.mark.extended
def test_annealing_finds_the_same_integral():
    """Annealing from N(0, 9 I) is unbiased, and knows neither the rotation nor the coordinates of the quadrature."""
    target, groups, number = objectives.dw4(), 32, 512
    log_base = lambda x: -jnp.sum(x**2, -1) / 18 - 4 * jnp.log(18 * jnp.pi)
    starts, keys = jax.random.split(jax.random.key(0), (2, groups * number))
    x = 3.0 * jax.vmap(lambda key: jax.random.normal(key, (8,)))(starts)
    pilot = jax.vmap(lambda key: 3.0 * jax.random.normal(key, (8,)))(jax.random.split(jax.random.key(2), 256))
    ladder, sizes = steering.annealing_ladder(log_base, target.log_density, pilot, jax.random.key(1), 0.1)
    run = jax.jit(
        lambda x, keys: steering.annealed(log_base, target.log_density, x, keys, ladder, sizes, number=number)
    )
    estimates = np.asarray(steering.log_normaliser(run(x, keys).log_weights), np.float64) - target.log_normaliser
    ratios = np.exp(estimates)
    error = ratios.std(ddof=1) / groups**0.5
    assert error < 0.05 and abs(ratios.mean() - 1) < 4.5 * error
