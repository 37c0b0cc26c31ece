"""Draws of symbols, and what a network says of them."""

import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, timesteps
from diffusion.discrete.categorical import draw, exponential, happens, normal
from tests.discrete.enumerated import PROCESSES


def test_probabilities_that_are_nan_draw_no_symbol():
    keys = jax.random.split(jax.random.key(0), 2)
    p = jnp.array([[[0.0, 1.0], [jnp.nan, 1.0]], [[1.0, 0.0], [0.5, jnp.nan]]])
    np.testing.assert_array_equal(draw(keys, p), [[1, -1], [0, -1]])


def test_probabilities_that_are_all_zero_draw_no_symbol():
    keys = jax.random.split(jax.random.key(0), 2)
    p = jnp.array([[[0.0, 1e-30], [0.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]]])
    np.testing.assert_array_equal(draw(keys, p), [[1, -1], [-1, 0]])


def test_exponential_numbers_are_exact_at_both_ends():
    """-log(1 - u) in float64 of u = (high + (low + 1/2) / 2^32) / 2^32, from 2^-65 to 44."""
    high = np.array([0, 0, 1, 12345, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**32 - 1], np.uint32)
    low = np.array([0, 7, 2**31, 99, 2**32 - 1, 0, 5, 0, 2**32 - 1], np.uint32)
    integers = [int(h) * 2**32 + int(l) for h, l in zip(high, low, strict=True)]
    exact = [-np.log1p(-(n + 0.5) / 2**64) if n < 2**63 else -np.log((2**64 - n - 0.5) / 2**64) for n in integers]
    np.testing.assert_allclose(exponential(jnp.asarray(high), jnp.asarray(low)), exact, rtol=3e-7)


def test_normal_numbers_are_quantiles_of_their_64_bits():
    keys = jax.random.split(jax.random.key(0), 1)
    high, low = np.asarray(jax.random.bits(keys[0], (2, 500), jnp.uint32), np.float64)
    quantile = statistics.NormalDist().inv_cdf
    np.testing.assert_allclose(
        normal(keys, (500,))[0],
        [quantile((h + (l + 0.5) / 2**32) / 2**32) for h, l in zip(high, low, strict=True)],
        rtol=1e-4,
        atol=1e-5,
    )


def test_symbols_are_drawn_as_often_as_their_probabilities_say():
    p = np.array([0.5, 0.0, 0.3, 0.199, 0.001])
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = jax.jit(discrete.draw)(keys, np.tile(p.astype(np.float32), (200, 500, 1)))
    counts = np.bincount(np.ravel(drawn), minlength=5)
    assert counts[1] == 0 and drawn.dtype == jnp.int32
    errors = (counts - 100_000 * p)[p > 0] / np.sqrt(100_000 * p * (1 - p))[p > 0]
    assert np.abs(errors).max() < 4, counts


def test_an_example_depends_on_its_own_key_alone():
    process = PROCESSES["uniform"]
    keys = jax.random.split(jax.random.key(1), 6)
    x0, t = jnp.arange(18).reshape(6, 3) % 3, jnp.linspace(0.1, 0.9, 6)
    noised = jax.jit(lambda *arguments: discrete.noised(process, *arguments))
    whole = noised(keys, x0, t)
    for i in range(6):
        row = slice(i, i + 1)
        np.testing.assert_array_equal(noised(keys[row], x0[row], t[row]), whole[row])
    assert len({tuple(row) for row in np.asarray(discrete.prior(process, keys, (30,)))}) == 6


def test_noise_has_the_law_of_the_process():
    process = PROCESSES["mixture"]
    keys = jax.random.split(jax.random.key(2), 20_000)
    x0 = jnp.full((20_000, 1), 3)
    noised = jax.jit(lambda *arguments: discrete.noised(process, *arguments))
    drawn = np.ravel(noised(keys, x0, jnp.full(20_000, 0.6)))
    exact = np.asarray(process.marginal(jnp.array(3), 0.6), np.float64)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20_000, exact, atol=4 * 0.5 / np.sqrt(20_000))


def test_bytes_are_masked_by_a_symbol_beyond_them():
    """256 symbols fill uint8, in which the mask would be the byte 0."""
    process = discrete.absorbing(discrete.linear(), 257)
    x = jnp.asarray([[0, 7, 255]], jnp.uint8)
    noised = discrete.noised(process, jax.random.split(jax.random.key(0), 1), x, jnp.ones(1))
    np.testing.assert_array_equal(noised, [[256, 256, 256]])


def test_masks_are_never_predicted_and_shown_symbols_stay():
    process = PROCESSES["absorbing"]
    logits = jnp.array([[[1.0, 2.0, 3.0, 50.0], [5.0, 0.0, 0.0, 0.0]]])
    log_x0 = discrete.from_logits(process, logits, jnp.array([[3, 1]]), jnp.ones(1))
    np.testing.assert_allclose(jnp.exp(log_x0[0, 0]), [*np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum(), 0], rtol=1e-6)
    np.testing.assert_array_equal(jnp.exp(log_x0[0, 1]), [0, 1, 0, 0])
    plain = discrete.from_logits(PROCESSES["uniform"], logits[..., :3], jnp.array([[2, 1]]), jnp.ones(1))
    np.testing.assert_allclose(plain, jax.nn.log_softmax(logits[..., :3]), rtol=1e-6)


@pytest.mark.parametrize("name, symbol", [("absorbing", 3), ("uniform", 1), ("mixture", 0)])
def test_logits_and_ratios_say_the_same(name, symbol):
    process = PROCESSES[name]

    @jax.jit
    def both(logits, x, t):
        log_x0 = discrete.from_logits(process, logits, x, t)
        log_ratios = jnp.log(process.ratios(x, jnp.exp(log_x0), t))
        return discrete.from_ratios(process, log_ratios, x, t), log_x0

    logits = np.linspace(-1, 1, process.size, dtype=np.float32)[None, None]
    by_ratios, by_logits = both(logits, np.array([[symbol]]), np.float32([0.4]))
    np.testing.assert_allclose(np.exp(by_ratios), np.exp(by_logits), atol=1e-6)


def test_a_score_that_no_data_has_becomes_probabilities_of_each_position():
    process = PROCESSES["uniform"]
    scores = jax.random.normal(jax.random.key(5), (4, 2, 3))
    log_x0 = discrete.from_ratios(process, scores, jnp.zeros((4, 2), int), jnp.full(4, 0.7))
    assert log_x0.shape == (4, 2, 3)
    np.testing.assert_allclose(jnp.exp(log_x0).sum(-1), 1, rtol=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize("name, read", [("absorbing", discrete.from_ratios), ("uniform", discrete.from_rates)])
def test_a_score_that_no_data_has_is_differentiated_as_its_probabilities_are(name, read, x64):
    """Also where these are 0: central differences, at every symbol x_t, are the gradient."""
    process, rng = PROCESSES[name], np.random.default_rng(2)
    K = process.size
    scores, weights = 2 * rng.standard_normal((K, 1, K)), rng.standard_normal((K, 1, K))
    scores[np.arange(K), 0, np.arange(K)] = 1e3  # the number at y = x_t is ignored
    x, t = jnp.arange(K)[:, None], jnp.full(K, 0.7)
    probabilities = jax.jit(lambda scores: jnp.exp(read(process, scores, x, t)))
    value = lambda scores: float(np.sum(weights * np.asarray(probabilities(scores))))
    assert (np.asarray(probabilities(scores)) == 0).any()
    steps = 1e-5 * np.eye(scores.size).reshape(-1, *scores.shape)
    expected = [(value(scores + step) - value(scores - step)) / 2e-5 for step in steps]
    gradient = jax.grad(lambda scores: jnp.sum(weights * probabilities(scores)))(jnp.asarray(scores))
    np.testing.assert_allclose(np.ravel(gradient), expected, atol=1e-7)


def test_a_predictor_reads_a_network_and_refuses_another_shape():
    process = PROCESSES["uniform"]
    network = lambda x, t, condition: jnp.zeros((*x.shape, condition))
    predict = discrete.predictor(network, process, discrete.from_logits, condition=3)
    np.testing.assert_allclose(
        jnp.exp(predict(jnp.zeros((2, 5), int), jnp.ones(2))), np.full((2, 5, 3), 1 / 3), rtol=1e-6
    )
    wrong = discrete.predictor(network, process, discrete.from_logits, condition=4)
    with pytest.raises(
        ValueError, match=r"a number for each symbol, must have the shape \(2, 5, 3\), but has \(2, 5, 4\)"
    ):
        wrong(jnp.zeros((2, 5), int), jnp.ones(2))


def test_events_happen_with_their_probability_at_both_ends_too():
    keys = jax.random.split(jax.random.key(0), 200)
    p = np.tile(np.repeat([0.0, 1e-3, 0.4, 1.0], 500), (200, 1)).astype(np.float32)
    shares = np.asarray(happens(keys, jnp.asarray(p))).reshape(200, 4, 500).mean((0, 2))
    assert shares[0] == 0 and shares[3] == 1
    np.testing.assert_allclose(shares[1:3], [1e-3, 0.4], atol=4 * np.sqrt(0.25 / 1e5), rtol=0)
    assert abs(shares[1] - 1e-3) < 4 * np.sqrt(1e-3 / 1e5)


@pytest.mark.parametrize("name", ["first_hitting", "infilling"])
def test_samplers_of_masks_run_in_float64_along_a_plan_of_float32(name, x64):
    """JAX's uniforms are then float64 and its integers int64, which no state of a loop may become."""
    process, values, known = PROCESSES["absorbing"], np.array([2, 0, 1]), np.array([True, False, True])
    sampler = {
        "first_hitting": discrete.first_hitting(),
        "infilling": discrete.infilling(discrete.ancestral(), values, known),
    }[name]
    predict = lambda x, t: discrete.from_logits(process, jnp.zeros((*x.shape, 4)), x, t)
    start, keys = jnp.full((4, 3), 3, jnp.int32), jax.random.split(jax.random.key(0), 4)
    plan = timesteps.plan(np.linspace(1, 0, 4, dtype=np.float32))
    found = discrete.sample(sampler, predict, process, start, plan, keys)
    assert found.dtype == jnp.int32 and (found < 3).all()
    if name == "infilling":
        np.testing.assert_array_equal(found[:, known], np.tile(values[known], (4, 1)))


@pytest.mark.parametrize("read", [discrete.from_logits, discrete.from_context, discrete.from_ratios])
@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_a_network_of_half_precision_is_read_where_promotion_is_strict(name, read):
    """As its numbers in float32 are, which hold every number of half precision."""
    process = PROCESSES[name]
    output = jax.random.normal(jax.random.key(0), (2, 3, process.size), jnp.bfloat16)
    x, t = jnp.full((2, 3), process.size - 1, jnp.int32), jnp.full(2, 0.5, jnp.float32)
    exact = read(process, output.astype(jnp.float32), x, t)
    with jax.numpy_dtype_promotion("strict"):
        log_p = read(process, output, x, t)
    assert log_p.dtype == jnp.float32
    np.testing.assert_array_equal(log_p, exact)
