"""Bounds on -log p of data that can be enumerated: with the exact predictor their mean is the entropy of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete
from tests.discrete.enumerated import PROCESSES, Enumerated

NUMBER = 40_000


def batch(data, seed=0):
    """Keys, data and times, stratified so that the times alone add no variance."""
    keys = jax.random.split(jax.random.key(seed), NUMBER)
    rows = np.random.default_rng(seed).permutation(
        np.repeat(np.arange(len(data.p)), np.round(data.p * NUMBER).astype(int))
    )
    rows = np.resize(rows, NUMBER)
    t = (np.random.default_rng(seed + 1).permutation(NUMBER) + 0.5) / NUMBER
    return keys, jnp.asarray(data.states[rows], jnp.int32), jnp.asarray(t, jnp.float32)


def mean(losses):
    losses = np.asarray(losses, np.float64)
    return losses.mean(), losses.std() / np.sqrt(len(losses))


@pytest.mark.extended
@pytest.mark.parametrize("name, bound", [
    ("absorbing", discrete.masked_bound), ("absorbing", discrete.score_entropy_bound),
    ("uniform", discrete.score_entropy_bound), ("mixture", discrete.score_entropy_bound),
])  # fmt: skip
def test_the_exact_predictor_reaches_the_entropy_and_another_does_not(name, bound):
    data = Enumerated(PROCESSES[name], positions=2)
    arguments = batch(data)
    found, error = mean(jax.jit(lambda *arguments: bound(data.predictor(), data.process, *arguments))(*arguments))
    assert error < 0.08 and abs(found - data.entropy) < 4 * error, (found, error, data.entropy)
    blind = lambda x, t: discrete.from_logits(data.process, jnp.zeros((*x.shape, data.process.size)), x, t)
    other, error = mean(jax.jit(lambda *arguments: bound(blind, data.process, *arguments))(*arguments))
    assert other > data.entropy + 4 * error


@pytest.mark.extended
def test_the_score_entropy_of_masks_is_the_weighted_cross_entropy():
    """By each example, and so its gradient too."""
    data = Enumerated(PROCESSES["absorbing"])
    keys, x0, t = (part[:500] for part in batch(data))
    t = jnp.clip(t, 0.05, 0.95)

    def losses(bound, logits, keys, x0, t):
        predict = lambda x, t: discrete.from_logits(data.process, jnp.broadcast_to(logits, (*x.shape, 4)), x, t)
        return bound(predict, data.process, keys, x0, t)

    logits = jnp.array([0.3, -0.4, 0.1, 7.0])

    def with_gradient(bound):
        mean = lambda *arguments: (losses(bound, *arguments).mean(), losses(bound, *arguments))
        slope, found = jax.jit(jax.grad(mean, has_aux=True))(logits, keys, x0, t)
        return found, slope

    (masked, slope), (general, general_slope) = map(
        with_gradient, (discrete.masked_bound, discrete.score_entropy_bound)
    )
    np.testing.assert_allclose(masked, general, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(slope, general_slope, rtol=1e-3, atol=1e-5)
    assert abs(slope).max() > 0.01


def discrete_time_losses(data, keys, x0, t, steps):
    i = np.floor(np.asarray(t) * steps).astype(np.int32)
    losses = lambda *arguments: discrete.discrete_time_bound(data.predictor(), data.process, *arguments, steps)
    return jax.jit(losses)(keys, x0, i)


@pytest.mark.extended
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("steps", [1, 5])
def test_the_bound_of_discrete_time_is_the_entropy_for_one_position(name, steps):
    data = Enumerated(PROCESSES[name], positions=1)
    found, error = mean(discrete_time_losses(data, *batch(data), steps))
    assert error < 0.02 and abs(found - data.entropy) < 4 * error + 1e-3, (found, error, data.entropy)


@pytest.mark.extended
def test_the_bound_of_discrete_time_falls_to_the_entropy_with_the_steps():
    """Of three positions, which a step draws by themselves: each coarse step costs nats."""
    data = Enumerated(PROCESSES["absorbing"])
    arguments = batch(data)
    found = [mean(discrete_time_losses(data, *arguments, steps))[0] for steps in (1, 4, 64)]
    assert found[0] > found[1] > found[2] > data.entropy - 0.05 and found[2] < data.entropy + 0.1


def test_what_is_no_bound_is_refused():
    data = Enumerated(PROCESSES["uniform"], positions=1)
    keys, x0, t = (part[:4] for part in batch(data))
    with pytest.raises(ValueError, match="masked_bound: the process has no mask"):
        discrete.masked_bound(data.predictor(), data.process, keys, x0, t)
    with pytest.raises(ValueError, match=r"x0 has symbols .* Valid: 0 \.\. 2"):
        discrete.score_entropy_bound(data.predictor(), data.process, keys, x0 + 3, t)
    with pytest.raises(ValueError, match=r"steps = 0\. Valid: at least 1"):
        discrete.discrete_time_bound(data.predictor(), data.process, keys, x0, jnp.zeros(4, int), 0)
    with pytest.raises(ValueError, match="noise needs one key for each example"):
        discrete.noised(data.process, keys[:2], x0, t)


@pytest.mark.extended
@pytest.mark.parametrize(
    "bound",
    [
        discrete.masked_bound,
        discrete.score_entropy_bound,
        lambda *arguments: discrete.discrete_time_bound(*arguments[:4], jnp.array([0, 1]), 2),
        lambda *arguments: discrete.block_bound(*arguments, 3),
        lambda predict, process, keys, x0, t: discrete.flow_cross_entropy(predict, x0, x0, t),
    ],
)
def test_a_predictor_that_returns_logits_is_refused(bound):
    process, keys = PROCESSES["absorbing"], jax.random.split(jax.random.key(0), 2)
    logits = lambda x, t: jnp.zeros((*x.shape, 4))
    with pytest.raises(ValueError, match=r"probabilities of a position sum to 4\. Valid: .*discrete\.from_logits"):
        bound(logits, process, keys, jnp.zeros((2, 3), int), jnp.array([0.3, 0.6]))


def test_a_predictor_that_returns_logits_is_refused_for_token_masks():
    process = discrete.token_masks(np.array([1.0, 2.0, 1.0]))
    logits = lambda x, t: jnp.zeros((*x.shape, process.size))
    with pytest.raises(ValueError, match=r"probabilities of a position sum to 4\."):
        discrete.token_masked_bound(
            logits, process, jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 3), int), jnp.array([0.3])
        )


@pytest.mark.parametrize("i", [0, 2])
def test_the_bound_of_discrete_time_is_the_divergence_of_the_steps(i):
    """Of three symbols that are replaced by any: T KL(q(x_s | x_t, x_0) || q(x_s | x_t)), each by Bayes' rule."""
    process, steps, p = discrete.uniform(discrete.linear(), 3), 4, np.array([0.6, 0.3, 0.1])
    x0, seen = jnp.array([[0, 1], [2, 2], [1, 0]]), []
    predict = lambda x, t: seen.append(np.asarray(x)) or jnp.log(jnp.broadcast_to(jnp.asarray(p), (*x.shape, 3)))
    keys = jax.random.split(jax.random.key(3), 3)
    found = discrete.discrete_time_bound(predict, process, keys, x0, jnp.full(3, i), steps)
    kept = lambda t: 1 - t  # the linear alpha
    jump = lambda share: share * np.eye(3) + (1 - share) / 3  # [from, to]
    t, s = (i + 1) / steps, i / steps
    step = jump(kept(t) / kept(s))
    q = jump(kept(s))[:, :, None] * step[None] / jump(kept(t))[:, None]  # [x_0, x_s, x_t]
    model = np.einsum("a,ast->st", p, q)
    terms = np.where(q > 0, q * np.log(np.where(q > 0, q, 1) / model), 0).sum(1)  # [x_0, x_t]
    expected = steps * terms[np.asarray(x0), seen[0]].sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
