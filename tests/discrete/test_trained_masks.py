"""Powers of token-dependent masks that train: their gradient beside the exact one on a chain that can be enumerated."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, schedules, timesteps
from diffusion.discrete.bounds import token_masked_at
from diffusion.discrete.trained_masks import _log_probability

LINE = schedules.rectified_flow()
AT, NUMBER = 0.4, 20_000
POINT = timesteps.Density(
    lambda: (), lambda state, keys, index: (jnp.full(len(keys), AT), jnp.ones(len(keys))), lambda state, *rest: state
)
X0 = jnp.array([[0, 1]])
PARAMETERS = jnp.array([-0.4, 1.1])
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 3)), jnp.float32)
OBJECTIVE = discrete.trained_masks(3, POINT, power=2.0)


def network(x, t, condition):
    """Logits of both positions, by both symbols."""
    return jnp.stack([TABLE[x[:, 0], x[:, 1]], 2 * TABLE[x[:, 1], x[:, 0]]], 1)


def exact(parameters, moving):
    """The mean of the bound's sum over all x_t, `moving` or with their probabilities held fixed."""
    w = jax.nn.softplus(parameters)
    process = discrete.TokenMasks(w)
    total = 0.0
    for x_t in itertools.product(*([symbol, 2] for symbol in (0, 1))):
        masked = AT**w
        q = jnp.prod(jnp.array([masked[i] if x_t[i] == 2 else 1 - masked[i] for i in (0, 1)]))
        x_t = jnp.array([x_t])
        predict = discrete.predictor(network, process, discrete.from_logits)
        value = token_masked_at(process, predict(x_t, AT), x_t, X0, jnp.array([AT]))[0]
        total += (q if moving else jax.lax.stop_gradient(q)) * value
    return total / 2


def losses(parameters):
    networks = {"model": network, "powers": lambda: OBJECTIVE.heads["powers"].apply(parameters)}
    keys = jax.random.split(jax.random.key(0), NUMBER)
    return OBJECTIVE(networks, LINE, keys, {"x": jnp.tile(X0, (NUMBER, 1))}, 0)[0]


@pytest.mark.extended
def test_the_gradient_of_the_powers_is_the_exact_one():
    value, slope = jax.jit(jax.value_and_grad(exact), static_argnums=1)(PARAMETERS, True)
    partial = jax.jit(jax.grad(exact), static_argnums=1)(PARAMETERS, False)
    found, slopes = jax.jit(lambda p: (losses(p), jax.jacfwd(losses)(p)))(PARAMETERS)
    found, slopes = np.asarray(found, np.float64), np.asarray(slopes, np.float64)
    error, errors = found.std() / np.sqrt(NUMBER), slopes.std(0) / np.sqrt(NUMBER)
    assert abs(found.mean() - value) < 4 * error, (found.mean(), value, error)
    assert (np.abs(slopes.mean(0) - slope) < 4 * errors).all(), (slopes.mean(0), slope, errors)
    assert (np.abs(slope - partial) > 12 * errors).all()  # the draws' share of the gradient is seen


def test_a_draw_has_the_probability_of_its_masks_and_of_the_symbols_that_stay():
    """At t = 0.5 a symbol of power 1 is masked with the probability 1/2, and one of power 2 stays with 3/4."""
    x_t = jnp.array([[2, 1], [0, 2]])
    log_q = _log_probability(discrete.TokenMasks(jnp.array([1.0, 2.0])), x_t, jnp.tile(X0, (2, 1)), jnp.full(2, 0.5))
    np.testing.assert_allclose(np.exp(log_q), [1 / 2 * 3 / 4, 1 / 2 * 1 / 4], rtol=1e-6)


def test_each_of_two_draws_is_the_baseline_of_the_other():
    """Example by example: (f_1 + f_2) / 2, whose gradient adds (f_1 - f_2) (grad log q_1 - grad log q_2) / 2."""
    keys, x0 = jax.random.split(jax.random.key(4), 16), jnp.tile(X0, (16, 1))

    def losses_and_draws(parameters):
        drawn = []
        model = lambda x, t, condition: (drawn.append(x), network(x, t, condition))[1]
        networks = {"model": model, "powers": lambda: jax.nn.softplus(parameters)}
        return OBJECTIVE(networks, LINE, keys, {"x": x0}, 0)[0], drawn

    def f_and_log_q(parameters, x_t):
        process, masked = discrete.TokenMasks(jax.nn.softplus(parameters)), AT ** jax.nn.softplus(parameters)
        log_p = discrete.predictor(network, process, discrete.from_logits)(x_t, jnp.full(16, AT))
        log_q = jnp.where(x_t == 2, jnp.log(masked), jnp.log1p(-masked)).sum(1)
        return token_masked_at(process, log_p, x_t, x0, jnp.full(16, AT)), log_q

    @jax.jit
    def run(parameters):
        losses, (x_1, x_2) = losses_and_draws(parameters)
        slopes = jax.jacfwd(lambda parameters: losses_and_draws(parameters)[0])(parameters)
        (f_1, _), (f_2, _) = (f_and_log_q(parameters, x_t) for x_t in (x_1, x_2))
        (df_1, dq_1), (df_2, dq_2) = (jax.jacfwd(f_and_log_q)(parameters, x_t) for x_t in (x_1, x_2))
        expected = df_1 + df_2 + (f_1 - f_2)[:, None] * (dq_1 - dq_2)
        return (losses, slopes), ((f_1 + f_2) / 4, expected / 4), (x_1 != x_2).any(1)  # nats for each of two symbols

    found, expected, differ = run(PARAMETERS)
    assert differ.sum() > 4
    for ours, definition in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, definition, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_powers_is_zero_where_no_mask_can_be_drawn():
    """At t = 1e-12 the chance t^4 of a mask underflows to 0 in float32."""
    start = POINT._replace(sample=lambda state, keys, index: (jnp.full(len(keys), 1e-12), jnp.ones(len(keys))))
    objective, keys = discrete.trained_masks(3, start), jax.random.split(jax.random.key(0), 1)
    loss = lambda w: objective({"model": network, "powers": lambda: w}, LINE, keys, {"x": X0}, 0)[0][0]
    value, slope = jax.jit(jax.value_and_grad(loss))(jnp.array([4.0, 4.0]))
    np.testing.assert_array_equal([value, *slope], 0)


@pytest.mark.extended
def test_the_gradient_of_the_powers_is_exact_where_all_is_masked():
    """t = 1 and two equally likely symbols: p_v - 1[v = x_0] (1 - log 2) of a power, and their mean."""
    end = POINT._replace(sample=lambda state, keys, index: (jnp.ones(len(keys)), jnp.ones(len(keys))))
    objective, keys = discrete.trained_masks(3, end), jax.random.split(jax.random.key(0), 1)
    blind = lambda x, t, condition: jnp.zeros((*x.shape, 3))
    loss = lambda w: objective({"model": blind, "powers": lambda: w}, LINE, keys, {"x": X0}, 0)[0][0]
    slope = jax.jit(jax.grad(loss))(jnp.array([0.7, 2.0]))
    np.testing.assert_allclose(slope, [np.log(2) / 2] * 2, rtol=1e-5)


def test_the_powers_begin_at_the_given_one_and_samples_have_the_trained_ones():
    head, process = OBJECTIVE.heads["powers"], OBJECTIVE.reads.process
    np.testing.assert_allclose(head.apply(head.init(jax.random.key(0), 0, 0)), [2.0, 2.0], rtol=1e-6)
    np.testing.assert_array_equal(process.powers, [2.0, 2.0])
    powers = np.log1p(np.exp(PARAMETERS))
    np.testing.assert_allclose(process.trained(PARAMETERS).masked(X0, 0.3)[0], 0.3**powers, rtol=1e-5)
    plan = timesteps.plan(jnp.linspace(1.0, 0.0, 5))

    @jax.jit
    def sampled(parameters, keys):
        masks = process.trained(parameters)
        predict = discrete.predictor(network, masks, discrete.from_logits)
        return discrete.sample(discrete.ancestral(), predict, masks, jnp.full((8, 2), 2), plan, keys)

    x = np.asarray(sampled(PARAMETERS, jax.random.split(jax.random.key(1), 8)))
    assert x.max() < 2


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"trained_masks: 1 symbols\. Valid: at least 2"):
        discrete.trained_masks(1, POINT)
    with pytest.raises(ValueError, match=r"token_masks: powers \[0\. 0\.\]\. Valid"):
        discrete.trained_masks(3, POINT, power=0.0)


def test_the_gradient_through_bayes_rule_is_finite_beside_unmasked_symbols():
    """One of two symbols is shown, whose likelihood given the other symbol is 0; the other is a mask."""
    powers, x_t = np.array([0.7, 2.0]), jnp.array([[0, 2]])

    def by_hand(w):  # equal logits: p(v | mask) is in proportion to t^w_v
        p, rates = AT**w / np.sum(AT**w), w / AT
        return rates @ p - rates[1] - rates[1] * np.log(p[1])

    def loss(w):
        process = discrete.TokenMasks(w)
        log_p = discrete.from_context(process, jnp.zeros((1, 2, 3)), x_t, jnp.array([AT]))
        return token_masked_at(process, log_p, x_t, X0, jnp.array([AT]))[0]

    value, slope = jax.value_and_grad(loss)(jnp.asarray(powers, jnp.float32))
    np.testing.assert_allclose(value, by_hand(powers), rtol=1e-5)
    steps = 1e-6 * np.eye(2)
    expected = [(by_hand(powers + step) - by_hand(powers - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
