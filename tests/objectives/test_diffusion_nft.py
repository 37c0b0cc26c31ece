"""DiffusionNFT on Gaussians: the optimum of a round, and the fixed point beside a reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, schedules, timesteps, weightings

FLOW = schedules.rectified_flow()
V, X0 = parameterizations.velocity(), parameterizations.x0()
GRID = (1.0, 0.0)
MEAN, VARIANCE, AT = 0.3, 0.6, 0.4
SLOPE, LIMIT = 0.8, 12.0  # far from the clip
NUMBER, GROUP = 2**15, 64
ONE_TIME = timesteps.Density(
    lambda: None, lambda state, keys, index: (jnp.full(keys.shape, AT), jnp.ones(keys.shape)), lambda state, t, l: state
)


def gain_of(variance):
    """The slope of E[x_0 | x_t] in x_t at AT, of a Gaussian."""
    return (1 - AT) * variance / ((1 - AT) ** 2 * variance + AT**2)


def velocity(mean, shift=0.0, slope=0.0, variance=VARIANCE):
    """Exact for N(mean, variance) at AT; at t = 1 it takes x_1 to the sample mean + std x_1 in one step of DDIM."""

    def network(x, t, condition):
        x0 = mean + gain_of(variance) * (x - (1 - AT) * mean)
        there = x - (mean + variance**0.5 * x)
        return jnp.where(t[:, None] > 0.9, there, (x - x0) / AT + shift + slope * x)

    return network


def nft(reward=lambda x, condition: SLOPE * x[:, 0], **more):
    fields = {"limit": LIMIT, "deviation": False} | more
    return objectives.diffusion_nft(V, weightings.constant(V), ONE_TIME, GRID, reward, GROUP, **fields)


def slopes(made, model, old, mean=MEAN):
    """number -> the gradient of each group's loss by that number of the model, `[groups]`."""
    keys = jax.random.split(jax.random.key(0), NUMBER).reshape(-1, GROUP)

    def of_group(number, keys):
        networks = {"model": model(number), "target": old, "teacher": velocity(mean)}
        return made(networks, FLOW, keys, {"x": jnp.zeros((GROUP, 1))}, 0)[0].mean()

    return lambda number: np.asarray(jax.jit(jax.vmap(jax.grad(of_group), (None, 0)))(number, keys))


def covariance():
    """Cov(p, v | x_t) for p = 1 / 2 + SLOPE (x_0 - mean) / (2 LIMIT), v = (x_t - x_0) / t: the posterior's variance."""
    posterior = VARIANCE * AT**2 / ((1 - AT) ** 2 * VARIANCE + AT**2)
    return -SLOPE / (2 * LIMIT) * posterior / AT * (1 - 1 / GROUP)  # the group's mean takes a share of the sample


@pytest.mark.extended
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_optimum_of_a_round_is_that_of_the_theorem(beta):
    slope = slopes(nft(beta=beta), lambda shift: velocity(MEAN, shift), velocity(MEAN))
    values, away = slope(2 / beta * covariance()), slope(0.0)  # 2 beta^2 (shift - optimum)
    assert abs(values.mean()) < 4.5 * values.std() / len(values) ** 0.5
    error = away.std() / len(away) ** 0.5
    np.testing.assert_allclose(away.mean(), -4 * beta * covariance(), atol=4.5 * error)
    assert error < 0.1 * abs(away.mean())


@pytest.mark.extended
def test_with_a_reference_and_a_linear_reward_the_fixed_point_is_the_tilted_gaussian():
    """N(m, S) exp(r / b) has the mean m + S SLOPE / b with b = divergence LIMIT / beta; nothing moves it from there."""
    beta, divergence = 0.7, 0.2
    temperature = divergence * LIMIT / beta
    tilted = MEAN + VARIANCE * SLOPE * (1 - 1 / GROUP) / temperature
    made = nft(beta=beta, teacher=V, divergence=divergence)
    values, away = (slopes(made, lambda s, m=m: velocity(m, s), velocity(m))(0.0) for m in (tilted, MEAN))
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean()) < 4.5 * error
    assert abs(away.mean()) > 10 * error


def test_with_a_quadratic_reward_the_tilted_gaussian_is_no_fixed_point():
    """exp(-k x^2 / (2 b)) narrows N(0, S): the divergence's pull on the slope and the reward's push do not balance.

    With Cov(x_0^2, x_0 | x_t) = 2 gain x_t var(x_0 | x_t); both are multiples of E[x_t^2].
    """
    k, beta, divergence = 4.0, 1.0, 0.4
    reward = lambda x, condition: -k / 2 * x[:, 0] ** 2
    narrow = 1 / (1 / VARIANCE + k * beta / (divergence * LIMIT))
    level = (1 - AT) ** 2 * narrow + AT**2
    push = 4 * beta * k * gain_of(narrow) * narrow * AT**2 / level / (2 * LIMIT * AT) * (1 - 1 / GROUP)
    pull = 2 * divergence * (gain_of(VARIANCE) - gain_of(narrow)) / AT
    made = nft(reward, beta=beta, teacher=V, divergence=divergence)
    model = lambda slope: velocity(0.0, 0.0, slope, narrow)
    values = slopes(made, model, model(0.0), mean=0.0)(0.0)
    error = values.std() / len(values) ** 0.5
    np.testing.assert_allclose(values.mean(), level * (pull - push), atol=4.5 * error)
    assert abs(values.mean()) > 10 * error


def test_the_loss_is_the_papers():
    """Of networks that put out constants, with p from the rewards of the samples, for weights and a reference."""
    keys = jax.random.split(jax.random.key(0), 4)
    networks = {
        "model": lambda x, t, c: jnp.full_like(x, 0.3),
        "target": lambda x, t, c: jnp.full_like(x, -0.1),
        "teacher": lambda x, t, c: jnp.full_like(x, 0.2),  # of x0
    }
    made = objectives.diffusion_nft(
        V, lambda schedule, t: 3.0, ONE_TIME, GRID, lambda x, c: 2 * x[:, 0], 4, X0, None, 0.6, 1.5, 0.25
    )
    seen = []
    spied = networks | {"model": lambda x, t, c: seen.append(x) or jnp.full_like(x, 0.3)}
    losses, metrics = made(spied, FLOW, keys, {"x": jnp.zeros((4, 1))}, 0)
    reward = np.asarray(metrics["reward"])
    x_0, x_t = reward / 2, np.asarray(seen[0])[:, 0]
    y = (x_t - x_0) / AT
    p = (1 + np.clip((reward - reward.mean()) / (reward.std() + 1e-4) / 1.5, -1, 1)) / 2
    assert p.min() >= 0 and p.max() <= 1 and np.ptp(p) > 0.5
    above, below = (-0.1 + sign * 0.6 * 0.4 for sign in (1, -1))
    reference = (x_t - 0.2) / AT
    errors = p * (above - y) ** 2 + (1 - p) * (below - y) ** 2 + 0.25 * (0.3 - reference) ** 2
    np.testing.assert_allclose(losses, 3 * AT**2 * errors, rtol=1e-4)
    np.testing.assert_allclose(metrics["moved"], 3 * AT**2 * 0.16, rtol=1e-5)


def test_the_times_of_examples_lie_in_the_strata_of_their_indices():
    made = objectives.diffusion_nft(
        V, lambda schedule, t: 1.0, timesteps.uniform_density(FLOW, strata=8), GRID, lambda x, c: x[:, 0], 4
    )
    networks = dict.fromkeys(("model", "target"), lambda x, t, c: 0.5 * x)
    index = jnp.array([9, 3, 0, 6])
    batch = {"x": jnp.zeros((4, 1)), "index": index}
    _, metrics = made(networks, FLOW, jax.random.split(jax.random.key(0), 4), batch, 0)
    np.testing.assert_array_equal(np.floor(8 * np.asarray(metrics["t"])), [1, 3, 0, 6])


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"beta": 0.0}, r"beta = 0\.0 and limit = 12\.0 must be positive"),
        ({"limit": -1.0}, r"limit = -1\.0 must be positive"),
        ({"divergence": -1.0}, r"divergence = -1\.0 must not be negative"),
        ({"divergence": 0.1}, r"divergence = 0\.1 needs a reference"),
    ],
)
def test_what_is_out_of_range_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        nft(**fields)


def test_what_does_not_fit_a_batch_is_refused():
    networks = dict.fromkeys(("model", "target"), velocity(MEAN))
    keys, batch = jax.random.split(jax.random.key(0), 6), {"x": jnp.zeros((6, 1))}
    with pytest.raises(ValueError, match=r"a batch \(or micro-batch\) of 6 is not a multiple of block = 64"):
        nft()(networks, FLOW, keys, batch, 0)
    with pytest.raises(ValueError, match="group = 1 must be at least 2"):
        objectives.diffusion_nft(V, weightings.constant(V), ONE_TIME, GRID, objectives.near_value(0.0), 1)
