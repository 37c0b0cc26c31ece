"""Conformance of the objectives of few-step networks; their optima are in test_few_step_optima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.interpreters.partial_eval import dce_jaxpr

from diffusion import objectives, timesteps
from diffusion.models.dit import DiT
from tests.conformance import slow_but
from tests.objectives.few_step_cases import (
    FLOW,
    MEMBERS,
    OBJECTIVES,
    UNIFORM,
    V,
    batch_of,
    every_member,
    keys_and_data,
    names,
    networks,
    parameters_of,
    run,
)
from tests.objectives.objective_cases import at


@pytest.mark.extended
@every_member
@pytest.mark.parametrize("shape", [(), (2, 3, 1, 2)])
def test_losses_are_per_example_float32_for_any_rank(name, shape):
    losses, metrics = jax.eval_shape(lambda batch: run(name, batch), batch_of(6, shape))
    assert (losses.shape, losses.dtype) == ((6,), jnp.float32)
    assert {value.shape for value in metrics.values()} == {(6,)}
    assert "t" in metrics


@pytest.mark.extended
@pytest.mark.parametrize(
    "name", slow_but([("consistency_training",), ("distribution_matching",)], [(name,) for name in MEMBERS])
)
def test_half_precision_networks_give_finite_float32_losses_and_gradients(name):
    member = MEMBERS[name]

    def loss(parameters):
        losses, _ = run(name, batch_of(6), parameters, dtype=jnp.bfloat16)
        assert losses.dtype == jnp.float32
        return losses.sum()

    with jax.disable_jit():
        value, gradient = jax.value_and_grad(loss)(parameters_of(member))
    assert np.isfinite(value)
    assert np.isfinite(gradient[member.trained]).all()


@pytest.mark.extended
@every_member
def test_gradient_reaches_the_trained_network_alone(name):
    member = MEMBERS[name]
    with jax.disable_jit():
        gradient = jax.grad(lambda parameters: run(name, batch_of(6), parameters)[0].sum())(parameters_of(member))
    assert np.abs(gradient[member.trained]).max() > 1e-6
    for frozen in member.frozen:
        np.testing.assert_array_equal(gradient[frozen], 0)


@every_member
def test_the_program_of_the_derivative_reads_the_trained_network_alone(name):
    """It is not run: what it reads of the parameters' changes remains where all else is left out of it."""
    member = MEMBERS[name]
    parameters = parameters_of(member)
    loss = lambda parameters: run(name, batch_of(6), parameters)[0].sum()
    program = jax.make_jaxpr(lambda changes: jax.jvp(loss, (parameters,), (changes,))[1])(parameters)
    _, used = dce_jaxpr(program.jaxpr, [True])
    read = dict(zip(sorted(parameters), used, strict=True))
    assert read[member.trained] and not any(read[frozen] for frozen in member.frozen)


@pytest.mark.extended
@every_member
def test_a_missing_network_is_named(name):
    member = MEMBERS[name]
    players = networks(member, parameters_of(member))
    for missing in names(member):
        rest = {other: player for other, player in players.items() if other != missing}
        with pytest.raises(ValueError, match=f"needs a network named '{missing}'"):
            jax.eval_shape(lambda rest=rest: run(name, batch_of(6), players=rest))


@pytest.mark.extended
@pytest.mark.parametrize(
    "name", slow_but([("consistency_training",), ("mean_flow",), ("shortcut",)], [(name,) for name in MEMBERS])
)
def test_loss_of_an_example_does_not_depend_on_the_others(name):
    """Neither does what is drawn for it. Where examples are compared in blocks, another block does not matter."""
    first = max(2, OBJECTIVES[name].examples.block)  # examples that change
    keys = jax.random.split(jax.random.key(2), 3 * first)
    batch = batch_of(3 * first)
    changed = {**batch, "x": batch["x"].at[:first].set(9.0), "start": batch["start"].at[:first].set(-9.0)}
    with jax.disable_jit():
        losses, metrics = run(name, batch, keys=keys)
        other_losses, other_metrics = run(name, changed, keys=keys.at[:first].set(keys[first]))
    np.testing.assert_array_equal(other_losses[first:], losses[first:])
    np.testing.assert_array_equal(other_metrics["t"][first:], metrics["t"][first:])
    assert (other_losses[:first] != losses[:first]).all()


@pytest.mark.slow
@every_member
def test_compiles_with_a_traced_step(name):
    batch = batch_of(max(4, OBJECTIVES[name].examples.block))
    compiled = jax.jit(lambda step: run(name, batch, step=step)[0])
    with jax.disable_jit():
        eager = run(name, batch, step=60)[0]
    np.testing.assert_allclose(compiled(60), eager, rtol=2e-4, atol=1e-6)


UNIFORM_STRATA = timesteps.uniform_density(FLOW, strata=64)
# The objective, and what it decided, of (t, s, x_t, label) for data at 0 and labels 0 that are dropped to 1. The larger
# of two uniform times has a uniform square.
DECIDING = {
    "mean_flow": (
        objectives.with_condition_dropout(objectives.mean_flow(UNIFORM, equal=0.4), null=1, rate=0.3),
        lambda t, s, x_t, label: (t**2, s == t, x_t / t, label),
    ),
    "mean_flow(two times)": (
        objectives.mean_flow(UNIFORM_STRATA, equal=0.0),
        lambda t, s, x_t, label: (s / t, t, x_t / t),
    ),
    "mean_flow(guided)": (
        objectives.mean_flow(UNIFORM, equal=0.4, guidance=objectives.Guidance(1, dropout=0.3)),
        lambda t, s, x_t, label: (t**2, s == t, x_t / t, label),
    ),
    "shortcut": (
        objectives.with_condition_dropout(objectives.shortcut(64, share=0.5), null=1, rate=0.3),
        lambda t, s, x_t, label: (np.round(np.log2(t - s)), x_t / t, label),
    ),
}


def decisions(name, size=4096):
    """What an objective decides for each example, `[decisions, size]`: as its metrics and its network's calls show."""
    objective, decided = DECIDING[name]
    seen = []

    def spy(x, clocks, condition):
        jax.debug.callback(lambda x, label: seen.append((np.asarray(x)[:, 0], np.asarray(label))), x, condition)
        return 0.1 * x

    batch = {"x": jnp.zeros((size, 1)), "condition": jnp.zeros(size, int), "index": jnp.arange(size)}
    keys = jax.random.split(jax.random.key(11), size)
    run = jax.jit(lambda keys: objective({"model": spy, "target": lambda x, *_: x}, FLOW, keys, batch, 0)[1])
    metrics = run(keys)
    jax.effects_barrier()
    t = np.asarray(metrics["t"])
    s = np.asarray(metrics["s"]) if "s" in metrics else t - np.asarray(metrics["duration"])
    dropped = [label for _, label in seen if 0 < label.mean() < 1] or [0 * t]
    return np.stack([np.asarray(values, float) for values in decided(t, s, seen[0][0], dropped[0])])


@pytest.mark.parametrize("name", slow_but([("mean_flow",)], [("mean_flow",), ("shortcut",), ("mean_flow(guided)",)]))
def test_decisions_are_independent(name):
    """No rank correlation between any two, nor between the sizes of deviations from the middle.

    A key that decides, and is then split for the rest, gives independent numbers too: tests/test_drawn_keys.py sees it.
    """
    found = decisions(name)
    for i in range(len(found)):
        for j in range(i):
            for a, b in ((found[i], found[j]), (np.abs(found[i] - np.median(found[i])), found[j])):
                if a.std() > 0:
                    assert abs(scipy.stats.spearmanr(a, b).statistic) < 4.5 / np.sqrt(len(a)), (i, j)


def test_the_two_times_of_mean_flow_are_independent_draws_even_when_stratified():
    """s / t of the smaller and the larger of two independent uniform times is uniform, and says nothing of t."""
    ratio, t, _ = decisions("mean_flow(two times)")
    assert scipy.stats.kstest(ratio, "uniform").pvalue > 1e-3
    assert scipy.stats.kstest(t**2, "uniform").pvalue > 1e-3
    assert abs(scipy.stats.spearmanr(ratio, t).statistic) < 4.5 / np.sqrt(len(t))


@pytest.mark.parametrize("make", [objectives.mean_flow, objectives.improved_mean_flow])
@pytest.mark.parametrize("density", ["logit_normal", "uniform"])
def test_mean_flow_takes_the_larger_of_two_draws_on_the_diagonal_too(make, density):
    """E max = integral 2 F t dF: 0.535 for sigmoid(N(-0.4, 1)), whose own mean is 0.417, and 2/3 for uniform times."""
    of = {"logit_normal": lambda: timesteps.logit_normal(FLOW, -0.4, 1.0), "uniform": lambda: UNIFORM}[density]()
    u = (np.arange(10_000) + 0.5) / 10_000
    quantile = {"logit_normal": scipy.special.expit(scipy.stats.norm.ppf(u) - 0.4), "uniform": u}[density]
    larger = np.mean(2 * u * quantile)
    assert larger > quantile.mean() + 0.1
    keys = jax.random.split(jax.random.key(3), 8192)
    x = jnp.zeros((8192, 1))
    run = jax.jit(lambda keys: make(of, equal=0.5)({"model": lambda x, *_: x}, FLOW, keys, {"x": x}, 0)[1])
    t, s = (np.asarray(run(keys)[name], np.float64) for name in ("t", "s"))
    assert scipy.stats.binomtest(int((s == t).sum()), t.size, 0.5).pvalue > 1e-3
    for chosen in (s == t, s < t):
        assert abs(t[chosen].mean() - larger) < 5 * t.std() / np.sqrt(chosen.sum())


def test_shortcut_clips_the_middle_of_its_two_steps_and_the_target():
    """One step from t = 1 to 0, with u = 8 d x at the duration d = 1/2: u_1 = 4 x, u_2 = 4 clip(x - u_1 / 2).

    The model's u is 0.
    """
    keys, batch = keys_and_data()
    noise = np.float32(batch["x"][::-1])
    of_half = lambda x, clocks, condition: 8 * clocks[1][:, None] * x
    players = {"model": lambda x, clocks, condition: 0 * x, "target": of_half}
    batch = {"x": jnp.float32(batch["x"]), "noise": jnp.asarray(noise)}
    losses, metrics = objectives.shortcut(2, share=1.0, clip=0.8)(players, FLOW, keys, batch, 0)
    target = np.clip(2 * (noise + np.clip(-noise, -0.8, 0.8)), -0.8, 0.8)
    np.testing.assert_allclose(losses, np.square(target).mean(1), rtol=1e-5, atol=1e-6)
    assert np.isin(np.abs(target), np.float32([0, 0.8])).mean() < 0.95  # some are clipped in the middle alone
    np.testing.assert_array_equal(metrics["duration"], 1)


def test_progressive_distillation_in_stages_is_that_of_the_stages_number_of_steps():
    """8, 4, 2 and 1 steps in stages of five: at step 12 the third, whose losses are those of N = 2."""
    keys = jax.random.split(jax.random.key(0), 6)
    batch = batch_of(6)
    players = networks(MEMBERS["progressive_distillation"], parameters_of(MEMBERS["progressive_distillation"]))
    found, wanted = (
        objectives.progressive_distillation(V, V, N, stage=stage)(players, FLOW, keys, batch, 12)[0]
        for N, stage in ((8, 5), (2, None))
    )
    np.testing.assert_array_equal(found, wanted)


def test_progressive_distillation_guides_its_first_teacher_alone():
    """A student has the guidance built in, and would be guided anew in each stage: 2, 4, 8 times in place of 2."""
    keys = jax.random.split(jax.random.key(0), 6)
    batch = batch_of(6)
    players = networks(MEMBERS["progressive_distillation"], parameters_of(MEMBERS["progressive_distillation"]))
    teacher = players["teacher"]
    scale = 2.0
    null = 3

    def guided(x, clock, condition):
        nothing = teacher(x, clock, jnp.full_like(condition, null))
        return nothing + scale * (teacher(x, clock, condition) - nothing)

    losses = lambda players, step, **how: objectives.progressive_distillation(V, V, 8, stage=5, **how)(
        players, FLOW, keys, batch, step
    )[0]
    built_in = {"teacher_scale": scale, "null": null}
    np.testing.assert_allclose(losses(players, 4, **built_in), losses(players | {"teacher": guided}, 4), rtol=1e-5)
    assert (losses(players, 4, **built_in) != losses(players, 4)).all()
    np.testing.assert_allclose(losses(players, 5, **built_in), losses(players, 5), rtol=1e-5)
    del batch["condition"]
    with pytest.raises(ValueError, match="guided teacher needs a condition, but the batch has none"):
        losses(players, 4, **built_in)


# Derivatives along the flow.


@pytest.mark.parametrize("name", ["continuous_consistency", "mean_flow", "improved_mean_flow"])
def test_a_network_without_forward_derivative_is_refused_in_words(name):
    @jax.custom_vjp
    def fused(x):
        return jnp.tanh(x)

    fused.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g,))
    keys, batch = keys_and_data()
    with pytest.raises(TypeError, match="attention='auto_jvp', 'matmul'"):
        jax.eval_shape(lambda: OBJECTIVES[name]({"model": lambda x, clocks, c: fused(x)}, FLOW, keys, batch, 0))


@pytest.mark.slow
def test_mean_flow_trains_a_dit_of_two_times():
    """With the attention that passes forward mode; the gradient reaches the embedding of the second time."""
    model = DiT(patch=2, width=8, depth=1, heads=1, num_classes=0, attention="matmul", times=2)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jnp.ones((3, 4, 4, 1))
    shapes = jax.eval_shape(model.init, keys[0], x, (jnp.ones(3), jnp.ones(3)))
    variables = jax.tree.map(lambda s: jnp.asarray(np.random.default_rng(0).normal(size=s.shape), jnp.float32), shapes)
    objective = objectives.mean_flow(timesteps.uniform_density(FLOW), equal=0.0)

    @jax.jit
    @jax.grad
    def slope(variables):
        return objective({"model": lambda *inputs: model.apply(variables, *inputs)}, FLOW, keys, {"x": x}, 0)[0].mean()

    found = slope(variables)["params"]["timestep_embedding_2"]
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


@pytest.mark.parametrize(
    "warmup, step, r", [(4, 0, 0.0), (4, 1, 0.25), (4, 3, 0.75), (4, 4, 1.0), (4, 9, 1.0), (0, 0, 1.0)]
)
def test_the_unstable_part_of_the_tangent_fades_in(warmup, step, r):
    """A linear network, F = 0.3 x with the derivative 0.3 x', makes all of g known (Lu and Song 2024, algorithm 1)."""
    sigma_data = 0.5
    rng = np.random.default_rng(0)
    x_0, eps = rng.normal(size=(2, 3, 2))
    a = np.arctan2(0.6, sigma_data * 0.4)
    cos = np.cos(a)
    sin = np.sin(a)
    x = cos * x_0 + sin * sigma_data * eps
    x_dot = cos * sigma_data * eps - sin * x_0
    g = -(cos**2) * (sigma_data * 0.3 * x - x_dot) - r * cos * sin * (x + sigma_data * 0.3 * x_dot)
    norm = np.linalg.norm(g, axis=1)
    objective = objectives.continuous_consistency(at(0.6), sigma_data, warmup=warmup, c=0.1)
    players = {"model": lambda x, t, condition: -0.3 * sigma_data * x}  # the output is -F, of x / sigma_data
    batch = {"x": jnp.float32(x_0), "noise": jnp.float32(eps)}
    flow = FLOW._replace(t_max=0.9)
    keys = jax.random.split(jax.random.key(0), 3)
    losses, metrics = objective(players, flow, keys, batch, step)
    np.testing.assert_allclose(metrics["tangent"], norm, rtol=1e-5)
    np.testing.assert_allclose(losses, (norm / (norm + 0.1)) ** 2 / 2, rtol=1e-5)
