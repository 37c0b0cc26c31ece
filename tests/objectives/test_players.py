"""What holds for each network of an objective of several: how it is read, and what it receives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, timesteps, weightings
from tests.objectives import objective_cases
from tests.objectives.few_step_cases import FLOW, MEMBERS, batch_of, near, networks, parameters_of, run
from tests.objectives.objective_cases import OBJECTIVES, network_of

GRID = (1.0, 0.5, 0.0)
REWARD = objectives.near_value(0.3)
RATE = weightings.constant(parameterizations.v())
# The parameterizations of student, teacher and fake: the axes of their clocks tell them apart.
THREE = [parameterizations.v(lambda schedule, t, k=k: jnp.reshape(t, jnp.shape(t) + (1,) * k)) for k in range(3)]
AXES = {"model": 1, "target": 1, "teacher": 2, "judge": 2, "fake": 3}
LABELS = jnp.arange(6) % 3


def density(first, of):
    """The density whose first state is `first`, and whose times and importance are functions of its state."""
    sample = lambda state, keys, index: tuple(jnp.full(len(keys), value) for value in of(state))
    return timesteps.Density(lambda: jnp.float32(first), sample, lambda state, t, losses: state)


FIRST = density(1.0, lambda state: (0.6, state))  # of the batch's state, its importance
SECOND = density(0.4, lambda state: (state, 7.0))  # its own state, which is a time
WEIGHTED = {  # (student, teacher, fake) -> an objective with FIRST as its density; its losses are linear in importance
    "consistency_training": lambda S, T, F: objectives.consistency_training(S, FIRST, near(0.2)),
    "diffusion_nft": lambda S, T, F: objectives.diffusion_nft(S, RATE, FIRST, GRID, REWARD, 2, T, divergence=0.1),
    "consistency_distillation": lambda S, T, F: objectives.consistency_distillation(S, T, FIRST, near(0.2)),
    "continuous_consistency": lambda S, T, F: objectives.continuous_consistency(FIRST, teacher=T, student=S),
    "distribution_matching": lambda S, T, F: objectives.distribution_matching(S, T, F, FIRST),
    "distribution_matching(f)": lambda S, T, F: objectives.distribution_matching(
        S, T, F, FIRST, f=objectives.f_divergences.forward_kl, block=2, adversarial=0.1
    ),
    "fake_score": lambda S, T, F: objectives.fake_score(S, F, RATE, FIRST),
    "score_identity": lambda S, T, F: objectives.score_identity(S, T, F, FIRST, block=1, adversarial=0.1),
    "truncated_consistency": lambda S, T, F: objectives.truncated_consistency(S, T, FIRST, near(0.2)),
    "guidance_distillation": lambda S, T, F: objectives.guidance_distillation(S, T, RATE, FIRST),
    "guidance_distillation(scales)": lambda S, T, F: objectives.guidance_distillation(S, T, RATE, FIRST, (0.0, 2.0), 3),
    "adversarial_generator": lambda S, T, F: objectives.adversarial_generator(S, T, FIRST, SECOND),
    "adversarial_generator(features)": lambda S, T, F: objectives.adversarial_generator(
        S, T, FIRST, SECOND, noise_density=SECOND, blocks=(1, 3)
    ),
    "adversarial_discriminator": lambda S, T, F: objectives.adversarial_discriminator(S, FIRST, 0.1),
    "adversarial_discriminator(features)": lambda S, T, F: objectives.adversarial_discriminator(
        S, FIRST, 0.1, T, SECOND, blocks=(1, 3)
    ),
    "score_regularised_consistency": lambda S, T, F: objectives.score_regularised_consistency(
        T, F, FIRST, SECOND, student=S
    ),  # at step 3, in its warm-up
}
MAKE = WEIGHTED | {
    "fake_score(discriminator)": lambda S, T, F: objectives.fake_score(S, F, RATE, FIRST, block=2, adversarial=0.1),
    "backward_simulation": lambda S, T, F: objectives.distribution_matching(
        S, T, F, FIRST, samples=objectives.backward_simulation(GRID)
    ),
    "progressive_distillation": lambda S, T, F: objectives.progressive_distillation(S, T, 4, teacher_scale=2.0, null=3),
    "progressive_adversarial": lambda S, T, F: objectives.progressive_adversarial(S, T, 4, 3),
    "transition_judge": lambda S, T, F: objectives.transition_judge(S, T, 4, 3),
    "latent_consistency": lambda S, T, F: objectives.latent_consistency_distillation(S, T, 3),
    "regression": lambda S, T, F: objectives.regression(S),
    "drifting": lambda S, T, F: objectives.drifting(S, 0.5, 6),
    "policy_gradient": lambda S, T, F: objectives.policy_gradient(S, GRID, REWARD, 2, T, beta=0.1, policy="target"),
    "diffusion_dpo": lambda S, T, F: objectives.diffusion_dpo(S, T, RATE, FIRST, 0.5),
    "adjoint_matching": lambda S, T, F: objectives.adjoint_matching(S, T, RATE, GRID, REWARD, 0.5),
    "adjoint_sampling": lambda S, T, F: objectives.adjoint_sampling(S, RATE, FIRST, GRID, objectives.funnel(3)),
    "log_variance": lambda S, T, F: objectives.log_variance(S, GRID, objectives.funnel(3), 2),
}


def players(seen):
    """Smooth networks that note under which clock and condition they are called."""

    def network(name, x, clock, condition, features=None):
        seen.append((name, clock, condition))
        output = jnp.tanh((0.3 + 0.1 * len(name)) * x)
        return output if features is None else (output, tuple(jnp.stack([x, k * output], -1) for k in features))

    def discriminator(x, clock, condition):
        seen.append(("discriminator", None, condition))
        return jnp.asarray(sum(h.reshape(len(h), -1).mean(1) for h in jax.tree.leaves(x)))

    return {name: functools.partial(network, name) for name in AXES} | {"discriminator": discriminator}


def losses_of(name, seen, **batch):
    keys = jax.random.split(jax.random.key(0), 6)
    batch = batch_of(6) | {"condition": LABELS} | batch
    return MAKE[name](*THREE)(players(seen), FLOW, keys, batch, 3)[0]


@pytest.mark.parametrize("name", MAKE)
def test_each_network_is_read_by_its_parameterization_under_the_condition(name):
    """A network with another's clock would be asked about other times; without the condition, about any class."""
    seen = []
    jax.eval_shape(lambda: losses_of(name, seen))
    assert {player for player, _, _ in seen} >= {"model"}
    for player, clock, condition in seen:
        assert clock is None or clock.ndim == AXES[player], player
        assert condition is not None, player


@pytest.mark.parametrize(
    "make",
    [
        lambda: objectives.trajectory_regression(*THREE[:2], GRID, 1),
        lambda: objectives.distribution_matching(*THREE, FIRST, samples=objectives.self_forcing(GRID, 1)),
        lambda: objectives.distribution_matching(*THREE, FIRST, samples=objectives.noised_chunks(GRID, 1)),
    ],
)
def test_each_network_of_clips_receives_the_condition(make):
    seen = []
    keys, batch = jax.random.split(jax.random.key(0), 6), batch_of(6, (2, 3)) | {"condition": LABELS}
    jax.eval_shape(lambda: make()(players(seen), FLOW, keys, batch, 3)[0])
    assert {"model", "teacher"} <= {player for player, _, _ in seen}
    assert all(condition is not None for _, _, condition in seen)


@pytest.mark.extended
@pytest.mark.parametrize("name", MEMBERS)
def test_each_network_of_few_steps_receives_the_condition(name):
    seen = []
    noted = lambda network: (
        lambda x, clock, condition, **more: seen.append(condition) or network(x, clock, condition, **more)
    )
    member = MEMBERS[name]
    spied = {player: noted(network) for player, network in networks(member, parameters_of(member)).items()}
    jax.eval_shape(lambda: run(name, batch_of(6), players=spied)[0])
    assert seen and all(jax.tree.leaves(condition) for condition in seen)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_network_of_an_objective_receives_the_condition(name):
    seen, case = [], OBJECTIVES[name]
    spied = network_of(case, lambda x, clock, condition: seen.append(condition) or jnp.tanh(x))
    keys, x = jax.random.split(jax.random.key(0), 6), jnp.ones((6, 2))
    objective = case.make(timesteps.uniform_density(FLOW))
    schedule = FLOW._replace(t_max=0.999)
    jax.eval_shape(
        lambda: objective_cases.losses_of(objective, spied, schedule, keys, x, condition=LABELS, **case.batch(x))[0]
    )
    assert seen and all(condition is LABELS for condition in seen)


LONG = ("diffusion_nft", "distribution_matching(f)", "adversarial_generator(features)",
        "adversarial_discriminator(features)")  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.extended) if n in LONG else n for n in WEIGHTED])
def test_importance_multiplies_and_each_density_has_its_state(name):
    with jax.disable_jit():
        once, thrice = losses_of(name, []), losses_of(name, [], density=jnp.float32(3.0))
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5)
    assert (np.abs(once) > 0).all()


@pytest.mark.parametrize("make", [objectives.mean_flow, objectives.improved_mean_flow, objectives.alpha_flow])
def test_the_importance_of_two_drawn_times_is_the_product_of_theirs(make):
    objective = make(FIRST, 6) if make is objectives.alpha_flow else make(FIRST)
    network = lambda x, clocks, condition: jnp.tanh(x) + clocks[0][:, None]
    keys, batch = jax.random.split(jax.random.key(0), 6), batch_of(6)
    run = jax.jit(lambda state: objective({"model": network}, FLOW, keys, batch | {"density": state}, 3)[0])
    once, thrice = run(1.0), run(3.0)
    np.testing.assert_allclose(thrice, 9 * once, rtol=1e-5)
    assert (once > 0).all()
