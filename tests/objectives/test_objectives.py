"""Conformance of every objective as a function of a batch: shapes, precision, formulas, what reaches the network."""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import couplings, flow_maps, objectives, parameterizations, schedules, timesteps
from diffusion.objectives.objective import Jumps
from tests.objectives.objective_cases import OBJECTIVES, SCHEDULES, at, every_objective, losses_of, network_of, spy

# Proven in files of their own: what has several players, or no linear network as its optimum.
ELSEWHERE = {
    "hybrid": "test_hybrid.py: the variance's term against the discrete process, the mean's gradient stopped",
    "trajectory_regression": "test_backward_simulation.py: the end of a linear teacher's steps, in closed form",
    "with_uncertainty": "test_uncertainty.py",
    **dict.fromkeys(["end_to_end", "end_to_end_critic"], "test_end_to_end.py: each gradient and statistic by hand"),
    "with_reward_weights": "test_reward_weighting.py: by hand, and the denoiser of tilted data",
    "with_prior_preservation": "test_prior_preservation.py: the weighted sum",
    **dict.fromkeys(["concept_direction", "concept_slider", "erased_concept"], "test_concept_direction.py: by hand"),
    **dict.fromkeys(["masked_denoising", "with_masked_copy"], "test_masked.py: by hand from the network's output"),
    "adjoint_sampling": "test_adjoint_sampling.py: its loss and its fixed point on Gaussians in closed form",
    "log_variance": "test_log_variance.py: its loss, bound and gradient on a Gaussian in closed form",
    "with_pictures": "test_pictures_of_clips.py: the objective it wraps, on clips and on their frames",
    "with_trained_schedule": "test_trained_schedule.py: the objective it wraps, under the schedule it trains",
    "with_dropout": "test_network_dropout.py: the objective it wraps, with the rest of the keys",
    "with_padding": "test_pytree_losses.py: the objective it wraps, with the mask of the condition",
    "with_augmentation": "../data/test_augmentation.py: the objective it wraps, on what the augmentation makes",
    **dict.fromkeys(
        [
            "adjoint_matching",
            "adversarial_discriminator",
            "adversarial_generator",
            "alpha_flow",
            "cd",
            "consistency_distillation",
            "consistency_training",
            "continuous_consistency",
            "ct",
            "distribution_matching",
            "diffusion_dpo",
            "drifting",
            "diffusion_nft",
            "ect",
            "fake_score",
            "guidance_distillation",
            "ict",
            "improved_mean_flow",
            "latent_consistency_distillation",
            "mean_flow",
            "policy_gradient",
            "progressive_adversarial",
            "progressive_distillation",
            "regression",
            "reward_backpropagation",
            "score_identity",
            "score_regularised_consistency",
            "shortcut",
            "transition_judge",
            "truncated_consistency",
        ],
        "few_step_cases.py: test_few_step_optima.py and others hold what their papers guarantee",
    ),
}


def test_every_objective_is_proven_here_or_elsewhere():
    """denoising, added and with_condition_dropout appear here under other names."""
    under_other_names = {"denoising", "added", "with_condition_dropout"}
    makes_one = lambda name: inspect.signature(getattr(objectives, name)).return_annotation == objectives.Objective
    functions = [name for name in objectives.__all__ if inspect.isfunction(getattr(objectives, name))]
    published = {name for name in functions if makes_one(name)}
    assert published - under_other_names <= set(OBJECTIVES) | set(ELSEWHERE)
    for name, where in ELSEWHERE.items():
        text = (pathlib.Path(__file__).parent / where.partition(":")[0]).read_text()
        assert re.search(rf"\b{name}\(", text), f"{where} does not mention {name}"


@pytest.mark.extended
@every_objective
@pytest.mark.parametrize("shape", [(), (2, 3, 1, 2)])
def test_losses_are_per_example_float32_for_any_rank(name, shape):
    case = OBJECTIVES[name]
    if not shape and len(case.targets(0.6, 0.8, -1, 1, 0.4)) > 1:
        shape = (1,)  # several outputs lie side by side in the channels, so there must be some
    keys = jax.random.split(jax.random.key(0), 6)
    x = jnp.ones((6, *shape))
    objective = case.make(timesteps.uniform_density(SCHEDULES["linear_beta"]))
    network = network_of(case, lambda x, clock, condition: 0.5 * x)
    run = lambda keys, x: losses_of(objective, network, SCHEDULES["linear_beta"], keys, x, **case.batch(x))
    losses, metrics = jax.eval_shape(run, keys, x)
    assert losses.shape == (6,)
    assert losses.dtype == jnp.float32
    assert "t" in metrics
    assert all(value.shape == (6,) for value in metrics.values())


@pytest.mark.extended
@every_objective
def test_half_precision_networks_give_float32_losses(name):
    """bfloat16 outputs cost digits once, not again in the loss."""
    case = OBJECTIVES[name]
    keys = jax.random.split(jax.random.key(0), 6)
    x = jnp.ones((6, 2))
    objective = case.make(timesteps.uniform_density(SCHEDULES["linear_beta"]))
    half = network_of(case, lambda x, clock, condition: (0.5 * x).astype(jnp.bfloat16))
    rounded = lambda *inputs, **features: jax.tree.map(lambda y: y.astype(jnp.float32), half(*inputs, **features))
    losses, _ = losses_of(objective, half, SCHEDULES["linear_beta"], keys, x, **case.batch(x))
    assert losses.dtype == jnp.float32
    assert np.isfinite(losses).all()
    expected, _ = losses_of(objective, rounded, SCHEDULES["linear_beta"], keys, x, **case.batch(x))
    np.testing.assert_array_equal(losses, expected)


def test_flow_matching_is_its_formula():
    """mean |u - (eps - x_0)|^2 on x_t = (1 - t) x_0 + t eps (Liu et al. 2023, eq. 1), from what the network saw."""
    schedule = schedules.rectified_flow()
    seen = []
    keys = jax.random.split(jax.random.key(0), 6)
    x0 = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 4)))
    objective = objectives.flow_matching(timesteps.logit_normal(schedule))
    losses, metrics = losses_of(objective, spy(seen), schedule, keys, x0)
    t = np.asarray(metrics["t"])[:, None]
    x_t = np.asarray(seen[0][0])
    eps = (x_t - (1 - t) * np.asarray(x0)) / t
    np.testing.assert_allclose(losses, np.square(eps - np.asarray(x0)).mean(1), rtol=1e-4)
    np.testing.assert_array_equal(seen[0][1], metrics["t"])


def test_ddpm_loss_is_its_formula():
    """mean |eps - eps_theta|^2 (Ho et al. 2020, eq. 14): with a network that says 0 it is mean |eps|^2."""
    schedule = schedules.linear_beta()
    seen = []
    keys = jax.random.split(jax.random.key(0), 6)
    x0 = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 4)))
    objective = OBJECTIVES["ddpm"].make(timesteps.discrete_density(schedule))
    losses, metrics = losses_of(objective, spy(seen), schedule, keys, x0)
    alpha, sigma = (np.asarray(f(metrics["t"]))[:, None] for f in (schedule.alpha, schedule.sigma))
    eps = (np.asarray(seen[0][0]) - alpha * np.asarray(x0)) / sigma
    np.testing.assert_allclose(losses, np.square(eps).mean(1), rtol=1e-3)


def test_coupling_decides_the_pairs():
    schedule = schedules.rectified_flow()
    seen = []
    keys = jax.random.split(jax.random.key(0), 6)
    x0 = jnp.zeros((6, 3))
    drawn = []

    def reversed_pairs(keys, x0, eps):
        drawn.append(eps)
        return eps[::-1]

    objective = objectives.flow_matching(at(1.0), coupling=couplings.Coupling(reversed_pairs))
    losses_of(objective, spy(seen), schedule, keys, x0)
    np.testing.assert_array_equal(seen[0][0], drawn[0][::-1])  # at t = 1 the network sees eps itself
    seen.clear()
    losses_of(objectives.flow_matching(at(1.0), coupling=couplings.independent()), spy(seen), schedule, keys, x0)
    np.testing.assert_array_equal(seen[0][0], drawn[0])


LATER = lambda schedule, t: 7 + jnp.asarray(t)
WITH_CLOCK = {
    "flow_matching": objectives.flow_matching(at(0.25), clock=LATER),
    "contrastive_flow_matching": objectives.contrastive_flow_matching(at(0.25), clock=LATER),
    "stochastic_interpolant": objectives.stochastic_interpolant(
        objectives.interpolants.smooth_bridge(), at(0.25), clock=LATER
    ),
    "schroedinger_bridge": objectives.schroedinger_bridge(0.7, at(0.25), couplings.independent(), LATER),
    "shortcut": objectives.shortcut(4, share=0.0, clock=LATER),
    "mean_flow": objectives.mean_flow(at(0.25), clocks=flow_maps.start_and_end(LATER)),
    "improved_mean_flow": objectives.improved_mean_flow(at(0.25), clocks=flow_maps.start_and_end(LATER)),
    "continuous_consistency": objectives.continuous_consistency(at(0.25), clock=LATER),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", WITH_CLOCK)
def test_a_network_has_the_chosen_clock_in_training_and_in_sampling(name):
    """With several times the first of them."""
    seen, objective = [], WITH_CLOCK[name]

    def network(x, clock, condition):
        jax.debug.callback(lambda clock: seen.append(np.asarray(clock)), jax.tree.leaves(clock)[0])
        return jnp.concatenate([0.5 * x] * (objective.network.channels or 1), -1)

    keys, x = jax.random.split(jax.random.key(0), 4), jnp.ones((4, 2))
    schedule = schedules.rectified_flow()
    players = {"model": network, "target": lambda x, clock, condition: x}
    _, metrics = objective(players, schedule, keys, {"x": x, "index": jnp.arange(4)}, 0)
    jax.effects_barrier()
    assert seen
    for clock in seen:
        np.testing.assert_allclose(clock, 7 + metrics["t"], rtol=1e-6)
    seen.clear()
    t, s = jnp.full(4, 0.5), jnp.full(4, 0.3)
    if isinstance(objective.reads, Jumps):
        objective.reads.flow_map(network, schedule, condition=None)(x, t, s)
    else:
        parameterizations.denoiser(network, schedule, objective.reads.parameterization)(x, t)
    jax.effects_barrier()
    np.testing.assert_allclose(seen[0], 7.5)


def test_clock_and_condition_reach_the_network():
    schedule = schedules.rectified_flow()
    seen = []
    keys = jax.random.split(jax.random.key(0), 4)
    labels = jnp.arange(4)
    objective = objectives.flow_matching(at(0.25), clock=parameterizations.steps())
    losses_of(objective, spy(seen), schedule, keys, jnp.ones((4, 2)), condition=labels)
    np.testing.assert_allclose(seen[0][1], 249.0)
    np.testing.assert_array_equal(seen[0][2], labels)


@every_objective
def test_importance_multiplies_and_the_density_gets_its_state(name):
    """An adaptive density keeps its state in the batch, and its importance undoes its preference."""
    case = OBJECTIVES[name]
    keys = jax.random.split(jax.random.key(0), 6)
    x = jnp.ones((6, 2))

    def with_importance(state, keys, index):
        return jnp.full(6, 0.5), jnp.broadcast_to(state, 6)

    density = timesteps.Density(lambda: jnp.float32(1.0), with_importance, lambda state, t, losses: state)
    network = network_of(case, lambda x, clock, condition: 0.5 * x)

    def value(**state):
        losses, metrics = losses_of(case.make(density), network, SCHEDULES["cosine"], keys, x, **case.batch(x), **state)
        return losses if case.part is None else metrics[case.part]

    np.testing.assert_allclose(value(density=jnp.float32(3.0)), 3 * value(), rtol=1e-6)


@pytest.mark.extended
def test_hybrid_is_finite_with_gradients_at_every_time():
    """Improved DDPM's objective, whose values have tests of their own, from the first step to the last."""
    schedule = schedules.linear_beta()
    keys = jax.random.split(jax.random.key(0), 4)
    x0 = jnp.asarray(np.array([[-1.0, 1.0, 0.0039]] * 4, np.float32))

    @jax.jit
    @jax.value_and_grad
    def loss(parameters, t):
        network = lambda x, clock, condition: jnp.concatenate([parameters[0] * x, parameters[1] + 0 * x], axis=-1)
        return losses_of(objectives.hybrid(parameterizations.epsilon(), at(t)), network, schedule, keys, x0)[0].sum()

    for t in (0.001, 0.002, 0.5, 1.0):
        for parameters in ([0.1, 0.1], [3.0, -1.0], [-2.0, 1.0]):
            value, gradient = loss(jnp.array(parameters), t)
            assert np.isfinite(value), (t, parameters)
            assert np.isfinite(gradient).all(), (t, parameters)


def test_the_direction_of_a_velocity():
    """1 - cos over channels, on average over positions, beside the square; at 0 its gradient is finite."""
    schedule = schedules.rectified_flow()
    objective = objectives.flow_matching(timesteps.uniform_density(schedule), direction=0.5)
    rng = np.random.default_rng(0)
    x, u, eps = rng.normal(size=(3, 2, 3, 2, 4)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    batch = {"x": x, "noise": eps, "index": jnp.arange(2)}

    def losses(u):
        found, metrics = objective({"model": lambda *_: u}, schedule, keys, batch, 0)
        return found.sum(), (found, metrics["direction"])

    gradient = jax.jit(jax.value_and_grad(losses, has_aux=True))
    _, (found, direction) = gradient(u)[0]
    target = eps - x
    length = lambda v: np.linalg.norm(v, axis=-1)
    away = (1 - (u * target).sum(-1) / (length(u) * length(target))).mean((1, 2))
    np.testing.assert_allclose(direction, away, rtol=1e-5)
    np.testing.assert_allclose(found, ((u - target) ** 2).mean((1, 2, 3)) + 0.5 * away, rtol=1e-5)
    assert np.isfinite(gradient(np.zeros_like(u))[1]).all()
    with pytest.raises(ValueError, match=r"direction = -1\.0 must be at least 0"):
        objectives.flow_matching(timesteps.uniform_density(schedule), direction=-1.0)
