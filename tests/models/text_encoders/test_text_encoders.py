"""CLIP's towers and T5's encoder: what they must and must not see, their options, their positions, a training.

Their outputs are compared with transformers' in tests/models/interchange.
"""

import math
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion.models.text_encoders import t5
from diffusion.models.text_encoders.clip import CLIP, CLIPText, CLIPVision, normalised
from diffusion.models.text_encoders.t5 import T5Encoder
from diffusion.objectives import image_text

TEXT = CLIPText(vocabulary=20, width=8, depth=2, heads=2, hidden=12, positions=6, eos=15)
VISION = CLIPVision(size=8, patch=4, width=8, depth=1, heads=2, hidden=12)
ENCODER = T5Encoder(vocabulary=20, width=8, depth=2, heads=2, head_size=3, hidden=12, buckets=8, farthest=6)
IDS = np.array([[3, 4, 5, 15, 19, 8], [9, 15, 3, 15, 19, 6]], np.int32)


@partial(jax.jit, static_argnums=(0, 1))
def apply(model, how, params, *inputs):
    """Jitted once for each model and set of named arguments."""
    return model.apply({"params": params}, *inputs, **dict(how))


def made(model, *inputs):
    """Parameters of the spread of trained ones."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: np.asarray(0.5 * rng.normal(size=s.shape), np.float32), shapes)


@pytest.fixture(scope="module")
def text():
    return made(TEXT, IDS)


@pytest.fixture(scope="module")
def encoder():
    return made(ENCODER, IDS)


def test_t5s_states_are_float32_whatever_the_compute_type():
    """With layers that add nothing, the tokens are the normalised embeddings, to more digits than bfloat16 has."""
    model = ENCODER.clone(dtype="bfloat16")
    params = jax.tree.map(np.zeros_like, made(model, IDS))
    table = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    params |= {"tokens": {"embedding": table}, "final_norm": {"scale": np.ones(8, np.float32)}}
    rows = table[IDS].astype(np.float64)
    exact = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(model.apply({"params": params}, IDS).tokens, exact, rtol=1e-5)


@pytest.mark.slow
def test_the_spread_of_the_embeddings_at_the_start():
    ids = np.zeros((1, 6), np.int32)
    for model, spread in ((TEXT.clone(vocabulary=5000), 0.02), (TEXT.clone(vocabulary=5000, token_std=1.0), 1.0)):
        tokens = model.init(jax.random.key(0), ids)["params"]["tokens"]["embedding"]
        np.testing.assert_allclose(np.std(tokens), spread, rtol=0.02)  # of 40,000 numbers: 5.7 standard errors
    with pytest.raises(ValueError, match="token_std=0 must be positive"):
        TEXT.clone(token_std=0)


@pytest.mark.extended
def test_a_token_of_clip_sees_those_before_it_alone(text):
    plain = apply(TEXT, (), text, IDS)
    changed = apply(TEXT, (), text, np.where(np.arange(6) == 4, 11, IDS))
    np.testing.assert_allclose(changed.tokens[:, :4], plain.tokens[:, :4], atol=1e-6)
    assert (np.abs(changed.tokens - plain.tokens)[:, 4:].max((0, 2)) > 1e-3).all()
    # The text ends at the first eos, whatever comes after it: at place 3, and at place 1.
    np.testing.assert_allclose(changed.pooled, plain.pooled, atol=1e-6)
    np.testing.assert_allclose(plain.pooled, np.stack([plain.tokens[0, 3], plain.tokens[1, 1]]), atol=1e-6)


@pytest.mark.slow
def test_the_old_way_to_find_the_end_takes_the_largest_id(text):
    plain = apply(TEXT.clone(eos=2), (), text, np.array([[3, 4, 5, 19, 15, 8], [9, 18, 3, 18, 5, 6]], np.int32))
    np.testing.assert_allclose(plain.pooled, np.stack([plain.tokens[0, 3], plain.tokens[1, 1]]), atol=1e-6)


@pytest.mark.slow
def test_a_padded_place_of_t5_is_not_seen_and_places_are_differences(encoder):
    mask = np.arange(6) < np.array([[4], [6]])
    short = apply(ENCODER, (), encoder, IDS, mask).tokens
    other = apply(ENCODER, (), encoder, np.where(mask, IDS, 13), mask).tokens
    np.testing.assert_allclose(other[0, :4], short[0, :4], atol=1e-6)
    moved = apply(ENCODER, (), encoder, np.roll(IDS, 2, axis=1), np.roll(mask, 2, axis=1)).tokens
    np.testing.assert_allclose(moved[0, 2:], short[0, :4], atol=1e-5)


def test_buckets_are_exact_then_logarithmic():
    rows = t5.buckets(400, 32, 128)
    np.testing.assert_array_equal(rows[300, 300:292:-1], np.arange(8))  # tokens before, one by one
    np.testing.assert_array_equal(rows[300, 301:308], 16 + np.arange(1, 8))  # tokens after
    # Eight rows from 8 to 128: the k-th begins where 8 * 16^(k / 8) is reached.
    for distance in range(8, 300):
        k = min(math.floor(8 * math.log(distance / 8) / math.log(16) + 1e-9), 7)
        assert rows[300, 300 - distance] == 8 + k, distance
    assert rows[0, 399] == 31 and rows[399, 0] == 15


def test_images_are_normalised_by_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 2, 3), dtype=np.uint8)
    expected = (pixels / 255 - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    np.testing.assert_allclose(normalised(jnp.asarray(pixels)), expected, atol=1e-5)
    np.testing.assert_allclose(normalised(jnp.asarray(pixels / 127.5 - 1, jnp.float32)), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", [TEXT, ENCODER])
@pytest.mark.parametrize("options", [{"remat": "full"}, {"remat": "dots"}, {"attention": "xla"}])
def test_options_change_neither_output_nor_gradient(model, options):
    params = made(model, IDS)
    loss = lambda model: jax.jit(
        jax.value_and_grad(lambda p: jnp.mean(model.apply({"params": p}, IDS).tokens[..., 0] ** 2))
    )(params)
    for a, b in zip(jax.tree.leaves(loss(model)), jax.tree.leaves(loss(model.clone(**options)))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * (jnp.abs(a).max() + 1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("model", [TEXT, ENCODER])
def test_bfloat16_stays_near_float32_and_gives_float32(model):
    params = made(model, IDS)
    plain = apply(model, (), params, IDS)
    half = apply(model.clone(dtype="bfloat16"), (), params, IDS)
    assert half.tokens.dtype == jnp.float32
    assert 1e-4 < jnp.abs(half.tokens - plain.tokens).max() < 0.1 * jnp.abs(plain.tokens).max()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["contrastive", "sigmoid"])
def test_a_small_clip_learns_which_picture_belongs_to_which_text(loss):
    """Four pictures of one colour each and their names: after a few steps each finds the other."""
    model = CLIP(TEXT, VISION, features=8)
    ids = np.array([[i, 15, 0, 0, 0, 0] for i in range(3, 7)], np.int32)
    images = np.broadcast_to(np.eye(4, 3, dtype=np.float32)[:, None, None], (4, 8, 8, 3))
    params = {"network": jax.jit(model.init)(jax.random.key(0), ids, images)["params"], "bias": jnp.asarray(-10.0)}
    optimizer = optax.adam(3e-3)

    def mean(params):
        texts, pictures, scale = model.apply({"params": params["network"]}, ids, images)
        if loss == "contrastive":
            return image_text.contrastive(pictures, texts, scale).mean(), texts @ pictures.T
        return image_text.sigmoid(pictures, texts, scale, params["bias"]).mean(), texts @ pictures.T

    def step(carry, _):
        params, state = carry
        (value, cosines), gradient = jax.value_and_grad(mean, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), (value, cosines)

    train = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), length=300)[1])
    values, cosines = train(params)
    assert values[-1] < 0.2 * values[0], values[::50]
    np.testing.assert_array_equal(jnp.argmax(cosines[-1], axis=1), np.arange(4))


def test_wrong_input_is_refused():
    for build, message in [
        (lambda: TEXT.clone(heads=3), "heads=3 does not divide width=8"),
        (lambda: TEXT.clone(activation="relu"), "quick_gelu"),
        (lambda: VISION.clone(patch=3), "patch=3 does not divide size=8"),
        (lambda: ENCODER.clone(mlp="gated"), "gated-gelu"),
        (lambda: ENCODER.clone(buckets=6), "multiple of 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    images = jnp.zeros((1, 9, 9, 3))
    for model, inputs, how, message in [
        (TEXT, (np.zeros((1, 7), np.int32),), {}, "7 tokens.*6 positions.*windows"),
        (TEXT, (np.zeros((1, 6), np.float32),), {}, "integer ids"),
        (TEXT, (IDS, np.ones((2, 5), bool)), {}, "the mask"),
        (TEXT, (IDS,), {"skip": 2}, r"skip=2 must be in 0 \.\. 1, because the network has 2 layers"),
        (VISION, (images,), {}, r"\[B, 8, 8, C\]; got shape \(1, 9, 9, 3\)"),
        (ENCODER, (IDS[0],), {}, "integer ids"),
        (ENCODER, (IDS, np.ones((2, 5), bool)), {}, "the mask"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(partial(model.init, **how), jax.random.key(0), *inputs)


OVER_A_MESH = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from diffusion.models.layers import layout
from diffusion.training import sharding
from tests.models.text_encoders.test_text_encoders import ENCODER, IDS, TEXT, VISION, made
mesh = sharding.make_mesh({"data": 2, "tensor": 2})
images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
for model, batch in ((TEXT, IDS), (VISION, images), (ENCODER, IDS)):
    params = made(model, batch)
    plain = jax.jit(model.apply)({"params": params}, batch)
    where = sharding.shardings(params, mesh)
    split = [k for k, s in jax.tree_util.tree_leaves_with_path(where) if "tensor" in str(s.spec)]
    assert len(split) >= 4, split
    def apply(params, batch, model=model):
        with layout.over(mesh):
            return model.apply({"params": params}, batch)
    found = jax.jit(apply)(jax.device_put(params, where), jax.device_put(batch, NamedSharding(mesh, P("data"))))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(plain)):
        np.testing.assert_allclose(a, b, atol=2e-5)
print("the same")
"""


@pytest.mark.slow
def test_on_a_mesh():
    """Examples over one axis, heads and hidden features over the other, in a process of four simulated devices."""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, "-c", OVER_A_MESH], capture_output=True, text=True, env=env, check=False)
    assert result.stdout.strip() == "the same", result.stderr[-2000:]
