"""Numbers of objectives and couplings that JAX compiles, maps and differentiates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import couplings, discrete, objectives, parameterizations, schedules, weightings
from diffusion.objectives import consistency_times, few_step
from tests.conformance import slow_but
from tests.objectives.few_step_cases import FLOW, UNIFORM, Member, V, batch_of, near, networks, parameters_of

PLAYERS = Member(None, ("target", "teacher", "fake"), others=("discriminator", "judge", "base"))
KEYS = jax.random.split(jax.random.key(1), 6)
BATCH = batch_of(6)
PRIOR = {"prior": {"x": BATCH["x"][::-1], "condition": BATCH["condition"]}}
GRID = (1.0, 0.5, 0.0)
RATE = weightings.constant(V)
REWARD = objectives.near_value(0.3)
flow = lambda coupling=None: objectives.flow_matching(UNIFORM, coupling)
terms = lambda *terms: objectives.added(flow(), *terms)


def loss(make, also=None, step=3):
    """The losses, as a function of the number."""
    players = networks(PLAYERS, parameters_of(PLAYERS))
    players |= {"term": lambda h, shape: h, "term_critic": lambda h, shape: jnp.sin(h[..., :1])}
    players |= {"encoder": lambda x, clock, condition: jnp.stack([x, x**2], -1)}
    return lambda p: make(p)(players, FLOW, KEYS, BATCH | (also or {}), step)[0]


def symbol_loss(make, process):
    """The losses on symbols, of the objective of make(process, the density of times, the number)."""
    table = jax.random.normal(KEYS[0], (4, 4))
    network = lambda x, clock, condition: x @ table if x.ndim == 3 else table[x]
    batch = {"x": jnp.arange(30).reshape(6, 5) % 4}
    return lambda p: make(process(p), UNIFORM, p)({"model": network}, FLOW, KEYS, batch, 3)[0]


POINTS = jnp.asarray(np.random.default_rng(3).standard_normal((2, 6, 2)), jnp.float32)
noised_symbols = lambda p: discrete.uniform(discrete.linear(), 4)
ANGLES = jnp.linspace(0, 1, 6)[:, None]
matching = lambda **numbers: objectives.distribution_matching(V, V, V, UNIFORM, **numbers)
guided = lambda **numbers: objectives.improved_mean_flow(UNIFORM, guidance=objectives.GuidanceInputs(3, **numbers))
# name -> (a function of the number, the number)
CASES = {
    "adjoint_matching": (loss(lambda p: objectives.adjoint_matching(V, V, RATE, GRID, REWARD, p)), 0.5),
    "adjoint_sampling std": (
        loss(lambda p: objectives.adjoint_sampling(V, RATE, UNIFORM, GRID, objectives.funnel(3), p)),
        1.2,
    ),
    "adjoint_sampling norm": (
        loss(lambda p: objectives.adjoint_sampling(V, RATE, UNIFORM, GRID, objectives.funnel(3), max_norm=p)),
        0.5,
    ),
    "adversarial_generator": (loss(lambda p: objectives.adversarial_generator(V, V, UNIFORM, UNIFORM, p)), 2.5),
    "adversarial_discriminator": (loss(lambda p: objectives.adversarial_discriminator(V, UNIFORM, p)), 0.1),
    "alpha_flow end": (loss(lambda p: objectives.alpha_flow(UNIFORM, 6, end=p)), 0.9),
    "alpha_flow gamma": (loss(lambda p: objectives.alpha_flow(UNIFORM, 6, start=0.1, gamma=p)), 5.0),
    "mean_flow": (loss(lambda p: objectives.mean_flow(UNIFORM, p=p)), 0.5),
    "mean_flow guidance": (
        loss(lambda p: objectives.mean_flow(UNIFORM, guidance=objectives.Guidance(3, p, p / 2, p / 5))),
        0.8,
    ),
    "improved_mean_flow largest": (loss(lambda p: guided(largest=p)), 3.0),
    "improved_mean_flow beta": (loss(lambda p: guided(beta=p)), 0.5),
    "continuous_consistency c": (
        loss(lambda p: objectives.continuous_consistency(UNIFORM, c=p, clock=parameterizations.time())),
        0.1,
    ),
    "continuous_consistency sigma": (
        loss(lambda p: objectives.continuous_consistency(UNIFORM, p, clock=parameterizations.time(), student=V)),
        0.5,
    ),
    "contrastive_flow_matching": (loss(lambda p: objectives.contrastive_flow_matching(UNIFORM, p)), 0.05),
    "density gradient": (
        lambda p: objectives.with_density_gradient(
            lambda x, t, c: x * c["vector"], lambda x: -(x**4).sum(-1), jnp.exp, p
        )(BATCH["x"], jnp.zeros(6)),
        0.3,
    ),
    "diffusion_dpo": (loss(lambda p: objectives.diffusion_dpo(V, V, RATE, UNIFORM, p)), 0.5),
    "diffusion_nft": (
        loss(lambda p: objectives.diffusion_nft(V, RATE, UNIFORM, GRID, REWARD, 2, V, beta=p, limit=2 * p)),
        0.7,
    ),
    "diffusion_nft divergence": (
        loss(lambda p: objectives.diffusion_nft(V, RATE, UNIFORM, GRID, REWARD, 2, V, divergence=p)),
        0.1,
    ),
    "discriminator": (loss(lambda p: matching(block=2, adversarial=p)), 0.1),
    "fake_score": (loss(lambda p: objectives.fake_score(V, V, RATE, UNIFORM, block=2, adversarial=p)), 0.1),
    "score_identity alpha": (loss(lambda p: objectives.score_identity(V, V, V, UNIFORM, p)), 1.2),
    "score_identity adversarial": (
        loss(lambda p: objectives.score_identity(V, V, V, UNIFORM, block=1, adversarial=p)),
        0.1,
    ),
    "ratios": (loss(lambda p: matching(f=objectives.f_divergences.forward_kl, ratios=(1 - p, 1 + p), block=1)), 0.02),
    "drifting": (loss(lambda p: objectives.drifting(V, p, 6)), 0.5),
    "structured_alignment": (loss(lambda p: terms(objectives.structured_alignment(p, 2 * p, 1, p))), 0.3),
    "self_alignment": (loss(lambda p: terms(objectives.self_alignment(V, 1, 2, p, p / 2))), 0.3),
    "dispersive": (loss(lambda p: terms(objectives.dispersive(1, 2, p))), 0.5),
    "pseudo_huber": (
        loss(lambda p: objectives.consistency_training(V, UNIFORM, near(0.2), few_step.pseudo_huber(p))),
        0.5,
    ),
    "direction": (loss(lambda p: objectives.flow_matching(UNIFORM, direction=p)), 0.5),
    "guidance_distillation": (
        loss(lambda p: objectives.guidance_distillation(V, V, RATE, UNIFORM, (p, 2 * p), 3)),
        1.5,
    ),
    "brownian_bridge": (
        loss(
            lambda p: objectives.stochastic_interpolant(
                objectives.interpolants.brownian_bridge(p), UNIFORM, ("denoiser",)
            )
        ),
        0.5,
    ),
    "latent_consistency guidance": (
        loss(lambda p: objectives.latent_consistency_distillation(V, V, 3, (p, 2 * p))),
        2.0,
    ),
    "latent_consistency c": (loss(lambda p: objectives.latent_consistency_distillation(V, V, 3, p, c=p)), 0.1),
    "log_variance": (loss(lambda p: objectives.log_variance(V, GRID, objectives.funnel(3), 2, p)), 1.2),
    "funnel": (loss(lambda p: objectives.log_variance(V, GRID, objectives.funnel(3, p), 2)), 3.0),
    "gaussian_mixture": (
        loss(lambda p: objectives.log_variance(V, GRID, objectives.gaussian_mixture(4, 3, p), 2)),
        2.0,
    ),
    "policy_gradient": (loss(lambda p: objectives.policy_gradient(V, GRID, REWARD, 2, V, clip=p, beta=p)), 0.2),
    "prior_preservation": (loss(lambda p: objectives.with_prior_preservation(flow(), p), PRIOR), 0.5),
    "progressive_distillation": (
        loss(lambda p: objectives.progressive_distillation(V, V, 4, teacher_scale=p, null=3)),
        2.0,
    ),
    "condition_dropout": (loss(lambda p: objectives.with_condition_dropout(flow(), 3, p)), 0.3),
    "reward_weights": (loss(lambda p: objectives.with_reward_weights(flow(), REWARD, p, p / 2)), 0.5),
    "score_regularised_consistency": (
        loss(
            lambda p: objectives.score_regularised_consistency(
                V, V, UNIFORM, UNIFORM, p, warmup=2, clock=parameterizations.time()
            )
        ),
        0.1,
    ),
    "shortcut": (loss(lambda p: objectives.shortcut(16, p / 8, p)), 2.0),
    "truncated_consistency": (
        loss(lambda p: objectives.truncated_consistency(V, V, UNIFORM, near(0.2), p, p / 4, p / 10)),
        1.0,
    ),
    "variational_bound": (
        loss(lambda p: objectives.variational_bound(V, UNIFORM, p, objectives.decoders.gaussian())),
        0.01,
    ),
    "shrinking": (loss(lambda p: objectives.consistency_training(V, UNIFORM, consistency_times.shrinking(2, p))), 2.0),
    "discretised": (
        loss(
            lambda p: objectives.consistency_training(
                V, UNIFORM, consistency_times.discretised(consistency_times.constant_curriculum(8), p, 80 * p, 7 * p)
            )
        ),
        1.0,
    ),
    "ramp_density": (
        loss(lambda p: objectives.denoising(V, RATE, consistency_times.ramp_density(FLOW, p, 80 * p))),
        0.5,
    ),
    "duo": (symbol_loss(lambda process, times, p: discrete.duo(process, times, 5, p), noised_symbols), 0.5),
    "hybrid_bound": (
        symbol_loss(lambda process, times, p: discrete.hybrid_bound(process, times, 10, p), noised_symbols),
        0.5,
    ),
    "metric_path": (
        symbol_loss(
            lambda path, times, p: discrete.discrete_flow_matching(path, times),
            lambda p: discrete.metric_path(discrete.line_distances(4), p, p / 2),
        ),
        2.0,
    ),
    "sinkhorn": (lambda p: couplings.sinkhorn(p, 6, p / 100)(KEYS, *POINTS), 0.5),
    "schroedinger_bridge": (lambda p: couplings.schroedinger_bridge(p, 6)(KEYS, *POINTS), 0.7),
    "conditional_optimal_transport": (
        lambda p: couplings.conditional_optimal_transport(p, 6)(KEYS, *POINTS, ANGLES),
        0.4,
    ),
    "init_learned": (
        lambda p: schedules.learned(schedules.init_learned(KEYS[0], p, -p / 3, 8)).log_snr(jnp.linspace(0.1, 1, 6)),
        13.3,
    ),
}


FEW = ("sinkhorn", "conditional_optimal_transport", "direction", "discriminator", "init_learned")


@pytest.mark.parametrize("name", FEW)
def test_a_number_may_be_traced(name):
    jax.eval_shape(*CASES[name])


@pytest.mark.extended
@pytest.mark.parametrize("name", [name for name in CASES if name not in FEW])
def test_each_number_may_be_traced(name):
    jax.eval_shape(*CASES[name])


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([("direction",), ("init_learned",)], [(name,) for name in CASES]))
def test_numbers_may_be_mapped_and_differentiated(name):
    """Mapped values are those of the numbers; derivatives are finite, and alike in both modes."""
    function, p = CASES[name]
    mapped = jax.vmap(function)(jnp.array([p, 1.1 * p]))
    value, slope = jax.jvp(function, (p,), (1.0,))
    for number, row in ((p, mapped[0]), (1.1 * p, mapped[1]), (p, value)):
        np.testing.assert_allclose(row, function(number), rtol=1e-4, atol=1e-5)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(jax.grad(lambda p: function(p).sum())(p), slope.sum(), rtol=1e-3, atol=1e-3)
