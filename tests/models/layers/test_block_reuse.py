"""Blocks as a value: runs of them, in parts and as a whole, beside the network's own evaluation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffusion.models.dit import DiT
from diffusion.models.jit import JiT
from diffusion.models.layers.blocks import Attention
from diffusion.models.unet import UNet
from diffusion.published.flux.network import Flux
from diffusion.published.pixart.network import PixArt
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.published.stable_diffusion_3.network import MMDiT

B, M = 2, 3
LATENTS = (B, 4, 4, 4)
TEXT = {"text": (B, M, 6), "pooled": (B, 5)}
TRANSFORMERS = {
    "dit": (DiT(2, 16, 3, 2, 3), (), 3),
    "dit, own embeddings": (DiT(2, 16, 2, 2, 3, own_embeddings=True, positions="rope"), (), 2),
    "jit": (JiT(2, 16, 3, 2, 3, class_tokens=2, class_start=1), (), 3),
    "jit, classes first": (JiT(2, 16, 2, 2, 3, class_tokens=2, class_start=0), (), 2),
    "pixart": (PixArt(shape=(4, 4, 4), width=16, depth=2, heads=2, text_width=6), ("text",), 2),
    "mmdit": (MMDiT(4, 4, 2, 16, 4, 2, 6, 5, 4, 4, dual=1), ("text", "pooled"), 4),
    "flux": (Flux(4, 4, 16, 2, 2, 2, 6, 5, (2, 2, 4)), ("text", "pooled"), 4),
    "flux, approximator": (Flux(4, 4, 16, 2, 2, 2, 6, 0, (2, 2, 4), approximator=(8, 12, 1)), ("text", "text_mask"), 4),
}
UNETS = {
    "unet": (UNet((8, 16), 1, (1,), in_channels=4, out_channels=4, groups=4), None, 7),
    "conditional_unet": (ConditionalUNet((8, 16), (1, 1), (2, 2), 6, layers=1, groups=4), ("text",), 7),
}


def _made(module, entries):
    """(params, inputs) of a network none of whose parameters is zero."""
    rng = np.random.default_rng(0)
    array = lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    condition = {name: array(TEXT[name]) for name in entries if name in TEXT} if entries else None
    if entries and "text_mask" in entries:
        condition["text_mask"] = jnp.array([[True, True, False], [True, True, True]])
    if isinstance(module, DiT | JiT):
        condition = jnp.array([1, 2])
    inputs = (array(LATENTS), jnp.array([0.3, 0.6]), condition)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda leaf: array(leaf.shape) / 4, shapes), inputs


@pytest.mark.slow  # the caches of tests/recipe run the blocks of a DiT
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_blocks_that_run_in_parts_are_the_network(name):
    module, entries, length = TRANSFORMERS[name]
    params, inputs = _made(module, entries)

    def through(blocks):
        assert blocks.length == length
        cuts = [blocks.start]
        for cut in range(length):
            cuts.append(blocks.run(cuts[-1], cut, cut + 1))
        return blocks.features(cuts[-1]), [blocks.features(carry) for carry in cuts[1:]]

    apply = jax.jit(
        lambda params, **how: module.apply({"params": params}, *inputs, **how), static_argnames=("features",)
    )
    whole = apply(params, features=tuple(range(1, length + 1)))
    parts = jax.jit(lambda params: module.apply({"params": params}, *inputs, through=through))(params)
    for part, one in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(part, one, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
def test_a_long_stack_is_a_loop_over_the_layers_of_its_own(monkeypatch):
    module, entries, _ = TRANSFORMERS["dit"]
    params, inputs = _made(module, entries)
    through = lambda blocks: (blocks.run(blocks.run(blocks.start, 0, 1), 1, 3), None)
    apply = lambda params: module.apply({"params": params}, *inputs, through=through)[0]
    unrolled = jax.jit(apply)(params)
    monkeypatch.setattr("diffusion.models.layers.block_reuse.turn", lambda length: 1)
    looped = lambda params: apply(params)
    assert "scan" in str(jax.make_jaxpr(looped)(params))
    np.testing.assert_allclose(jax.jit(looped)(params), unrolled, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "pixart", "jit, classes first"])
def test_what_the_first_block_reads_is_what_its_attention_receives(name):
    module, entries, _ = TRANSFORMERS[name]
    params, inputs = _made(module, entries)
    received = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, Attention):
            received.append(args[0])
        return call(*args, **kwargs)

    def through(blocks):
        with nn.intercept_methods(record):
            return blocks.run(blocks.start, 0, 1), (blocks.attended(), received[0])

    _, (read, own) = jax.jit(lambda params: module.apply({"params": params}, *inputs, through=through))(params)
    np.testing.assert_allclose(read, own, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_what_the_first_joint_layer_reads_of_the_picture():
    """norm(x) (1 + scale) + shift from the parameters of layer 0, by hand."""
    module, entries, _ = TRANSFORMERS["flux"]
    params, inputs = _made(module, entries)
    kept = []

    def record(call, args, kwargs, context):
        if type(context.module).__name__ == "Conditioning":
            kept.append(call(*args, **kwargs))
            return kept[0]
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        _, (x, read) = module.apply(
            {"params": params}, *inputs, through=lambda blocks: (blocks.start[0], (blocks.start[0], blocks.attended()))
        )
    dense = params["blocks"]["image"]["modulation"]["dense"]
    vectors = jnp.einsum("bd,dkw->bkw", kept[0], dense["kernel"][0]) + dense["bias"][0]
    normed = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(read, normed * (1 + vectors[:, 1, None]) + vectors[:, 0, None], rtol=1e-4, atol=1e-5)


def _takes_part(name, branch):
    """Whether parameters of a U-Net of two levels, of one block down and two up each, lie outside of a branch."""
    if name.startswith("middle"):
        return False
    found = re.match(r"(up|down)_(\d)_[a-z]+(?:_(\d))?", name)
    if not found:
        return True
    way, level, number = found.groups()
    rows = [("up", "0", "1"), ("up", "0", "0"), ("up", "1", "1"), ("up", "1", "0")][: branch + 1]
    rows += [("down", "0", "0"), ("down", "0", None), ("down", "1", "0")][:branch]
    return (way, level, number) in rows or (branch > 1 and (way, number) == ("up", None))


@pytest.mark.extended
@pytest.mark.parametrize(
    "name, branch",
    [
        pytest.param(name, branch, marks=() if (name, branch) == ("unet", 1) else pytest.mark.slow)
        for name in UNETS
        for branch in (0, 1, 2, 3)
    ],
)
def test_deep_features_stand_in_for_what_is_deeper_than_their_branch(name, branch):
    """From its own deep features a call makes the same output, although all deeper parameters are not a number."""
    module, entries, length = UNETS[name]
    params, inputs = _made(module, entries)
    run = lambda params, deep: module.apply({"params": params}, *inputs, branch=branch, deep=deep)
    output, deep = jax.jit(lambda params: run(params, None))(params)
    np.testing.assert_array_equal(output, jax.jit(lambda params: module.apply({"params": params}, *inputs))(params))
    assert (deep.run, deep.length) == (length, length)

    poisoned = {
        key: leaves if _takes_part(key, branch) else jax.tree.map(lambda leaf: leaf * jnp.nan, leaves)
        for key, leaves in params.items()
    }
    again, kept = jax.jit(run)(poisoned, deep.features)
    np.testing.assert_allclose(again, output, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(kept.features, deep.features)
    assert kept.run == (0, 1, 1, 2)[branch] + branch + 1  # of the skips conv_in, level 0, its halving, level 1


@pytest.mark.extended
def test_a_branch_that_is_not_there_is_refused():
    module, entries, _ = UNETS["unet"]
    params, inputs = _made(module, entries)
    with pytest.raises(ValueError, match=r"branch=4.*Valid: 0 .. 3"):
        module.apply({"params": params}, *inputs, branch=4)
    with pytest.raises(ValueError, match="pass branch"):
        module.apply({"params": params}, *inputs, deep=jnp.zeros(1))
