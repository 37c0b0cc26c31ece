"""Every objective on padded examples and on pytrees with a schedule each: exact identities between its own losses.

The networks act on each number by itself, and the draws of an example do not depend on its mask, so that losses of
parts are those of the whole.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import couplings, objectives, parameterizations, pytrees, schedules, timesteps
from diffusion.objectives import consistency_times
from diffusion.schedules import left_broadcast
from tests.conformance import slow_but
from tests.objectives.few_step_cases import UNIFORM, V, near
from tests.objectives.objective_cases import OBJECTIVES, SCHEDULES, losses_of, network_of

SHAPE = {"positions": (1, 2), "types": (2,)}
OWN = {"positions": SCHEDULES["cosine"], "types": SCHEDULES["rectified_flow"]}
X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)), jnp.float32)
KEYS = jax.random.split(jax.random.key(2), 4)
OF_WHOLE_NETWORKS = {"alignment", "dispersive"}  # their terms read features, in which no number of x is told apart
every = pytest.mark.parametrize(
    "name",
    slow_but([("ddpm",), ("variational_bound",)], [(name,) for name in OBJECTIVES if name not in OF_WHOLE_NETWORKS]),
)


def _losses(name, schedule, real=None, x=X):
    """With a network that knows the time of each number."""
    case = OBJECTIVES[name]
    density = timesteps.from_quantile(lambda u: 0.1 + 0.8 * u)
    network = network_of(case, lambda x, clock, condition: jnp.tanh(x + left_broadcast(clock, x) * 1e-2))
    batch = case.batch(X) | ({} if real is None else {"real": real})
    return losses_of(case.make(density), network, schedule, KEYS, x, **batch)[0]


@pytest.mark.extended
@every
def test_losses_of_the_parts_of_a_mask_are_that_of_the_whole(name):
    """A mean over what is real: the shares of two complementary masks add up, and padding has no effect at all."""
    schedule = SCHEDULES["cosine"]
    first = jnp.arange(4) < jnp.array([1, 1, 3, 3])[:, None]  # alike in each block of two
    whole = _losses(name, schedule)
    parts = [_losses(name, schedule, real) for real in (first, ~first)]
    shares = [np.asarray(real).mean(axis=1) for real in (first, ~first)]
    together = sum(share * part for share, part in zip(shares, parts))
    np.testing.assert_allclose(together, whole, rtol=1e-4, atol=1e-5)
    assert not np.allclose(parts[0], whole, rtol=1e-2)
    garbage = jnp.where(first, X, 1e6)
    np.testing.assert_array_equal(_losses(name, schedule, first, garbage), parts[0])


@pytest.mark.extended
@every
def test_a_leaf_with_a_schedule_of_its_own_has_the_loss_under_that_schedule(name):
    joint = schedules.per_leaf(OWN, SHAPE)
    for leaf, columns in (("positions", [True, True, False, False]), ("types", [False, False, True, True])):
        real = jnp.broadcast_to(jnp.array(columns), X.shape)
        np.testing.assert_allclose(
            _losses(name, joint, real), _losses(name, OWN[leaf], real), rtol=1e-4, atol=1e-5, err_msg=leaf
        )


@pytest.mark.parametrize("name", sorted(OF_WHOLE_NETWORKS))
def test_a_term_of_features_takes_no_mask(name):
    with pytest.raises(ValueError, match=r'with_term does not support a mask of padding \(the "real" of a batch'):
        _losses(name, SCHEDULES["cosine"], jnp.arange(4) < jnp.array([1, 1, 3, 3])[:, None])


def _flow(network, x, real=None, jit=False):
    objective = objectives.flow_matching(timesteps.from_quantile(lambda u: u))
    batch = {"x": x} | ({} if real is None else {"real": real})
    run = lambda batch: objective({"model": network}, OWN["types"], KEYS, batch, 0)[0]
    return (jax.jit(run) if jit else run)(batch)


def test_a_pytree_of_one_leaf_draws_as_the_array_bit_for_bit_and_of_two_two_arrays():
    """With the same noise the loss of two leaves is that of two arrays, by their sizes.

    The mean of one leaf is that of the array but for its rounding: XLA adds the numbers of [2, 2] in another order than
    those of [4].
    """
    seen = []
    of_array = lambda x, clock, condition: seen.append(x) or jnp.tanh(x)
    of_tree = lambda x, clock, condition: jax.tree.map(jnp.tanh, x)
    cubes = X.reshape(4, 2, 2)
    as_array = _flow(of_array, cubes)
    packed = pytrees.pack({"points": cubes})
    watched = lambda *inputs: seen.append(inputs[0]) or pytrees.vector_network(of_tree, {"points": (2, 2)})(*inputs)
    np.testing.assert_allclose(_flow(watched, packed), as_array, rtol=4 * 2.0**-23)
    np.testing.assert_array_equal(seen[0].reshape(4, 4), seen[1])
    whole = _flow(pytrees.vector_network(of_tree, SHAPE), X)
    halves = [
        _flow(pytrees.vector_network(of_tree, SHAPE), X, jnp.broadcast_to(pytrees.mask(mask, SHAPE), X.shape))
        for mask in (
            {"positions": jnp.ones((4, 1), bool), "types": jnp.zeros((4, 2), bool)},
            {"positions": jnp.zeros((4, 1), bool), "types": jnp.ones((4, 2), bool)},
        )
    ]
    np.testing.assert_allclose(sum(halves) / 2, whole, rtol=1e-5)


def test_masks_that_leave_nothing_are_refused_where_they_are_seen_and_never_divide_by_zero():
    network = lambda x, clock, condition: jnp.tanh(x)
    real = jnp.ones((4, 4), bool).at[2].set(False)
    with pytest.raises(ValueError, match="the mask is empty for example 2"):
        _flow(network, X, real)
    compiled = _flow(network, X, real, jit=True)
    assert compiled[2] == 0 and (np.delete(compiled, 2) > 0).all()
    with pytest.raises(ValueError, match="losses are means over all of"):
        objective = objectives.mean_flow(timesteps.uniform_density(OWN["types"]))
        objective({"model": network}, OWN["types"], KEYS, {"x": X, "real": real.at[2].set(True)}, 0)
    with pytest.raises(ValueError, match="prefix of the shape of its leaf"):
        pytrees.mask(jnp.ones((4, 3), bool), SHAPE)
    with pytest.raises(ValueError, match="give one mask for all leaves, or one for each"):
        pytrees.mask({"positions": jnp.ones((4, 1), bool), "else": jnp.ones((4, 2), bool)}, SHAPE)
    with pytest.raises(ValueError, match=r"the network returns .* both must have the same structure and shapes"):
        _flow(pytrees.vector_network(lambda x, clock, condition: x["types"], SHAPE), X)


def test_couplings_that_compare_examples_are_refused_with_a_mask_and_the_independent_one_changes_nothing():
    real = jnp.arange(4) < jnp.array([1, 2, 3, 4])[:, None]
    density = timesteps.from_quantile(lambda u: u)
    network = lambda x, clock, condition: jnp.tanh(x)
    run = lambda objective, x: objective({"model": network}, OWN["types"], KEYS, {"x": x, "real": real}, 0)[0]
    paired = objectives.flow_matching(density, couplings.optimal_transport(2))
    with pytest.raises(ValueError, match="a coupling compares examples of one size"):
        run(paired, X)
    with pytest.raises(ValueError, match='has the entry "real", a mask of padding, which this objective does'):
        objectives.with_padding(paired, SHAPE)
    alone = objectives.with_padding(objectives.flow_matching(density, couplings.independent()), SHAPE)
    assert alone.examples.real
    independent = objectives.flow_matching(density, couplings.independent())
    np.testing.assert_array_equal(run(independent, X), run(independent, jnp.where(real, X, 1e6)))


def test_the_other_example_of_contrastive_flow_matching_counts_where_both_are_real():
    """At t = 1/2 of straight lines, whose target is eps - x_0, of a network that says 1, also on padding."""
    real = jnp.arange(4) < jnp.array([1, 3, 4, 2])[:, None]
    eps = jnp.asarray(np.random.default_rng(1).standard_normal(X.shape), jnp.float32)
    objective = objectives.contrastive_flow_matching(timesteps.from_quantile(lambda u: 0.5 + 0 * u), 0.3)
    run = lambda x, eps: objective(
        {"model": lambda x, clock, condition: 0 * x + 1}, OWN["types"], KEYS, {"x": x, "noise": eps, "real": real}, 0
    )[1]
    found = run(X, eps)
    square, kept = np.square(1 - (eps - X)), np.asarray(real)
    other = [1, 0, 3, 2]
    np.testing.assert_allclose(found["positive"], (square * kept).sum(1) / kept.sum(1), rtol=1e-5)
    both = square[np.array(other)] * kept * kept[other]
    np.testing.assert_allclose(found["negative"], both.sum(1) / kept.sum(1), rtol=1e-5)
    garbage = run(*(jnp.where(real, a, 1e6) for a in (X, eps)))
    np.testing.assert_array_equal(garbage["negative"], found["negative"])


def test_wrappers_refuse_a_mask_that_they_do_not_heed():
    """By name; those that leave x and its mask to what they wrap have its losses, and say so."""
    flow = objectives.flow_matching(timesteps.from_quantile(lambda u: u))
    real = jnp.arange(4) < jnp.array([1, 2, 3, 4])[:, None]
    batch = {"x": X, "real": real, "condition": jnp.arange(4), "prior": {"x": X, "condition": jnp.arange(4)}}
    networks = {"model": lambda x, clock, condition: jnp.tanh(x), "uncertainty": lambda x, clock, condition: 0 * clock}
    run = lambda objective, batch: objective(networks, OWN["types"], KEYS, batch, 0)
    augment = objectives.Augmentation(lambda key, x: (x[::-1], jnp.zeros(1)), 1)
    for wrapped in (
        objectives.with_augmentation(flow, augment),
        objectives.with_prior_preservation(flow),
        objectives.with_masked_copy(flow),
        objectives.added(flow, objectives.dispersive(1, 2)),
    ):
        assert not wrapped.examples.real
        with pytest.raises(ValueError, match=r'a mask of padding \(the "real" of a batch'):
            run(wrapped, batch)
        with pytest.raises(ValueError, match="this objective does not support"):
            objectives.with_padding(wrapped, SHAPE)
    kept = {name: batch[name] for name in ("x", "real", "condition")}
    for wrapped in (objectives.with_condition_dropout(flow, 9, 0.0), objectives.with_uncertainty(flow)):
        assert wrapped.examples.real and np.isfinite(run(wrapped, kept)[0]).all()


def test_times_of_leaves_are_a_metric_of_each_example():
    """So adaptive densities and the learned uncertainty take them as those of any array."""
    joint = schedules.per_leaf(OWN, SHAPE)
    density = timesteps.from_quantile(lambda u: 0.1 + 0.8 * u)
    network = lambda x, clock, condition: jnp.tanh(x)
    networks = {"model": network, "uncertainty": lambda x, clock, condition: 2.0 + 0 * clock}
    run = lambda objective: objective(networks, joint, KEYS, {"x": X}, 0)
    losses, metrics = run(objectives.flow_matching(density))
    drawn = density.sample(density.init(), jax.vmap(lambda key: jax.random.split(key)[0])(KEYS), jnp.arange(4))[0]
    np.testing.assert_allclose(metrics["t"], drawn, rtol=1e-6)
    weighted, _ = run(objectives.with_uncertainty(objectives.flow_matching(density)))
    np.testing.assert_allclose(weighted, losses / np.exp(2) + 2, rtol=1e-5)


def test_a_condition_says_what_is_real_and_keeps_saying_so_when_it_is_dropped():
    """The loss of `with_padding` is that of the mask, also inside condition dropout, whose null condition keeps it."""
    seen = []
    network = lambda x, clock, condition: seen.append(condition) or jnp.tanh(x)
    flow = objectives.flow_matching(timesteps.from_quantile(lambda u: u))
    shape = {"positions": (2, 1), "types": (2, 1)}
    atoms = jnp.array([[True, False], [True, True], [True, True], [True, False]])
    condition = {"real": atoms, "label": jnp.arange(4)}
    dropped = objectives.with_condition_dropout(flow, {"label": 9}, 0.999)
    run = lambda objective, **batch: objective({"model": network}, OWN["types"], KEYS, {"x": X, **batch}, 0)[0]
    padded = run(objectives.with_padding(flow, shape), condition=condition)
    np.testing.assert_array_equal(padded, run(flow, real=pytrees.mask(atoms, shape), condition=condition))
    run(objectives.with_padding(dropped, shape), condition=condition)
    assert seen[-1]["label"].tolist() == [9] * 4
    np.testing.assert_array_equal(seen[-1]["real"], atoms)
    with pytest.raises(ValueError, match='the entry "real" of the condition'):
        run(objectives.with_padding(flow, shape), condition=None)
    with pytest.raises(TypeError, match=r'entry "real" of a condition must be the mask.* got int32'):
        run(objectives.with_padding(flow, shape), condition={"real": jnp.arange(4)})


MEANS = {  # of few-step objectives whose losses are means over numbers, so that those of leaves add up
    "consistency_training": lambda: objectives.consistency_training(V, UNIFORM, near(0.2)),
    "consistency_distillation": lambda: objectives.consistency_distillation(V, V, UNIFORM, near(0.2)),
    "shortcut": lambda: objectives.shortcut(16, share=0.5),
    "mean_flow": lambda: objectives.mean_flow(UNIFORM, equal=0.5, p=0.0),
    "improved_mean_flow": lambda: objectives.improved_mean_flow(UNIFORM, p=0.0),
    "alpha_flow": lambda: objectives.alpha_flow(UNIFORM, 6, p=0.0),
    "progressive_distillation": lambda: objectives.progressive_distillation(V, V, 4),
    "latent_consistency_distillation": lambda: objectives.latent_consistency_distillation(V, V, null=3),
    "regression": lambda: objectives.regression(V),
    "adversarial_generator": lambda: objectives.adversarial_generator(V, parameterizations.x0(), UNIFORM, UNIFORM),
}


def _few_step(name, schedule, columns):
    """The loss of some numbers of X under a schedule, of a network that acts on each number by itself."""
    x = X[:, columns]
    column = lambda clock: clock if jnp.ndim(clock) == 2 else clock[:, None]
    act = lambda x, clock, condition: jnp.tanh(x + sum(column(one) for one in jax.tree.leaves(clock)) * 1e-2)
    networks = {each: act for each in ("model", "target", "teacher")}
    networks["discriminator"] = lambda x, clock, condition: x.mean(axis=1)
    batch = {"x": x, "noise": jnp.cos(5 * x), "condition": jnp.arange(4)}
    if name == "adversarial_generator":  # draws noise of x's shape for the teacher, whose x0 must not depend on it
        networks["teacher"] = lambda x, clock, condition: 0 * x
    run = jax.jit(lambda batch: MEANS[name]()(networks, schedule, KEYS, batch, 3)[0])
    return run(batch)


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but([("shortcut",), ("progressive_distillation",)], [(name,) for name in MEANS]))
def test_few_step_losses_of_leaves_are_those_of_each_leaf_under_its_own_schedule(name):
    joint = schedules.per_leaf(OWN, SHAPE)
    halves = [_few_step(name, OWN[leaf], part) for leaf, part in (("positions", slice(0, 2)), ("types", slice(2, 4)))]
    scale = 1 if name.endswith("_flow") else 0.5  # a sum of squares, or a mean
    np.testing.assert_allclose(_few_step(name, joint, slice(0, 4)), scale * sum(halves), rtol=2e-4, atol=1e-5)


def test_few_step_objectives_whose_times_are_of_one_schedule_refuse_several():
    joint = schedules.per_leaf(OWN, SHAPE)
    networks = dict.fromkeys(("model", "target", "teacher"), lambda x, clock, condition: x)
    run = lambda objective: objective(networks, joint, KEYS, {"x": X, "condition": jnp.arange(4)}, 3)
    for pairs in (
        consistency_times.discretised(consistency_times.constant_curriculum(4)),
        consistency_times.shrinking(5),
    ):
        with pytest.raises(ValueError, match="chooses times by their log-SNR, but leaves"):
            run(objectives.consistency_training(V, UNIFORM, pairs))
    with pytest.raises(ValueError, match="continuous_consistency differentiates along the angle of one schedule"):
        run(objectives.continuous_consistency(UNIFORM))
