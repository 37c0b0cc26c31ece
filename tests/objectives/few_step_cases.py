"""The objectives of few-step networks, and exact networks for Gaussian data: a new objective is one line in MEMBERS."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import flow_maps, objectives, parameterizations, schedules, timesteps, weightings
from diffusion.arrays.broadcasting import flattened
from tests import oracles

FLOW = schedules.rectified_flow()
EDM = schedules.edm()
COSINE = schedules.cosine()
DATA = oracles.tilted_gaussian()
V = parameterizations.v()


def near(gap):
    """Pairs of times with s = (1 - gap) t."""
    return lambda schedule, t, step: (t, (1 - gap) * t)


class Member(NamedTuple):
    """An objective, the network that it trains, and those through which it stops the gradient."""

    make: Callable[[], objectives.Objective]
    frozen: tuple[str, ...] = ()
    trained: str = "model"
    others: tuple[str, ...] = ()
    schedule: schedules.NoiseSchedule = FLOW


UNIFORM = timesteps.uniform_density(FLOW)
MEMBERS = {
    "consistency_training": Member(lambda: objectives.consistency_training(V, UNIFORM, near(0.2)), ("target",)),
    "ct": Member(lambda: objectives.ct(EDM, flow_maps.consistency_boundary(), 100), ("target",), schedule=EDM),
    "ict": Member(lambda: objectives.ict(EDM, flow_maps.consistency_boundary(), 100), schedule=EDM),
    "ect": Member(lambda: objectives.ect(EDM, parameterizations.edm(), 50), schedule=EDM),
    "consistency_distillation": Member(
        lambda: objectives.consistency_distillation(V, V, UNIFORM, near(0.2)), ("target", "teacher")
    ),
    "cd": Member(
        lambda: objectives.cd(EDM, flow_maps.consistency_boundary(), parameterizations.edm(), 18),
        ("target", "teacher"),
        schedule=EDM,
    ),
    "continuous_consistency": Member(
        lambda: objectives.continuous_consistency(UNIFORM, clock=parameterizations.time(), warmup=5)
    ),
    "continuous_consistency(teacher)": Member(
        lambda: objectives.continuous_consistency(UNIFORM, clock=parameterizations.time(), teacher=V), ("teacher",)
    ),
    "shortcut": Member(lambda: objectives.shortcut(16, share=0.5), ("target",)),
    "mean_flow": Member(lambda: objectives.mean_flow(UNIFORM, equal=0.5)),
    "mean_flow(guided)": Member(lambda: objectives.mean_flow(UNIFORM, guidance=objectives.Guidance(3, 1.5, 0.5))),
    "improved_mean_flow": Member(lambda: objectives.improved_mean_flow(UNIFORM)),
    "improved_mean_flow(guided)": Member(
        lambda: objectives.improved_mean_flow(UNIFORM, guidance=objectives.GuidanceInputs(3))
    ),
    "alpha_flow": Member(lambda: objectives.alpha_flow(UNIFORM, 6)),  # alpha = 1/2 at step 3
    "progressive_distillation": Member(lambda: objectives.progressive_distillation(V, V, 4), ("teacher",)),
    "progressive_adversarial": Member(  # at step 3 in the first half of the second stage
        lambda: objectives.progressive_adversarial(V, V, 4, 3), ("teacher",), others=("judge",)
    ),
    "transition_judge": Member(lambda: objectives.transition_judge(V, V, 4, 3), ("model", "teacher"), trained="judge"),
    "distribution_matching": Member(lambda: objectives.distribution_matching(V, V, V, UNIFORM), ("teacher", "fake")),
    "distribution_matching(f)": Member(
        lambda: objectives.distribution_matching(
            V, V, V, UNIFORM, f=objectives.f_divergences.jensen_shannon, block=2, adversarial=0.1
        ),
        ("teacher", "fake"),
    ),
    "score_identity": Member(lambda: objectives.score_identity(V, V, V, UNIFORM), ("teacher", "fake")),
    "score_identity(discriminator)": Member(
        lambda: objectives.score_identity(V, V, V, UNIFORM, block=1, adversarial=0.1), ("teacher", "fake")
    ),
    "drifting": Member(lambda: objectives.drifting(V, 0.5, 6)),  # two of each class
    "score_regularised_consistency": Member(
        lambda: objectives.score_regularised_consistency(
            V, V, UNIFORM, UNIFORM, warmup=2, clock=parameterizations.time()
        ),
        ("teacher", "fake"),
    ),
    "truncated_consistency": Member(lambda: objectives.truncated_consistency(V, V, UNIFORM, near(0.2)), ("teacher",)),
    "guidance_distillation": Member(
        lambda: objectives.guidance_distillation(V, V, weightings.constant(V), UNIFORM), ("teacher",)
    ),
    "guidance_distillation(scales)": Member(
        lambda: objectives.guidance_distillation(V, V, weightings.constant(V), UNIFORM, (0.0, 2.0), 3), ("teacher",)
    ),
    "fake_score": Member(
        lambda: objectives.fake_score(V, V, weightings.constant(V), UNIFORM), ("model",), trained="fake"
    ),
    "fake_score(discriminator)": Member(
        lambda: objectives.fake_score(V, V, weightings.constant(V), UNIFORM, block=2, adversarial=0.1),
        ("model",),
        trained="fake",
    ),
    "distribution_matching(backward_simulation)": Member(
        lambda: objectives.distribution_matching(
            V, V, V, UNIFORM, samples=objectives.backward_simulation((1.0, 0.5, 0.0))
        ),
        ("teacher", "fake"),
    ),
    "regression": Member(lambda: objectives.regression(V)),
    "reward_backpropagation": Member(
        lambda: objectives.reward_backpropagation(V, (1.0, 0.5, 0.0), objectives.near_value(0.3), 2)
    ),
    "diffusion_nft": Member(
        lambda: objectives.diffusion_nft(
            V, weightings.constant(V), UNIFORM, (1.0, 0.5, 0.0), objectives.near_value(0.3), 2, V, divergence=0.1
        ),
        ("target", "teacher"),
    ),
    "adjoint_matching": Member(
        lambda: objectives.adjoint_matching(
            V, V, weightings.constant(V), (1.0, 0.5, 0.0), objectives.near_value(0.3), 0.5
        ),
        ("teacher",),
    ),
    "policy_gradient": Member(
        lambda: objectives.policy_gradient(V, (1.0, 0.5, 0.0), objectives.near_value(0.3), 2, V, beta=0.1), ("teacher",)
    ),
    "policy_gradient(target)": Member(
        lambda: objectives.policy_gradient(V, (1.0, 0.5, 0.0), objectives.near_value(0.3), 2, policy="target"),
        ("target",),
    ),
    "diffusion_dpo": Member(
        lambda: objectives.diffusion_dpo(V, V, weightings.constant(V), UNIFORM, beta=0.5), ("teacher",)
    ),
    "adversarial_generator": Member(
        lambda: objectives.adversarial_generator(V, V, UNIFORM, UNIFORM), ("teacher",), others=("discriminator",)
    ),
    "adversarial_discriminator": Member(
        lambda: objectives.adversarial_discriminator(V, UNIFORM, r1=0.1), ("model",), trained="discriminator"
    ),
    "adversarial_generator(features)": Member(
        lambda: objectives.adversarial_generator(
            V, V, UNIFORM, UNIFORM, weight=0.0, noise_density=timesteps.logit_normal(FLOW), blocks=(1, 3)
        ),
        ("teacher",),
        others=("discriminator",),
    ),
    "adversarial_discriminator(features)": Member(
        lambda: objectives.adversarial_discriminator(V, UNIFORM, 0.1, V, timesteps.logit_normal(FLOW), blocks=(1, 3)),
        ("model", "teacher"),
        trained="discriminator",
    ),
    "latent_consistency_distillation": Member(
        lambda: objectives.latent_consistency_distillation(V, V, null=3), ("target", "teacher")
    ),
}
every_member = pytest.mark.parametrize("name", list(MEMBERS))


def network(parameters, x, clock, condition):
    """Any smooth network of one or two times."""
    numbers = lambda leaf: flattened(jnp.float32(leaf)).sum(1)
    conditions = 0 if condition is None else sum(map(numbers, jax.tree.leaves(condition)))
    inputs = jnp.asarray(sum(jax.tree.leaves(clock)) + conditions)
    inputs = jnp.reshape(inputs, inputs.shape + (1,) * (x.ndim - 1))
    return jnp.tanh(parameters[0] * x + parameters[1] * jnp.sin(inputs) + parameters[2])


def networks(member, parameters, dtype=jnp.float32):
    """Every network of the objective, with parameters of its own: {name: (x, clock, condition) -> output}."""

    def of(name):
        if name == "discriminator":

            def logit(x, clock, condition):  # of x, or of each of its features
                of_one = lambda x: flattened(network(parameters[name], x, clock, condition)).mean(1)
                return jnp.asarray(sum(map(of_one, jax.tree.leaves(x))), dtype)

            return logit

        def called(*inputs, features=None):
            output = network(parameters[name], *inputs).astype(dtype)
            return (
                output
                if features is None
                else (output, tuple(jnp.stack([output, jnp.sin(k * output)], -1) for k in features))
            )

        return called

    return {name: of(name) for name in names(member)}


def names(member):
    return (member.trained, *member.frozen, *member.others)


def parameters_of(member):
    return {name: jnp.array([0.5, 0.3, 0.1]) * (1 + i) for i, name in enumerate(names(member))}


def batch_of(size, shape=(3,)):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((size, *shape)), jnp.float32)
    return {
        "x": x,
        "condition": jnp.arange(size) % 3,
        "start": x[::-1],
        "index": jnp.arange(size),
        "rejected": jnp.roll(x, 1, 0),
    }


OBJECTIVES = {name: member.make() for name, member in MEMBERS.items()}


def run(name, batch, parameters=None, step=3, dtype=jnp.float32, keys=None, players=None, objective=None):
    member = MEMBERS[name]
    keys = jax.random.split(jax.random.key(0), len(batch["x"])) if keys is None else keys
    if players is None:
        players = networks(member, parameters or parameters_of(member), dtype)
    return (objective or OBJECTIVES[name])(players, member.schedule, keys, batch, step)


def coefficients(schedule, t):
    """alpha and sigma `[B, 1]`."""
    return schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]


def exact_end(schedule, t, x):
    """The end of the probability flow of DATA from x at times t `[B]`."""
    of_one = lambda alpha, sigma, x: oracles.flow(DATA, (alpha, sigma), (1.0, 0.0), x[None])[0]
    return jax.vmap(of_one)(schedule.alpha(t), schedule.sigma(t), x)


def as_v(schedule, x_0):
    """The network of parameterization v whose x0 is x_0(t, x): v = (alpha x - (alpha^2 + sigma^2) x0) / sigma."""

    def network(x, t, condition):
        alpha, sigma = coefficients(schedule, t)
        return (alpha * x - (alpha**2 + sigma**2) * x_0(t, x)) / sigma

    return network


def exact_denoiser(schedule, data=DATA):
    return as_v(schedule, lambda t, x: oracles.mean_x0(data, schedule.alpha(t), schedule.sigma(t), x))


def exact_trigflow(schedule, sigma_data):
    """-F of TrigFlow, f = cos(a) x - sin(a) sigma_data F, for a network whose clock is t."""

    def network(x, t, condition):
        a = jnp.arctan2(schedule.sigma(t), sigma_data * schedule.alpha(t))
        flow = lambda a, x: oracles.flow(DATA, (jnp.cos(a), sigma_data * jnp.sin(a)), (1.0, 0.0), x[None])[0]
        f = jax.vmap(flow)(a, sigma_data * x)
        return (f - jnp.cos(a)[:, None] * sigma_data * x) / (jnp.sin(a)[:, None] * sigma_data)

    return network


def exact_mean_velocity(x, clocks, condition):
    """(x_t - x_s) / (t - s) of the rectified flow, without dividing by t - s.

    Along an eigenvector with variance c(t) = (1 - t)^2 l + t^2 it is (sqrt c_t - sqrt c_s) / (t - s) y / sqrt c_t, and
    (c_t - c_s) / (t - s) = (t + s - 2) l + t + s; the mean moves with speed -mu.
    """
    t = clocks[0][:, None]
    s = (clocks[0] - clocks[1])[:, None]
    variances, axes, mean = (jnp.asarray(a[0]) for a in (DATA.variances, DATA.axes, DATA.means))
    c_t, c_s = ((1 - at) ** 2 * variances + at**2 for at in (t, s))
    slope = ((t + s - 2) * variances + t + s) / (jnp.sqrt(c_t) + jnp.sqrt(c_s)) / jnp.sqrt(c_t)
    return (((x - (1 - t) * mean) @ axes) * slope) @ axes.T - mean


def exact_guided_velocity(x, clocks, condition):
    """As `exact_mean_velocity`, guided by w at the times of an interval away from N((1 - t) mu, n(t)).

    n(t) = 4 (1 - t)^2 + t^2 and DATA share mu, so that along an eigenvector of DATA the guided flow,
    y' = (c' / c + (w - 1) (c' / c - n' / n)) y / 2, ends at y_s = y_t (c_s / c_t)^(1/2), times
    (c n_b / (c_b n))^((w - 1) / 2) over the part from a to b of the interval.
    """
    _, more, interval = condition
    t, h = clocks[0][:, None], clocks[1][:, None]
    first, last = interval[:, :1], interval[:, 1:]
    variances, axes, mean = (jnp.asarray(a[0]) for a in (DATA.variances, DATA.axes, DATA.means))
    logs = lambda at: [jnp.log((1 - at) ** 2 * variance + at**2) for variance in (variances, 4.0)]
    extra = lambda at: (more[:, None] / 2) * (logs(at)[0] - logs(at)[1])
    within = lambda at: jnp.clip(at, first, last)
    log_ratio = lambda s: (logs(s)[0] - logs(t)[0]) / 2 + extra(within(s)) - extra(within(t))
    same = h == 0
    _, rate = jax.jvp(lambda s: -log_ratio(s), (t,), (-jnp.ones_like(t),))
    slope = jnp.where(same, rate, -jnp.expm1(log_ratio(t - h)) / jnp.where(same, 1, h))
    return (((x - (1 - t) * mean) @ axes) * slope) @ axes.T - mean


PAIRS = 12


def twice(a):
    return np.repeat(np.asarray(a), 2, axis=0)


def keys_and_data(size=2 * PAIRS, seed=5):
    rng = np.random.default_rng(seed)
    return jax.random.split(jax.random.key(seed), size), {"x": jnp.asarray(rng.standard_normal((size, 2)))}


def gaussian_weights(*draws):
    """Weights `[B]` that give draws `[B, D]` of N(0, I) its first and second moments, jointly.

    The weighted sum of anything quadratic in the draws is then its expectation.
    """
    drawn = np.concatenate([np.ones((len(draws[0]), 1)), *draws], axis=1)
    rows, columns = np.triu_indices(drawn.shape[1])
    return np.linalg.lstsq((drawn[:, rows] * drawn[:, columns]).T, np.float64(rows == columns), rcond=None)[0]


def exact_x0(schedule, t, x):
    return oracles.mean_x0(DATA, schedule.alpha(t), schedule.sigma(t), x)
