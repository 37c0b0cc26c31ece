"""Membership inference: a memorised mixture gives its members away, and fresh data are told apart by chance alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import schedules
from diffusion.metrics import detection, membership
from diffusion.parameterizations import Prediction
from tests import oracles

FLOW = schedules.rectified_flow()
DRAWN = np.random.default_rng(0).standard_normal((240, 6))
MEMBERS, OTHERS = DRAWN[:80], DRAWN[80:160]
ATTACKS = {
    "loss": lambda denoise, x, keys: membership.loss_scores(denoise, FLOW, x, 0.3, keys),
    "inversion": lambda denoise, x, keys: membership.inversion_scores(denoise, FLOW, x, 0.3, keys),
}


def areas(attack, centres, spread):
    """The attack on the exact denoiser of a mixture of Gaussians around some points: members, others."""
    data = oracles.mixture(np.full(len(centres), 1 / len(centres)), centres, [spread**2 * np.eye(6)] * len(centres))

    def denoise(x, t):
        alpha, sigma = FLOW.alpha(t), FLOW.sigma(t)
        x0 = oracles.mean_x0(data, alpha, sigma, x)
        return Prediction(x0, (x - alpha * x0) / sigma)

    score = jax.jit(lambda x, keys: attack(denoise, x, keys))
    keys = jax.random.split(jax.random.key(0), 160)
    scores = np.asarray(score(jnp.asarray(DRAWN[:160], jnp.float32), keys))
    return detection.auroc(scores[:80], scores[80:])


@pytest.mark.extended
@pytest.mark.parametrize("name", ATTACKS)
def test_a_memorised_mixture_gives_its_members_away(name):
    assert areas(ATTACKS[name], MEMBERS, 0.02)["value"] > 0.97


@pytest.mark.parametrize("name", ["loss", pytest.param("inversion", marks=pytest.mark.slow)])
def test_of_data_that_it_never_saw_a_model_tells_nothing(name):
    found = areas(ATTACKS[name], np.zeros((1, 6)), 1.0)  # the true law of both
    assert found["interval"][0] < 0.5 < found["interval"][1]


def test_a_time_without_a_step_above_it_is_refused():
    with pytest.raises(ValueError, match=r"0\.95 and the next step, 1\.045, must lie in \(0, 1\)"):
        membership.inversion_scores(None, FLOW, None, 0.95, None)


def test_the_loss_is_a_mean_over_the_chosen_number_of_draws():
    """A model without noise in its estimate: the score of each draw is -mean eps^2, of variance 2 / D."""
    denoise = lambda x, t: Prediction(x, 0 * x)
    x, keys = jnp.zeros((2000, 5)), jax.random.split(jax.random.key(0), 2000)
    for draws in (1, 20):
        scores = membership.loss_scores(denoise, FLOW, x, 0.3, keys, draws)
        np.testing.assert_allclose([scores.mean(), scores.var()], [-1, 0.4 / draws], rtol=0.15)


def test_a_denoiser_that_knows_the_example_and_the_process_has_no_loss():
    """At alpha = 0.7 and sigma = 0.3 the noise is (x_t - 0.7 x) / 0.3."""
    x = jnp.asarray(DRAWN[:4], jnp.float32)
    denoise = lambda x_t, t: Prediction(x, (x_t - 0.7 * x) / 0.3)
    scores = membership.loss_scores(denoise, FLOW, x, 0.3, jax.random.split(jax.random.key(0), 4))
    np.testing.assert_allclose(scores, 0, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_inversion_takes_the_chosen_number_of_steps_and_one_more(steps):
    """To t = 0.3 in equal steps, each evaluated at its end, then one of their length further and back from there."""
    times = []

    def noted(x, t):
        jax.debug.callback(lambda t: times.append(float(t)), t, ordered=True)
        return Prediction(x, jnp.ones_like(x))

    membership.inversion_scores(noted, FLOW, jnp.zeros((1, 2)), 0.3, jax.random.split(jax.random.key(0), 1), steps)
    jax.effects_barrier()
    s = 0.3 + 0.3 / steps
    np.testing.assert_allclose(times, [*np.linspace(0, 0.3, steps + 1)[1:], s, s], rtol=1e-6)


def test_a_step_away_and_back_leads_to_where_it_began():
    """A model that always sees the same noise, along whose straight ways each step of DDIM is exact."""
    noise = jnp.array([[0.3, -1.2, 0.5]])
    denoise = lambda x, t: Prediction((x - t * noise) / (1 - t), jnp.broadcast_to(noise, x.shape))
    x = jnp.array([[1.0, -2.0, 0.5], [0.0, 0.3, 0.1]])
    scores = membership.inversion_scores(denoise, FLOW, x, 0.3, jax.random.split(jax.random.key(0), 2))
    np.testing.assert_allclose(scores, [0, 0], atol=1e-9)
