"""Paths of symbols that have distances: the law of the path, its velocity and its sampler, by matrices in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, timesteps
from diffusion.discrete.metric_steps import metric_step_law
from tests.discrete.enumerated import Enumerated

LINE = discrete.metric_path(discrete.line_distances(4, power=1.0), scale=2.0, power=0.8)
UNEVEN = discrete.metric_path([[0, 1.0, 3], [2, 0, 0.5], [0.7, 4, 0]], scale=1.5)  # not symmetric
PATHS = {"line": LINE, "uneven": UNEVEN}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def law(path, nearness):
    """q(x_t | x_0), `[K x_0, K x_t]`, by its definition."""
    weights = np.exp(-nearness * path.distances.T)
    return weights / weights.sum(1, keepdims=True)


class EnumeratedPath(Enumerated):
    def likelihood(self, t):
        one = law(self.process, float(self.process.nearness(t)))
        return np.prod([one[self.states[:, None, i], self.states[None, :, i]] for i in range(self.positions)], 0)


@pytest.mark.extended
@every_path
def test_the_path_goes_from_equal_symbols_to_the_data(path):
    symbols = jnp.arange(path.size)
    for t in (1e-3, 0.2, 0.7, 1.0):
        exact = law(path, path.scale * ((1 - np.float64(np.float32(t))) / t) ** path.power)
        np.testing.assert_allclose(path.marginal(symbols, t), exact, atol=1e-6)
        np.testing.assert_allclose(path.likelihood(symbols, t), exact.T, atol=1e-6)
        each = path.likelihood(jnp.stack([symbols, symbols[::-1]]), jnp.array([t, 0.5]))
        np.testing.assert_allclose(each[0], exact.T, atol=1e-6)
    np.testing.assert_array_equal(path.marginal(symbols, 0.0), np.eye(path.size))
    np.testing.assert_array_equal(path.likelihood(symbols, 0.0), np.eye(path.size))
    np.testing.assert_allclose(path.marginal(symbols, 1.0), 1 / path.size, rtol=1e-6)


@every_path
def test_the_velocity_generates_the_path(path):
    """d q / d beta = q u, by differences of the law in float64, and a jump never goes away from the data."""
    for nearness, x0 in itertools.product((0.3, 1.1), range(path.size)):
        t = 1 / (1 + (nearness / path.scale) ** (1 / path.power))
        states = jnp.arange(path.size)
        rates = np.asarray(path.velocity(states, jnp.full(path.size, x0), t), np.float64)
        generator = rates - np.diag(rates.sum(1))
        slope = (law(path, nearness + 1e-5) - law(path, nearness - 1e-5))[x0] / 2e-5
        np.testing.assert_allclose(law(path, nearness)[x0] @ generator, slope, atol=2e-6)
        farther = path.distances[:, x0] >= path.distances[:, [x0]]
        assert (rates[farther] == 0).all() and (rates[x0] == 0).all()


def test_a_step_jumps_by_the_velocity_where_it_begins():
    """By hand: a jump with probability 1 - exp(-Lambda), Lambda = (beta(s) - beta(t)) sum_y u_t(y), to y by u_t(y)."""
    t, s, distances = 0.7, 0.3, UNEVEN.distances
    x, x0 = np.array(list(itertools.product(range(3), repeat=2))).T
    beta = lambda t: 1.5 * (1 - t) / t
    u = law(UNEVEN, beta(t))[x0] * np.maximum(distances[x, x0][:, None] - distances[:, x0].T, 0)
    total = u.sum(1, keepdims=True)
    jumps = -np.expm1(-(beta(s) - beta(t)) * total)
    expected = jumps * u / np.where(total > 0, total, 1) + (1 - jumps) * np.eye(3)[x]
    times = [jnp.full(9, time) for time in (t, s)]
    found = metric_step_law(UNEVEN, jnp.asarray(x), jnp.asarray(x0), *times)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_samples_are_of_first_order():
    """The exact law of a step: the mean over the clean symbols that are drawn, at two positions."""
    data = EnumeratedPath(LINE, positions=2)
    x = jnp.asarray(data.states, jnp.int32)

    @jax.jit
    def step(t, s):
        times = [jnp.full(len(x), time, jnp.float32) for time in (t, s)]
        given = [metric_step_law(LINE, x, jnp.full_like(x, a), *times) for a in range(4)]
        return jnp.einsum("ska,askb->skb", jnp.exp(data.predictor()(x, times[0])), jnp.stack(given))

    def error(number):
        current, times = data.prior(), np.linspace(1.0, 0.2, number + 1)
        for t, s in itertools.pairwise(times):
            current = current @ data.kernel(np.asarray(step(t, s), np.float64))
        return np.abs(current - data.at(0.2)).sum()

    assert 0.8 < np.log2(error(24) / error(48)) < 1.2


def test_a_jump_is_drawn_independently_of_the_prediction():
    """Of two symbols, half of the x_0 are the other one, and half of these jump there: a quarter, within 4 errors."""
    path = discrete.metric_path([[0.0, 1], [1, 0]], scale=2 * np.log(2))
    number = 400
    jump = discrete.metric_flow()
    predict = lambda x, t: jnp.full((number, 1, 2), -np.log(2))
    plan = timesteps.plan(np.array([1.0, 0.5, 0.0]))  # a rate of 1/2 at t = 1, for 2 ln 2 units of beta
    state = jump.init(jnp.zeros((number, 1), jnp.int32), path, plan)
    x = np.asarray(jump.step(state, predict, path, plan, 0, jax.random.split(jax.random.key(0), number))[0])
    assert abs(x.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / number)


@pytest.mark.extended
def test_the_loop_draws_its_steps_and_ends_at_the_prediction():
    data, number = EnumeratedPath(LINE, positions=1), 20_000
    keys = jax.random.split(jax.random.key(0), (2, number))
    start = discrete.prior(LINE, keys[0], (1,))
    assert np.abs(np.bincount(np.asarray(start).ravel()) / number - 0.25).max() < 4 * 0.5 / np.sqrt(number)
    for times in ((1.0, 0.0), (1.0, 0.5, 0.0)):
        run = jax.jit(
            lambda x, keys, times=times: discrete.sample(
                discrete.metric_flow(), data.predictor(), LINE, x, timesteps.plan(np.array(times)), keys
            )
        )
        found = np.bincount(np.asarray(run(start, keys[1])).ravel(), minlength=4) / number
        first = data.prior()
        if len(times) == 3:  # the middle step, by its law
            states, time = jnp.arange(4)[:, None], [jnp.full(4, one) for one in times[:2]]
            given = [np.asarray(metric_step_law(LINE, states, jnp.full((4, 1), a), *time))[:, 0] for a in range(4)]
            predicted = np.exp(data.predictor()(states, time[0]))[:, 0]
            first = first @ np.einsum("sa,asb->sb", predicted, np.stack(given))
        exact = first @ np.exp(data.predictor()(jnp.arange(4)[:, None], jnp.full(4, times[-2])))[:, 0]
        np.testing.assert_allclose(found, exact, atol=4 * 0.5 / np.sqrt(number))


def test_the_flow_matching_loss_of_the_exact_predictor_is_the_entropy_of_x0_given_xt():
    data, number = EnumeratedPath(UNEVEN, positions=1), 20_000
    x0 = jnp.asarray(np.random.default_rng(0).choice(3, (number, 1), p=data.p), jnp.int32)
    t = jnp.full(number, 0.4)
    x_t = discrete.noised(UNEVEN, jax.random.split(jax.random.key(0), number), x0, t)
    losses = np.asarray(discrete.flow_cross_entropy(data.predictor(), x0, x_t, t))
    joint = data.p[:, None] * data.likelihood(0.4)
    exact = -np.sum(joint * np.log(joint / joint.sum(0)))
    assert abs(losses.mean() - exact) < 4 * losses.std() / np.sqrt(number)


def test_a_context_is_read_by_bayes_rule_along_the_path():
    logits = np.log(np.random.default_rng(0).dirichlet(np.ones(3), (2, 3)))
    x, t = jnp.array([[0, 1, 2], [2, 2, 0]]), jnp.array([0.3, 0.8])
    found = np.exp(discrete.from_context(UNEVEN, jnp.asarray(logits), x, t))
    for row in range(2):
        one = law(UNEVEN, float(UNEVEN.nearness(t[row])))
        exact = np.exp(logits[row]) * one[:, np.asarray(x[row])].T
        np.testing.assert_allclose(found[row], exact / exact.sum(-1, keepdims=True), atol=1e-5)


def test_distances_of_vectors_do_not_change_with_their_unit():
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    far = discrete.embedded_distances(vectors, power=3.0)
    np.testing.assert_allclose(discrete.embedded_distances(1e4 * vectors + 7, power=3.0), far, rtol=1e-5)
    np.testing.assert_allclose(discrete.embedded_distances(1e-9 * vectors, power=3.0), far, rtol=1e-5)
    pairs = lambda i, j: np.linalg.norm(vectors[i] - vectors[j]) ** 3
    np.testing.assert_allclose(far[0, 1] / far[2, 4], pairs(0, 1) / pairs(2, 4))
    np.testing.assert_allclose(far.sum() / 20, 1)
    np.testing.assert_array_equal(discrete.line_distances(3)[0], [0, 0.25, 1])


def test_what_is_no_path_is_refused():
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 3), int)
    plan, uniform = timesteps.plan(np.array([1.0, 0.0])), discrete.uniform(discrete.linear(), 4)
    for sampler, path in ((discrete.metric_flow(), uniform), (discrete.ancestral(), LINE), (discrete.flow(), LINE)):
        with pytest.raises(ValueError, match=r"discrete\.metric_flow and a path of discrete\.metric_path go together"):
            discrete.sample(sampler, None, path, x, plan, keys)
    for make in (discrete.score_entropy, discrete.hybrid_bound):
        with pytest.raises(ValueError, match=r"a metric path has no bound. Valid: a process, or discrete_flow_m"):
            make(LINE, None)
    with pytest.raises(ValueError, match="score_entropy_bound: a metric path has no bound"):
        discrete.score_entropy_bound(None, LINE, keys, x, jnp.full(2, 0.5))
    with pytest.raises(ValueError, match=r"metric_path: distances have the shape \(3,\). Valid: \[K, K\]"):
        discrete.metric_path([1, 2, 3])
    with pytest.raises(ValueError, match=r"metric_path: distances have the shape \(2, 3\)"):
        discrete.metric_path(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"metric_path: distances have the shape \(1, 1\).*with K at least 2"):
        discrete.metric_path([[0.0]])
    with pytest.raises(
        ValueError, match=r"beside a diagonal of up to 1\. Valid: finite, above 0, and 0 on the diagonal"
    ):
        discrete.metric_path(np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"metric_path: power = 0\. Valid: a finite number above 0"):
        discrete.metric_path(LINE.distances, power=0)
    with pytest.raises(ValueError, match="line_distances: 1 symbols"):
        discrete.line_distances(1)
    with pytest.raises(ValueError, match="two symbols have the same vector"):
        discrete.embedded_distances(np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"embedded_distances: vectors of shape \(3,\)"):
        discrete.embedded_distances(np.ones(3))


def test_distances_of_vectors_far_from_zero_have_their_digits():
    """Squares of 10^7 leave two digits of a squared difference of 1."""
    near = np.random.default_rng(0).integers(0, 512, (6, 3)) / 64  # exact also beside 10^7
    far = near + 1e7
    exact = np.linalg.norm(near[:, None] - near, axis=-1)
    exact /= exact[~np.eye(6, dtype=bool)].mean()
    np.testing.assert_allclose(discrete.embedded_distances(far, power=1.0), exact, rtol=1e-9)


def test_distances_of_two_symbols_are_made_and_of_fewer_refused():
    np.testing.assert_allclose(discrete.line_distances(2, 0.5), [[0, 1], [1, 0]])
    np.testing.assert_allclose(discrete.embedded_distances([[0.0, 1.0], [3.0, 5.0]], 1.0), [[0, 1], [1, 0]])
    assert discrete.metric_path([[0, 1.0], [2.0, 0]]).size == 2
    for size, power in ((1, 1.0), (2, 0.0), (2, -1.0), (2, float("nan"))):
        with pytest.raises(ValueError, match=rf"line_distances: {size} symbols, power = {power}"):
            discrete.line_distances(size, power)
    for vectors, power in ((np.ones(3), 1.0), (np.ones((1, 3)), 1.0), (np.eye(3), 0.0), (np.eye(3), float("nan"))):
        with pytest.raises(
            ValueError, match=r"embedded_distances: vectors of shape .*Valid: \[K, D\] with K at least 2"
        ):
            discrete.embedded_distances(vectors, power)
    for table in ([[0.0]], [0.0, 1.0], [[0, 1.0, 1.0], [1.0, 0, 1.0]]):
        with pytest.raises(ValueError, match=r"metric_path: distances have the shape .*with K at least 2"):
            discrete.metric_path(table)
    for wrong in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"beside a diagonal of up to 0\. Valid: finite, above 0"):
            discrete.metric_path([[0, wrong], [1.0, 0]])
        for name in ("scale", "power"):
            with pytest.raises(ValueError, match=rf"metric_path: {name} = .*a finite number above 0"):
                discrete.metric_path([[0, 1.0], [1.0, 0]], **{name: wrong})
    with pytest.raises(ValueError, match=r"beside a diagonal of up to 0\.5"):
        discrete.metric_path([[0.5, 1.0], [1.0, 0]])
