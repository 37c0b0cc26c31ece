"""Objectives of symbols as a train step calls them: nats a symbol, and what the exact network reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, models, objectives, parameterizations, samplers, schedules, timesteps, weightings
from tests.discrete.enumerated import PROCESSES, Enumerated

LINE = schedules.rectified_flow()
NUMBER = 8192
DENSITY = timesteps.uniform_density(LINE, NUMBER)
KEYS = jax.random.split(jax.random.key(0), 6)


def losses_of(objective, data, network=None):
    """The losses of as many examples as NUMBER, in the proportions of the data."""
    rows = np.repeat(np.arange(len(data.p)), np.round(data.p * NUMBER).astype(int))
    rows = np.resize(np.random.default_rng(0).permutation(rows), NUMBER)
    batch = {"x": jnp.asarray(data.states[rows], jnp.int32)}
    predict = data.predictor()
    network = network or (lambda x, t, condition: predict(x, t))
    keys = jax.random.split(jax.random.key(0), NUMBER)
    losses, metrics = jax.jit(lambda keys: objective({"model": network}, LINE, keys, batch, 0))(keys)
    assert losses.shape == metrics["t"].shape == (NUMBER,)
    losses = np.asarray(losses, np.float64)
    return losses.mean(), losses.std() / np.sqrt(NUMBER)


BOUNDS = {
    "masks": (discrete.masked_diffusion, "absorbing"),
    "score entropy of masks": (discrete.score_entropy, "absorbing"),
    "score entropy of uniform": (discrete.score_entropy, "uniform"),
}


@pytest.mark.extended
@pytest.mark.parametrize("name", BOUNDS)
def test_the_exact_network_reaches_the_entropy_of_a_symbol(name):
    make, process = BOUNDS[name]
    data = Enumerated(PROCESSES[process], positions=2)
    objective = make(data.process, DENSITY)
    found, error = losses_of(objective, data)
    assert error < 0.1 and abs(found - data.entropy / 2) < 4 * error, (found, error, data.entropy / 2)
    if data.process.mask is not None:  # the losses of a blind network at other processes have a heavy tail
        blind, error = losses_of(objective, data, lambda x, t, condition: jnp.zeros((*x.shape, data.process.size)))
        assert blind > data.entropy / 2 + 4 * error


MASKS, UNIFORM = PROCESSES["absorbing"], PROCESSES["uniform"]
READ = {  # objectives whose network is read in training as in sampling
    "masked_diffusion": lambda reading: discrete.masked_diffusion(MASKS, DENSITY, reading),
    "score_entropy": lambda reading: discrete.score_entropy(UNIFORM, DENSITY, reading),
    "hybrid_bound": lambda reading: discrete.hybrid_bound(UNIFORM, DENSITY, 4, 0.5, reading),
    "discrete_flow_matching": lambda reading: discrete.discrete_flow_matching(UNIFORM, DENSITY, reading),
    "trained_masks": lambda reading: discrete.trained_masks(4, DENSITY, reading=reading),
    "duo": lambda reading: discrete.duo(UNIFORM, DENSITY, 0, reading=reading),
}


@pytest.mark.parametrize("name", READ)
def test_a_network_of_symbols_has_its_reading_and_its_condition(name):
    read, conditions = [], []

    def reading(process, output, x_t, t):
        read.append(output)
        return discrete.from_logits(process, output, x_t, t)

    def network(x, t, condition):
        conditions.append(condition)
        return jnp.zeros((*x.shape[:2], objective.reads.process.size))

    objective = READ[name](reading)
    labels = jnp.arange(5)
    batch = {"x": jnp.arange(10).reshape(5, 2) % 3, "condition": labels, "index": labels}
    networks = {"model": network, "powers": lambda: jnp.ones(objective.reads.process.size - 1)}
    jax.eval_shape(lambda: objective(networks, LINE, jax.random.split(jax.random.key(0), 5), batch, 3)[0])
    assert read and conditions and all(condition is labels for condition in conditions)
    assert objective.reads.reading is reading


@pytest.mark.parametrize(
    "make",
    [
        lambda reading: discrete.ratio_matching(UNIFORM, DENSITY, reading),
        lambda reading: discrete.discrete_consistency(UNIFORM, DENSITY, 16, 10, 5, reading),
        lambda reading: discrete.block_diffusion(MASKS, DENSITY, 2, reading),
    ],
)
def test_a_network_of_symbols_is_sampled_by_its_reading(make):
    assert make(discrete.from_logits).reads.reading is discrete.from_logits
    assert make(discrete.from_context).reads.reading is discrete.from_context


def test_the_cross_entropy_of_the_hybrid_bound_has_the_time_of_its_step():
    """Of a network with the logits t and -t, whatever the symbols, and a share beside which the bound is nothing."""
    process, batch = discrete.uniform(discrete.linear(), 2), {"x": jnp.zeros((6, 3), int)}
    network = lambda x, t, condition: t[:, None, None] * jnp.array([1.0, -1]) * jnp.ones((*x.shape, 2))
    objective = discrete.hybrid_bound(process, timesteps.uniform_density(LINE, 6), 4, cross_entropy=1e7)
    losses, metrics = objective({"model": network}, LINE, KEYS, batch, 0)
    end = (np.floor(4 * np.asarray(metrics["t"], np.float64)) + 1) / 4
    np.testing.assert_allclose(np.asarray(losses) / 1e7, np.log1p(np.exp(-2 * end)), rtol=1e-4)


@pytest.mark.extended
@pytest.mark.parametrize("process", ["absorbing", "uniform"])
def test_the_hybrid_bound_adds_a_share_of_the_cross_entropy(process):
    """Both parts by enumeration, in float64: the KL of each step, and the cross-entropy at its time."""
    data = Enumerated(PROCESSES[process], positions=1)
    steps, share = 4, 0.5
    keeping, size = data.process.keeping, data.process.size
    bound = ce = 0.0
    for i in range(steps):
        t, s = (i + 1) / steps, i / steps
        marginal = data.likelihood(t)  # [x_0, x_t]
        before = data.likelihood(s)
        ratio = float(keeping.alpha(t)) / float(keeping.alpha(s))
        step = ratio * np.eye(size) + (1 - ratio) * np.tile(data.process.prior, (size, 1))
        joint = data.p[:, None] * marginal
        with np.errstate(divide="ignore", invalid="ignore"):
            given = np.where(joint.sum(0) > 0, joint / joint.sum(0), 0)  # p(x_0 | x_t)
            posterior = before[:, :, None] * step[None] / marginal[:, None]  # [x_0, x_s, x_t]
            posterior = np.where(marginal[:, None] > 0, posterior, 0)
            model = np.einsum("at,ast->st", given, posterior)
            terms = posterior * np.log(posterior / model[None])
        bound += np.einsum("at,ast->", joint, np.where((posterior > 0) & (joint[:, None] > 0), terms, 0))
        ce -= np.sum(joint * np.where(joint > 0, np.log(np.where(given > 0, given, 1)), 0)) / steps
    found, error = losses_of(discrete.hybrid_bound(data.process, DENSITY, steps, share), data)
    assert error < 0.03 and abs(found - (bound + share * ce)) < 4 * error, (found, error, bound, ce)
    plain, error = losses_of(discrete.hybrid_bound(data.process, DENSITY, steps, 0.0), data)
    assert abs(plain - bound) < 4 * error and abs(plain - data.entropy) < 4 * error + 1e-3


@pytest.mark.extended
@pytest.mark.parametrize("process", ["absorbing", "uniform"])
def test_the_cross_entropy_of_flows_is_that_of_the_exact_posterior(process):
    data = Enumerated(PROCESSES[process], positions=2)
    grid = (np.arange(200) + 0.5) / 200
    expected = 0.0
    for t in grid:
        table = data.table(t)  # [x_t, L, K]
        joint = data.p[:, None] * data.likelihood(t)
        clean = np.take_along_axis(table[None], data.states[:, None, :, None], -1)[..., 0]  # [x_0, x_t, L]
        logs = np.log(np.where(joint[..., None] > 0, clean, 1)).mean(-1)
        expected -= np.sum(joint * logs) / len(grid)
    found, error = losses_of(discrete.discrete_flow_matching(data.process, DENSITY), data)
    assert error < 0.02 and abs(found - expected) < 4 * error, (found, error, expected)


def test_samplers_of_numbers_and_of_symbols_are_told_apart():
    process = PROCESSES["absorbing"]
    of_symbols = discrete.masked_diffusion(process, DENSITY)
    of_symbols.check_sampler(discrete.ancestral())
    with pytest.raises(
        ValueError, match=r"trains a predictor of symbols,.*\. Valid: a sampler of symbols, e\.g\. ancestral"
    ):
        of_symbols.check_sampler(samplers.heun())
    with pytest.raises(ValueError, match=r"the sampler takes.*of symbols,.*this objective does"):
        objectives.denoising(parameterizations.epsilon(), weightings.snr(), DENSITY).check_sampler(discrete.ancestral())


def test_what_an_objective_of_symbols_does_not_take_is_refused():
    process = PROCESSES["uniform"]
    with pytest.raises(ValueError, match="masked_diffusion: the process has no mask"):
        discrete.masked_diffusion(process, DENSITY)
    discrete.hybrid_bound(process, DENSITY, 1, 0.0)
    for steps, share in ((0, 0.1), (4, -0.1), (4, float("nan"))):
        with pytest.raises(ValueError, match=r"hybrid_bound:.*at least 1 step.*at least 0"):
            discrete.hybrid_bound(process, DENSITY, steps, share)
    objective = discrete.score_entropy(process, DENSITY)
    network = {"model": lambda x, t, condition: jnp.zeros((*x.shape, process.size))}
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=r'batch\["x"\] has symbols 0 .. 3. Valid: 0 .. 2'):
        objective(network, LINE, keys, {"x": jnp.array([[0, 1], [2, 3]])}, 0)
    with pytest.raises(TypeError, match="whole numbers"):
        objective(network, LINE, keys, {"x": jnp.zeros((2, 2))}, 0)
    with pytest.raises(ValueError, match=r"t_max = 0\.9\. Valid: rectified_flow"):
        objective(network, LINE._replace(t_max=0.9), keys, {"x": jnp.zeros((2, 2), jnp.int32)}, 0)


@pytest.mark.extended
@pytest.mark.parametrize("tied", [False, True])
def test_a_loss_in_chunks_is_the_loss_of_all_positions_at_once(tied):
    """Also its gradients, of a network whose biases are not zero."""
    process, density = PROCESSES["absorbing"], timesteps.uniform_density(LINE)
    x, keys = jnp.array([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]]), jax.random.split(jax.random.key(0), 2)
    network = models.SymbolTransformer(process.size, 4, 1, 1, clock="none", tied=tied)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)

    def loss(variables, chunk):
        objective = discrete.masked_diffusion(process, density, chunk=chunk)
        apply = lambda *inputs, **more: network.apply(variables, *inputs, **more)
        return objective({"model": apply}, LINE, keys, {"x": x}, 0)[0].sum()

    whole, chunked = jax.jit(lambda v: [jax.value_and_grad(loss)(v, chunk) for chunk in (0, 3)])(variables)
    assert whole[0] > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4), whole, chunked)


@pytest.mark.extended
def test_dropped_conditions_reach_the_network_of_symbols():
    """A wrapper of objectives takes symbols as it takes numbers."""
    process = PROCESSES["absorbing"]
    seen = []

    def network(x, t, condition):
        seen.append(condition)
        return jnp.zeros((*x.shape, process.size))

    density = timesteps.uniform_density(LINE)
    objective = objectives.with_condition_dropout(discrete.masked_diffusion(process, density), np.int32(7), 0.5)
    keys = jax.random.split(jax.random.key(0), 64)
    batch = {"x": jnp.zeros((64, 3), jnp.int32), "condition": jnp.ones(64, jnp.int32)}
    objective({"model": network}, LINE, keys, batch, 0)
    assert set(seen[0].tolist()) == {1, 7}


UNIFORM, MASKS = discrete.uniform(discrete.linear(), 4), discrete.absorbing(discrete.linear(), 4)
TIMES = timesteps.uniform_density(LINE)
CONDITIONED = {
    "masked_diffusion": lambda: discrete.masked_diffusion(MASKS, TIMES),
    "score_entropy": lambda: discrete.score_entropy(UNIFORM, TIMES),
    "hybrid_bound": lambda: discrete.hybrid_bound(UNIFORM, TIMES, 5),
    "discrete_flow_matching": lambda: discrete.discrete_flow_matching(UNIFORM, TIMES),
    "ratio_matching": lambda: discrete.ratio_matching(UNIFORM, TIMES),
    "trained_masks": lambda: discrete.trained_masks(4, TIMES),
    "duo": lambda: discrete.duo(UNIFORM, TIMES, 5),
    "discrete_consistency": lambda: discrete.discrete_consistency(UNIFORM, TIMES, 4, 2, 2),
}


@pytest.mark.parametrize("name", CONDITIONED)
def test_every_network_of_symbols_receives_the_condition(name):
    seen = []

    def network(x, t, condition):
        seen.append(condition)
        return jnp.zeros((*x.shape[:2], 4))

    players = {"model": network, "teacher": network, "powers": lambda: jnp.ones(3)}
    labels = np.arange(6)
    batch = {"x": jnp.zeros((6, 3), jnp.int32), "condition": labels}
    jax.eval_shape(lambda: CONDITIONED[name]()(players, LINE, jax.random.split(jax.random.key(0), 6), batch, 0)[0])
    assert seen
    for condition in seen:
        np.testing.assert_array_equal(condition, labels)


def test_where_all_is_masked_the_losses_are_the_nats_of_the_data():
    """All is masked, and the network gives every symbol of the data the chance 1/4: log 4 nats a symbol.

    So are the bound of one step and each cross-entropy; the hybrid bound adds its share of the latter. In chunks of
    positions the states are logits here, and the last layer is the identity.
    """
    process, x, keys = discrete.absorbing(discrete.linear(), 3), jnp.array([[0, 1, 0]]), KEYS[:1]
    logits = jnp.log(jnp.array([[0.25, 0.75, 1.0], [0.75, 0.25, 1.0]]))
    table = logits[x]
    end = DENSITY._replace(sample=lambda state, keys, index: (jnp.ones(1), jnp.ones(1)))
    network = lambda x_t, t, condition: table
    loss = lambda objective, network=network: float(objective({"model": network}, LINE, keys, {"x": x}, 0)[0][0])
    assert loss(discrete.hybrid_bound(process, end, 1, 0.0)) == pytest.approx(np.log(4), rel=1e-5)
    assert loss(discrete.hybrid_bound(process, end, 1, 0.5)) == pytest.approx(1.5 * np.log(4), rel=1e-5)
    assert loss(discrete.discrete_flow_matching(process, end)) == pytest.approx(np.log(4), rel=1e-5)
    assert loss(discrete.masked_diffusion(process, end)) == pytest.approx(np.log(4), rel=1e-5)

    def states(x_t, t, condition, states):
        assert states and condition is None
        return table, jnp.eye(3), None

    assert loss(discrete.masked_diffusion(process, end, chunk=2), states) == pytest.approx(np.log(4), rel=1e-5)


def test_the_hybrid_bound_is_at_the_step_of_its_time():
    """u in [i, i + 1) / T is the step from (i + 1) / T; the network receives that time, for both parts."""
    process, times = discrete.uniform(discrete.linear(), 3), []
    network = lambda x_t, t, condition: times.append(np.asarray(t)) or jnp.zeros((*x_t.shape, 3))
    u = jnp.array([0.0, 0.2499, 0.25, 0.7501, 0.9999, 1.0])
    at = DENSITY._replace(sample=lambda state, keys, index: (u, jnp.ones(6)))
    discrete.hybrid_bound(process, at, 4, 0.5)({"model": network}, LINE, KEYS, {"x": jnp.zeros((6, 2), int)}, 0)
    assert len(times) == 2
    for t in times:
        np.testing.assert_allclose(t, [0.25, 0.25, 0.5, 1.0, 1.0, 1.0])
