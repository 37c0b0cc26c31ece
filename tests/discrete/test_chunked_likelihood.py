"""Likelihoods of large vocabularies in chunks: the numbers and gradients of whole logits, in a part of their memory."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import discrete, models, schedules, timesteps

PROCESS = discrete.absorbing(discrete.polynomial(2.0), 9, mask=4)


def setting(length=7, width=5, size=9):
    random = np.random.default_rng(0)
    table = jnp.asarray(random.normal(size=(size, width)), jnp.float32)
    head = jnp.asarray(random.normal(size=(width, size)), jnp.float32)
    x0 = jnp.asarray(random.choice(np.delete(np.arange(size), 4), (3, length)), jnp.int32)
    return table, head, x0, jnp.array([0.2, 0.5, 0.9]), jax.random.split(jax.random.key(0), 3)


def states(table):
    """Each position sees the mean of its text."""
    return lambda x, t: jnp.tanh(table[x] + table[x].mean(1, keepdims=True) + t[:, None, None])


@pytest.mark.extended
@pytest.mark.parametrize("chunk", [1, 4, 21, 100])
def test_chunks_have_the_values_and_gradients_of_the_whole(chunk):
    table, head, x0, t, keys = setting()

    def whole(table, head):
        logits = lambda x, t: discrete.from_logits(PROCESS, states(table)(x, t) @ head, x, t)
        return discrete.masked_bound(logits, PROCESS, keys, x0, t)

    def chunked(table, head):
        likelihood = discrete.in_chunks(states(table), head, PROCESS.mask, chunk)
        return discrete.masked_bound_of(likelihood, PROCESS, keys, x0, t)

    np.testing.assert_allclose(chunked(table, head), whole(table, head), rtol=1e-5)
    gradients = lambda f: jax.grad(lambda *arguments: f(*arguments).sum(), (0, 1))(table, head)
    for ours, theirs in zip(gradients(chunked), gradients(whole)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        assert np.abs(ours).max() > 0.01


def test_logits_of_bfloat16_states_are_not_rounded_to_it():
    """The states and the head are exact in bfloat16; their products and sums are those of float32."""
    random = np.random.default_rng(0)
    h, head = (jnp.asarray(random.normal(size=shape), jnp.bfloat16) for shape in ((1, 6, 32), (32, 5)))
    x0 = np.arange(6)[None] % 4
    logits = np.asarray(h, np.float64) @ np.asarray(head, np.float64)
    exact = np.take_along_axis(logits, x0[..., None], -1)[..., 0] - np.log(np.exp(logits[..., :4]).sum(-1))
    log_p = discrete.in_chunks(lambda x_t, t: h, head, 4, 3)(None, None, jnp.asarray(x0))
    np.testing.assert_allclose(log_p, exact, rtol=1e-5, atol=1e-5)


def test_no_array_has_all_positions_and_all_symbols():
    """50,000 symbols at 128 positions: the compiled gradient holds a chunk of 8 positions, not 25.6 MB."""
    size, batch, length, width = 50_000, 2, 64, 4
    process = discrete.absorbing(discrete.linear(), size)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((size, width), (width, size), (batch,))]
    x0 = jax.ShapeDtypeStruct((batch, length), jnp.int32)

    def bound(table, head, t, x0):
        likelihood = discrete.in_chunks(lambda x, t: table[x], head, process.mask, 8)
        keys = jax.random.split(jax.random.key(0), batch)
        return discrete.masked_bound_of(likelihood, process, keys, x0, t).sum()

    compiled = jax.jit(jax.grad(bound, (0, 1))).lower(*shapes, x0).compile()
    whole = 4 * batch * length * size
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 3
    text = compiled.as_text()
    assert f"[8,{size}]" in text and f"[{batch * length},{size}]" not in text and f"{length},{size}]" not in text


def test_what_does_not_fit_is_refused():
    table, head, x0, t, keys = setting()
    with pytest.raises(ValueError, match=r"in_chunks: chunk = 0\. Valid: at least 1 position"):
        discrete.in_chunks(states(table), head, 4, 0)
    assert callable(discrete.in_chunks(states(table), head, 4, 1))
    with pytest.raises(ValueError, match="masked_bound: the process has no mask"):
        uniform = discrete.uniform(discrete.linear(), 9)
        discrete.masked_bound_of(discrete.in_chunks(states(table), head, 4, 2), uniform, keys, x0, t)


def test_an_objective_in_chunks_needs_a_network_that_returns_what_its_last_layer_reads():
    density = timesteps.uniform_density(schedules.rectified_flow())
    objective = discrete.masked_diffusion(PROCESS, density, chunk=4)
    objective.check_network(models.SymbolTransformer(9, width=8, depth=1, heads=2))
    with pytest.raises(
        ValueError, match=r"a few positions at a time, but this network .* Valid: chunk = 0, or a network"
    ):
        objective.check_network(types.SimpleNamespace(takes_symbols=True))
    discrete.masked_diffusion(PROCESS, density).check_network(types.SimpleNamespace(takes_symbols=True))
