"""Token merging: the matching beside a restatement in loops, and where a network's attention sees fewer tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffusion.models.dit import DiT
from diffusion.models.layers.blocks import Attention
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.token_merging import matching, merged
from diffusion.published.stable_diffusion.network import ConditionalUNet

RNG = np.random.default_rng(0)


def _matched(metric, height, width, number):
    """For each token of one picture the token whose mean it shares, and the tokens of each mean."""
    cell = lambda i: (i // width) % 2 == 0 and i // width < height // 2 * 2 and i % width % 2 == 0
    stays = [i for i in range(height * width) if cell(i) and i % width < width // 2 * 2]
    cosine = lambda i, j: metric[i] @ metric[j] / np.linalg.norm(metric[i]) / np.linalg.norm(metric[j])
    others = [i for i in range(height * width) if i not in stays]
    nearest = {i: max(stays, key=lambda j: cosine(i, j)) for i in others}
    gone = sorted(others, key=lambda i: -cosine(i, nearest[i]))[:number]
    return {i: nearest[i] if i in gone else i for i in range(height * width)}


@pytest.mark.extended
@pytest.mark.parametrize("height, width, number", [(4, 5, 7), pytest.param(5, 4, 20, marks=pytest.mark.slow)])
def test_the_most_alike_tokens_share_their_mean(height, width, number):
    metric, x = RNG.standard_normal((2, 2, height * width, 3)).astype(np.float32)
    merge, unmerge = matching(jnp.asarray(metric), height, width, number)
    few = merge(jnp.asarray(x))
    back = unmerge(few)
    for b in range(2):
        of = _matched(metric[b], height, width, number)
        groups = {target: [i for i in of if of[i] == target] for target in set(of.values())}
        assert few.shape[1] == len(groups)
        means = {target: x[b, group].mean(0) for target, group in groups.items()}
        np.testing.assert_allclose(back[b], [means[of[i]] for i in range(height * width)], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.sort(few[b], axis=0), np.sort(list(means.values()), axis=0), rtol=1e-5, atol=1e-6)


def test_each_square_of_a_wide_grid_keeps_a_token():
    """Two squares of equal tokens beside each other: the tokens of each become one, with their mean."""
    square = np.array([[0, 0, 1, 1]] * 2).ravel()
    merge, _ = matching(jnp.eye(2)[square][None], 2, 4, 6)
    np.testing.assert_allclose(merge(jnp.arange(8.0)[None, :, None])[0, :, 0], [10 / 4, 18 / 4])


def test_the_mean_of_many_tokens_in_bfloat16_is_rounded_once():
    """All tokens look alike, so that 300 of 400 join the first: in bfloat16 a count would end at 256."""
    x = jnp.asarray(RNG.normal(3.0, 0.5, (1, 400, 2)), jnp.bfloat16)
    few = jax.jit(lambda x: matching(jnp.ones((1, 400, 1)), 20, 20, 300)[0](x))(x)
    alone = np.zeros((20, 20), bool)
    alone[::2, ::2] = True
    alone[0, 0] = False
    mean = np.asarray(x[0], np.float64)[~alone.ravel()].mean(axis=0)
    np.testing.assert_allclose(np.asarray(few[0, 0], np.float64), mean, rtol=2**-8)


def _network(name):
    if name == "dit":
        module, condition = DiT(2, 16, 2, 2, 3), jnp.array([1, 2])
    else:
        module = ConditionalUNet((8, 16), (1, 1), (2, 2), 6, layers=1, groups=4)
        condition = {"text": jnp.ones((2, 3, 6))}
    x = jnp.asarray(RNG.standard_normal((2, 8, 8, 4)), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, jnp.ones(2), condition)
    params = jax.tree.map(lambda leaf: jnp.asarray(RNG.standard_normal(leaf.shape), jnp.float32) / 4, shapes)
    return (lambda x, clock, condition: module.apply(params, x, clock, condition)), (x, jnp.ones(2), condition)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "conditional_unet"])
def test_self_attention_sees_fewer_tokens_where_they_are_finest(name):
    network, inputs = _network(name)
    seen = []

    def record(call, args, kwargs, context):
        if (isinstance(context.module, Attention | CrossAttention) and len(args) != 3) or name == "dit":
            if isinstance(context.module, Attention | CrossAttention):
                seen.append(args[0].shape[1])
        return call(*args, **kwargs)

    def run(ratio):
        seen.clear()

        def recorded(*arguments):
            with nn.intercept_methods(record):
                return network(*arguments)

        return jax.jit(merged(recorded, ratio))(*inputs)

    plain = jax.jit(network)(*inputs)
    # A share of no token at all merges none, and puts all back in their order.
    np.testing.assert_allclose(run(0.01), plain, rtol=1e-4, atol=1e-4)
    output = run(0.5)
    tokens = {"dit": 16, "conditional_unet": 64}[name]
    assert tokens - tokens // 2 in seen
    if name == "conditional_unet":
        assert 16 in seen and 8 not in seen  # the coarser level keeps its tokens
        assert 64 in seen  # cross-attention sees all
    assert np.isfinite(output).all() and float(jnp.abs(output - plain).max()) > 1e-4


@pytest.mark.slow
def test_a_part_of_a_network_may_have_nothing_to_merge():
    """SDXL has no attention at its finest level, which is all that runs where DeepCache leaves the rest out."""
    module = ConditionalUNet((8, 16), (0, 1), (2, 2), 6, layers=1, groups=4)
    condition = {"text": jnp.ones((2, 3, 6))}
    x, t = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x, t, condition)
    network = lambda params, x, t, **more: merged(lambda *a, **m: module.apply(params, *a, **m), 0.5)(
        x, t, condition, branch=0, **more
    )
    output, seen = jax.eval_shape(network, params, x, t)
    few, _ = jax.eval_shape(lambda params, x, t, deep: network(params, x, t, deep=deep), params, x, t, seen.features)
    assert few.shape == output.shape == x.shape


def test_a_ratio_of_zero_is_the_network_itself_and_what_cannot_merge_is_refused():
    network = lambda x, clock, condition: x
    assert merged(network, 0.0) is network
    with pytest.raises(ValueError, match=r"merge = 0\.8"):
        merged(network, 0.8)
    with pytest.raises(ValueError, match="no self-attention"):
        merged(network, 0.5)(jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), None)
    of_part = lambda x, clock, condition, deep=None: x
    assert merged(of_part, 0.5)(jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), None, deep=jnp.ones(1)).shape == (1, 4, 4, 1)
    module = DiT(2, 16, 1, 2, 0, positions="rope")
    x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))
    with pytest.raises(ValueError, match="rotary"):
        jax.eval_shape(
            lambda params, x: merged(lambda *a: module.apply(params, *a), 0.5)(x, jnp.zeros(1), None), params, x
        )
