"""Randomness of the objectives: decisions are independent, and an example's draws are its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from diffusion import objectives, parameterizations, schedules, timesteps
from tests.objectives.objective_cases import OBJECTIVES, SCHEDULES, at, every_objective, losses_of, network_of, spy

MANY = 4096


# Reflow's batch has its noise; objectives that share their draws with another one are slow.
SHARING = ("ddpm", "v, min-snr", "score", "edm", "velocity", "alignment", "dispersive")
drawing = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SHARING else ()) for name in OBJECTIVES if name != "reflow"],
)


def _draws(case, index=None, keys=None, rate=0.25):
    """What an objective with condition dropout decides: t, x_t's noise in units of its standard deviation, and
    whether the condition was dropped, per example."""
    schedule = schedules.rectified_flow()._replace(t_max=0.9999)
    seen = []
    keys = jax.random.split(jax.random.key(5), MANY) if keys is None else keys
    index = jnp.arange(len(keys)) if index is None else index
    objective = case.make(timesteps.uniform_density(schedule))
    objective = objectives.with_condition_dropout(objective, null=-1, rate=rate)
    x = jnp.zeros((len(keys), 2))
    labels = jnp.zeros(len(keys), int)
    _, metrics = losses_of(objective, network_of(case, spy(seen)), schedule, keys, x, condition=labels, index=index)
    t = np.asarray(metrics["t"], np.float64)
    (x_t, _, condition), *_ = seen
    state = (1 - t, t) if case.state is None else case.state(1 - t, t, -1, 1, t)
    # Noises that share a key add up to another variance than independent ones do.
    own = [c for c, kind in zip(state, case.draws) if kind == "noise"]
    c_in = case.input_scale(1 - t, t)
    c_in = c_in if np.ndim(c_in) == 0 else c_in[:, None]
    noise = np.asarray(x_t, np.float64) / c_in / np.sqrt(sum(np.square(c) for c in own))[:, None]
    return t, noise, np.asarray(condition) == -1


def test_conditions_are_dropped_together_and_alone_by_different_examples():
    """Shares of rate each, none of them twice: three multinomial outcomes and the rest."""
    keys = jax.random.split(jax.random.key(0), MANY)
    condition = {name: jnp.ones((MANY, 2)) for name in ("captioned", "original", "text")}
    dropped = objectives.drop_condition(keys, condition, None, 0.1, alone=("captioned", "original"))
    gone = {name: np.asarray(leaf[:, 0] == 0) for name, leaf in dropped.items()}
    both = gone["text"]
    assert (gone["captioned"] & gone["original"] == both).all()
    counts = [int(which.sum()) for which in (both, gone["captioned"] & ~both, gone["original"] & ~both)]
    assert scipy.stats.chisquare([*counts, MANY - sum(counts)], np.array([0.1, 0.1, 0.1, 0.7]) * MANY).pvalue > 1e-3
    whole = objectives.drop_condition(keys, condition, None, 0.1)
    np.testing.assert_array_equal(np.asarray(whole["captioned"][:, 0] == 0), both)


@pytest.mark.extended
@drawing
def test_decisions_are_independent(name):
    """Given that the condition was dropped, t is still uniform and eps still normal; t says nothing of eps.

    A key that decides, and is then split for the rest, gives independent numbers too: tests/test_drawn_keys.py sees it.
    """
    t, eps, dropped = _draws(OBJECTIVES[name])
    assert scipy.stats.binomtest(int(dropped.sum()), MANY, 0.25).pvalue > 1e-3
    for chosen in (dropped, ~dropped):
        assert scipy.stats.kstest(t[chosen], "uniform").pvalue > 1e-3
        assert scipy.stats.kstest(eps[chosen].ravel(), "norm").pvalue > 1e-3
    for column in eps.T:
        assert abs(scipy.stats.spearmanr(t, column).statistic) < 4 / np.sqrt(MANY)
        assert abs(scipy.stats.spearmanr(t, np.abs(column)).statistic) < 4 / np.sqrt(MANY)
    assert abs(scipy.stats.spearmanr(eps[:, 0], eps[:, 1]).statistic) < 4 / np.sqrt(MANY)


@pytest.mark.parametrize(
    "name", ["x0", "flow_matching", pytest.param("stochastic_interpolant", marks=pytest.mark.slow)]
)
def test_draws_of_an_example_do_not_depend_on_the_batch(name):
    keys = jax.random.split(jax.random.key(5), 12)
    t, eps, dropped = _draws(OBJECTIVES[name], keys=keys)
    part_t, part_eps, part_dropped = _draws(OBJECTIVES[name], keys=keys[4:6], index=jnp.arange(4, 6))
    np.testing.assert_array_equal(part_t, t[4:6])
    np.testing.assert_array_equal(part_eps, eps[4:6])
    np.testing.assert_array_equal(part_dropped, dropped[4:6])


@pytest.mark.extended
@every_objective
def test_loss_of_an_example_does_not_depend_on_the_others(name):
    """Of those in its own block, where an objective compares examples."""
    case = OBJECTIVES[name]
    schedule = SCHEDULES["cosine"]
    keys = jax.random.split(jax.random.key(2), 6)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 2)))
    objective = case.make(timesteps.uniform_density(schedule))
    network = network_of(case, lambda x, clock, condition: jnp.tanh(x))
    whole, _ = losses_of(objective, network, schedule, keys, x, **case.batch(x))
    changed, _ = losses_of(objective, network, schedule, keys.at[0].set(keys[5]), x.at[0].set(9.0), **case.batch(x))
    alone = 2 if len(case.draws) == 4 else 1
    np.testing.assert_allclose(changed[alone:], whole[alone:], rtol=1e-6)
    assert changed[0] != whole[0]


@pytest.mark.parametrize("rate, share", [(0.0, 0.0), (0.999, 0.999)])
def test_dropout_rate_is_a_share(rate, share):
    _, _, dropped = _draws(OBJECTIVES["flow_matching"], rate=rate)
    np.testing.assert_allclose(dropped.mean(), share, atol=3e-3)


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_bad_dropout_rates_are_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        objectives.with_condition_dropout(objectives.flow_matching(at(0.5)), null=0, rate=rate)


def test_shares_that_are_dropped_alone_add_up_to_one_at_most():
    objective = objectives.flow_matching(at(0.5))
    with pytest.raises(ValueError, match=r"rate = 0\.4 .* of text, image alone.*Valid: at most 0\.333"):
        objectives.with_condition_dropout(objective, null=0, rate=0.4, alone=("text", "image"))
    objectives.with_condition_dropout(objective, null=0, rate=0.25, alone=("text", "image", "pose"))


def test_dropout_replaces_every_leaf_of_a_pytree():
    """A condition of several parts is dropped as a whole."""
    keys = jax.random.split(jax.random.key(0), 200)
    condition = {"label": jnp.arange(200), "text": jnp.ones((200, 3, 2))}
    null = {"label": jnp.asarray(1000), "text": jnp.zeros((3, 2))}
    dropped = objectives.drop_condition(keys, condition, null, 0.5)
    gone = np.asarray(dropped["label"]) == 1000
    assert 60 < gone.sum() < 140
    np.testing.assert_array_equal(np.asarray(dropped["text"]) == 0, np.broadcast_to(gone[:, None, None], (200, 3, 2)))
    np.testing.assert_array_equal(np.asarray(dropped["label"])[~gone], np.arange(200)[~gone])


@pytest.mark.parametrize("block", [1, 0])
def test_a_block_of_one_has_no_other(block):
    with pytest.raises(ValueError, match=f"block = {block} must be at least 2"):
        objectives.contrastive_flow_matching(at(0.5), block=block)
    objectives.contrastive_flow_matching(at(0.5), block=3)


def test_the_smallest_counts_are_taken():
    """One solver step, a stage of one step, and the two step sizes 1/2 and 1."""
    v = parameterizations.v()
    objectives.latent_consistency_distillation(v, v, null=0, solver_steps=1)
    objectives.progressive_distillation(v, v, 4, stage=1)
    objectives.shortcut(2)
