"""Couplings of data with conditions: the noise of a condition is that which samples start from.

Two classes at +-3 are the case by which the error shows: transport between all examples gives each class the noise on
its side, of means -+0.8 and variance 0.4.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from diffusion import couplings, manifolds, objectives, schedules, timesteps
from diffusion.objectives.couplings import condition_weight, conditional_optimal_transport, conditional_transport

SIZE = 2048
LABELS = jnp.asarray(np.random.default_rng(0).integers(0, 2, SIZE))
X = jnp.asarray(np.random.default_rng(1).standard_normal((SIZE, 1)) / 2, jnp.float32) + 6.0 * LABELS[:, None] - 3
EPS = jnp.asarray(np.random.default_rng(2).standard_normal((SIZE, 1)), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), SIZE)


def compiled(coupling):
    """The coupling, whose pairs are one program for all tests that draw them of the same shapes."""
    return dataclasses.replace(coupling, pair=jax.jit(coupling.pair))


SEEN = {
    "optimal_transport": compiled(couplings.optimal_transport(64)),
    "sinkhorn": compiled(couplings.sinkhorn(1.0, 64)),
    "schroedinger_bridge": compiled(couplings.schroedinger_bridge(1.0, 64)),
    "conditional_optimal_transport": compiled(conditional_optimal_transport(0.05, 64)),
}
TRANSPORT = SEEN["optimal_transport"]


def moments(noise, labels=LABELS):
    """The mean and the variance of the noise of each class."""
    of_class = [np.asarray(noise, np.float64)[np.asarray(labels) == label] for label in (0, 1)]
    return [(noise.mean(), noise.var()) for noise in of_class]


@pytest.mark.extended
@pytest.mark.parametrize("name", list(SEEN))
def test_the_noise_of_a_class_has_the_mean_and_the_variance_of_the_prior(name):
    """Within five standard errors of 0 and 1, for about a thousand examples of a class; drawn twice, some are alike."""
    for mean, variance in moments(SEEN[name](KEYS, X, EPS, LABELS)):
        assert abs(mean) < 5 / 1000**0.5 and abs(variance - 1) < 5 * (2 / 1000) ** 0.5, (mean, variance)


def test_pairs_that_ignore_the_classes_skew_their_noise():
    """E[eps | class] = -+E|N(0, 1)| = -+0.798 and Var = 1 - 2 / pi, less what a block has more of one class."""
    (low, v0), (high, v1) = moments(couplings.across_conditions(TRANSPORT)(KEYS, X, EPS, LABELS))
    assert abs(low + 0.798) < 0.1 and abs(high - 0.798) < 0.1 and max(v0, v1) < 0.5, (low, high, v0, v1)


@pytest.mark.parametrize("classes", [2, 5])
def test_optimal_transport_is_the_assignment_of_each_class(classes):
    rng = np.random.default_rng(classes)
    x, eps = rng.standard_normal((2, 32, 3)).astype(np.float32)
    labels = rng.integers(0, classes, 32)
    paired = np.asarray(jax.jit(couplings.optimal_transport(32))(KEYS[:32], x, eps, labels))
    for label in range(classes):
        mine, noise = x[labels == label], eps[labels == label]
        costs = np.square(mine[:, None].astype(np.float64) - noise[None]).sum(-1)
        np.testing.assert_array_equal(paired[labels == label], noise[scipy.optimize.linear_sum_assignment(costs)[1]])


def test_conditions_are_equal_in_all_their_leaves():
    """By the class and every word: examples 0 and 2 alone are alike, and exchange their noises."""
    condition = {"label": jnp.array([1, 1, 1, 0]), "ids": jnp.array([[5, 6], [5, 7], [5, 6], [5, 6]])}
    same = np.eye(4, dtype=bool)
    same[0, 2] = same[2, 0] = True
    np.testing.assert_array_equal(couplings.same_condition(condition), same)
    eps = jnp.array([[2.0], [-1.0], [1.0], [0.0]])
    paired = compiled(couplings.optimal_transport(4))(KEYS[:4], -eps, eps, condition)
    np.testing.assert_array_equal(paired[:, 0], [1, -1, 2, 0])


def test_the_entropic_plan_of_classes_is_that_of_each_class_alone():
    rng = np.random.default_rng(3)
    x, e = jnp.asarray(rng.standard_normal((2, 12, 2)), jnp.float32)
    labels = jnp.arange(12) % 3
    plan_of = jax.jit(lambda x, e, labels: couplings.entropic_plan(x, e, 1.0, 1e-6, condition=labels))
    plan = np.exp(plan_of(x, e, labels))
    np.testing.assert_array_equal(plan[np.asarray(labels)[:, None] != np.asarray(labels)[None]], 0)
    for label in range(3):
        alone = np.exp(plan_of(x[label::3], e[label::3], None))
        np.testing.assert_allclose(plan[label::3, label::3], alone / 3, atol=1e-6)


@pytest.mark.extended
def test_sets_of_points_are_transported_within_their_class():
    rng = np.random.default_rng(4)
    sets = jnp.asarray(rng.standard_normal((4, 3, 2)), jnp.float32)
    labels = jnp.array([0, 1, 0, 1])
    couple = jax.jit(couplings.equivariant_optimal_transport(4, rotation=False))
    # Each set of another class is the noise of this one: across classes all costs would be 0.
    exchanged = sets[jnp.array([1, 0, 3, 2])]
    np.testing.assert_array_equal(couple(KEYS[:4], sets, exchanged), sets)
    paired = np.sort(np.asarray(couple(KEYS[:4], sets, exchanged, labels)), axis=1)
    for k in range(4):
        partners = [np.sort(exchanged[j], axis=0) for j in range(4) if labels[j] == labels[k]]
        assert any(np.array_equal(np.sort(paired[k], axis=0), partner) for partner in partners)


@pytest.mark.extended
@pytest.mark.parametrize(
    "distance, ratio", [(couplings.squared, 0.05), (couplings.squared, 0.4), (couplings.cosine, 0.2)]
)
def test_the_weight_gives_the_ratio_and_the_pairs_are_the_assignment_under_it(distance, ratio):
    """Against numpy and scipy in float64: the share that Cheng and Schwing 2025 define, at the weight and beside it."""
    n = 32
    rng = np.random.default_rng(5)
    x, eps = rng.standard_normal((2, n, 2))
    c = np.concatenate([3 * x[:, :1], rng.standard_normal((n, 2))], 1)
    costs = np.square(x[:, None] - eps[None]).sum(-1)
    unit = c / np.linalg.norm(c, axis=1, keepdims=True)
    apart = np.square(c[:, None] - c[None]).sum(-1) if distance is couplings.squared else 1 - unit @ unit.T
    np.fill_diagonal(apart, 0)
    float32 = lambda a: jnp.asarray(a, jnp.float32)
    np.testing.assert_allclose(distance(float32(c), float32(c)), apart, atol=2e-5)
    weight = float(jax.jit(lambda *arguments: condition_weight(*arguments, ratio))(float32(costs), float32(apart)))
    share = lambda w: (costs + w * apart <= np.diagonal(costs)[:, None]).mean()
    assert share(weight * (1 + 1e-5)) <= ratio + 1 / n**2 and share(weight * (1 - 1e-5)) >= ratio - 1 / n**2
    paired = jax.jit(conditional_optimal_transport(ratio, n, distance))(KEYS[:n], *map(float32, (x, eps, c)))
    columns = scipy.optimize.linear_sum_assignment(costs + weight * apart)[1]
    np.testing.assert_array_equal(paired, float32(eps[columns]))


def test_the_weight_of_a_pair_of_examples():
    """By hand: M_00 - M_01 = 3 and C = 2, M_11 - M_10 = -1: at w <= 1.5 three of four cost no more, else two."""
    costs, apart = jnp.array([[5.0, 2.0], [3.0, 2.0]]), jnp.array([[0.0, 2.0], [2.0, 0.0]])
    assert condition_weight(costs, apart, 0.75) == jax.jit(condition_weight)(costs, apart, 0.75) == 1.5
    least = condition_weight(costs, apart, 0.01)  # of one pair at least
    assert least == jax.jit(condition_weight)(costs, apart, 0.01) == jnp.inf
    assert condition_weight(costs, apart, 1.0) == 0  # not even without the condition's cost
    assert callable(conditional_optimal_transport(1.0, 2))
    assert condition_weight(costs, apart, 0.5) == jnp.inf  # the pairs that were drawn alone
    eps = jnp.array([[1.0], [2.0]])
    unlike = jax.jit(conditional_optimal_transport(0.51, 2))(KEYS[:2], eps[::-1], eps, jnp.array([[0.0], [1e9]]))
    np.testing.assert_array_equal(unlike, eps)
    np.testing.assert_array_equal(conditional_transport._weighted(jnp.inf, apart), [[0, jnp.inf], [jnp.inf, 0]])


@pytest.mark.extended
def test_a_smaller_ratio_skews_the_noise_less():
    """The condition is x itself: the correlation of the noise with it falls from that of plain transport to 0."""
    x = X[:, :1] - X.mean()
    pairs = lambda coupling: np.asarray(coupling(KEYS, x, EPS, x))[:, 0]
    correlation = lambda coupling: np.corrcoef(pairs(coupling), x[:, 0])[0, 1]
    plain = correlation(couplings.across_conditions(TRANSPORT))
    skews = [plain, *(correlation(compiled(conditional_optimal_transport(ratio))) for ratio in (0.3, 0.1))]
    assert np.all(np.diff(skews) < -0.2) and skews[0] > 0.8 and abs(skews[-1]) < 0.1, skews


def test_classes_are_never_exchanged_beside_a_continuous_condition():
    condition = {"label": LABELS[:64], "vector": X[:64]}
    paired = jax.jit(conditional_optimal_transport(0.5))(KEYS[:64], X[:64], EPS[:64], condition)
    for label in (0, 1):
        mine = np.asarray(LABELS[:64]) == label
        np.testing.assert_array_equal(np.sort(paired[mine], axis=0), np.sort(EPS[:64][mine], axis=0))
    assert not np.array_equal(paired, EPS[:64])


@pytest.mark.extended
@pytest.mark.parametrize("name", list(SEEN))
def test_without_a_condition_pairs_are_those_across_conditions(name):
    across = couplings.across_conditions(SEEN[name])
    rows = slice(0, 128)
    alone = SEEN[name](KEYS[rows], X[rows], EPS[rows])
    np.testing.assert_array_equal(alone, across(KEYS[rows], X[rows], EPS[rows], LABELS[rows]))
    assert across.block == SEEN[name].block and across.condition == "ignored" and not across.independent


def test_cosine_of_equal_conditions_is_exactly_zero_and_of_zeros_one():
    c = jnp.asarray(np.random.default_rng(6).standard_normal((50, 7)), jnp.float32)
    distance = np.array(couplings.cosine(c, c))
    np.testing.assert_array_equal(np.diagonal(distance), 0)
    assert distance.min() >= 0
    np.testing.assert_array_equal(couplings.cosine(jnp.zeros((1, 7)), c), np.ones((1, 50)))


# ==== Objectives ====

LINE = schedules.rectified_flow()
NETWORKS = {"model": lambda x, clock, condition: jnp.zeros_like(x)}
DENSITY = timesteps.from_quantile(lambda u: 1 + 0 * u)  # at t = 1 x_t is the noise


def noise_seen_by(objective, batch):
    """The noise that the network "model" receives at t = 1, and its condition."""
    return all_seen_by(objective, batch)[0]


def all_seen_by(objective, batch):
    """What the network "model" receives in each of its evaluations: (x, condition)."""

    seen = []
    networks = {"model": lambda x, clock, condition: seen.append((x, condition)) or jnp.zeros_like(x)}
    objective(networks, LINE, KEYS, batch, 0)
    return seen


@pytest.mark.extended
@pytest.mark.parametrize("name", list(SEEN))
def test_flow_matching_passes_the_condition_to_its_coupling(name):
    noise, _ = noise_seen_by(objectives.flow_matching(DENSITY, SEEN[name]), {"x": X, "condition": LABELS})
    assert max(abs(mean) for mean, _ in moments(noise)) < 0.16


WRAPPERS = {
    "dropout": (lambda objective: objectives.with_condition_dropout(objective, 2, 0.5), lambda c: c),
    "augmentation": (
        lambda objective: objectives.with_augmentation(objective, objectives.Augmentation(lambda k, x: (x, x), 1)),
        lambda c: c["label"],
    ),
    "both": (
        lambda objective: objectives.with_condition_dropout(
            objectives.with_augmentation(objective, objectives.Augmentation(lambda k, x: (x, x), 1)), 2, 0.5
        ),
        lambda c: c["label"],
    ),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", list(WRAPPERS))
def test_couplings_see_the_condition_before_any_of_it_is_dropped_or_added(name):
    """Else the dropped examples of both classes would exchange noises, or all noises stay as they were drawn."""
    wrap, label_of = WRAPPERS[name]
    noise, condition = noise_seen_by(wrap(objectives.flow_matching(DENSITY, TRANSPORT)), {"x": X, "condition": LABELS})
    label = np.asarray(label_of(condition))
    assert np.mean(label == 2) == pytest.approx(0.5 if name != "augmentation" else 0, abs=0.05)
    # Within a class noise and data are sorted alike: the correlation of transport, which no exchange across has.
    for own in (0, 1):
        for rows in ((LABELS == own) & (label == own), (LABELS == own) & (label == 2)):
            rows = np.asarray(rows)
            if rows.any():
                assert np.corrcoef(noise[rows, 0], X[rows, 0])[0, 1] > 0.9
                assert abs(noise[rows].mean()) < 0.25


def test_the_prior_that_is_preserved_is_paired_by_its_own_condition():
    """Wrapped from outside by dropout, whose batch has the condition of the examples of its own."""
    objective = objectives.with_prior_preservation(objectives.flow_matching(DENSITY, TRANSPORT))
    objective = objectives.with_condition_dropout(objective, 2, 0.1)
    prior = {"x": X[::-1], "condition": LABELS[::-1]}
    _, (noise, _) = all_seen_by(objective, {"x": X, "condition": LABELS, "prior": prior})
    for mean, _ in moments(noise, LABELS[::-1]):
        assert abs(mean) < 0.16


@pytest.mark.extended
def test_the_default_of_the_schroedinger_bridge_keeps_the_noise_of_a_class():
    objective = objectives.schroedinger_bridge(0.5, timesteps.from_quantile(lambda u: 0.999 + 0 * u))

    @jax.jit
    def seen(keys, x, labels):
        seen = []
        networks = {"model": lambda x, clock, condition: seen.append(x) or jnp.zeros((len(x), 2))}
        objective(networks, LINE, keys, {"x": x, "condition": labels}, 0)
        return seen[0]

    assert max(abs(mean) for mean, _ in moments(seen(KEYS, X, LABELS))) < 0.16


def test_a_coupling_that_does_not_see_the_condition_is_refused_with_one():
    mine = couplings.Coupling(lambda keys, x0, eps: eps[::-1])
    objective = objectives.flow_matching(DENSITY, mine)
    objective(NETWORKS, LINE, KEYS, {"x": X}, 0)
    with pytest.raises(ValueError, match=r"does not see the condition.*across_conditions\(coupling\)"):
        objective(NETWORKS, LINE, KEYS, {"x": X, "condition": LABELS}, 0)
    asked = objectives.flow_matching(DENSITY, couplings.across_conditions(mine))
    np.testing.assert_array_equal(
        noise_seen_by(asked, {"x": X, "condition": LABELS})[0], noise_seen_by(asked, {"x": X})[0]
    )


@pytest.mark.parametrize("name", ["optimal_transport", "sinkhorn", "schroedinger_bridge"])
def test_transport_between_equal_conditions_is_refused_for_continuous_ones(name):
    with pytest.raises(ValueError, match=r"floating-point.*conditional_optimal_transport\(ratio\).*across_conditions"):
        SEEN[name](KEYS, X, EPS, X)


@pytest.mark.parametrize("ratio", [0.0, 1 / 64, 1.01, float("nan")])
def test_a_ratio_that_no_weight_has_is_refused(ratio):
    with pytest.raises(ValueError, match=rf"ratio = {ratio} must be above 1 / block = 0.0156"):
        conditional_optimal_transport(ratio)


def test_a_coupling_of_an_unknown_fact_is_refused():
    with pytest.raises(ValueError, match=r"condition = 'sees'\. Valid"):
        couplings.Coupling(lambda keys, x0, eps: eps, condition="sees")


def test_flow_matching_on_a_manifold_passes_the_condition_to_its_coupling():
    manifold = manifolds.euclidean(1)
    prior = manifolds.wrapped_normal(manifold, jnp.zeros(1), 1.0)
    objective = manifolds.riemannian_flow_matching(manifold, DENSITY, prior, TRANSPORT)
    noise, _ = noise_seen_by(objective, {"x": X, "noise": EPS, "condition": LABELS})
    assert max(abs(mean) for mean, _ in moments(noise)) < 0.16


def test_conditions_that_share_a_number_are_apart_by_their_cosine():
    """Of (3, 4) and (3, 0) it is 3 / 5; equal ones are at 0 exactly."""
    a = jnp.array([[3.0, 4.0], [3.0, 0.0]])
    np.testing.assert_allclose(conditional_transport.cosine(a, a), [[0, 0.4], [0.4, 0]], rtol=1e-6)
