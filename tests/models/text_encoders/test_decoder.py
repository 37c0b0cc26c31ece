"""The decoder as text encoder: a layer restated in NumPy, what a token sees, its configs.

Its outputs are compared with transformers' in tests/models/interchange.
"""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.interchange import decoder_tables, families, folders
from diffusion.models.interchange.family import Refusal
from diffusion.models.text_encoders import decoder
from diffusion.models.text_encoders.decoder import DecoderEncoder
from tests import numpy_programs

SIZES = {"vocabulary": 20, "width": 8, "depth": 2, "heads": 4, "key_heads": 2, "head_size": 6, "hidden": 10}
MODEL = DecoderEncoder(
    **SIZES, activation="gelu", biased=True, qk_norm=True, gemma=True, cap=2.0, score_size=5, window=3,
    near=(True, False), near_theta=50.0,
)  # fmt: skip
IDS = np.array([[3, 4, 5, 15, 19, 8, 2], [9, 15, 3, 15, 19, 6, 1]], np.int32)


@functools.partial(jax.jit, static_argnums=0)
def states(model, params, ids, mask):
    """Of all layers, [L + 1, B, N, D]."""
    tokens = model.apply({"params": params}, ids, mask, layers=range(model.depth + 1)).tokens
    return jnp.stack(jnp.split(tokens, model.depth + 1, axis=-1))


@functools.cache
def made(model):
    shapes = folders.shapes_of(families.find("LlamaModel"), model)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: np.asarray(0.5 * rng.normal(size=s.shape), np.float32), shapes)


def of_all(ids=IDS, mask=None):
    return np.asarray(states(MODEL, made(MODEL), ids, np.ones(ids.shape, bool) if mask is None else mask))


def restated(params, layer, x, window, theta):
    """A layer in float64, query by query and head by head."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf[layer], np.float64), params["layers"])
    norm = lambda x, name, p=p: (1 + p[name]["scale"]) * x / np.sqrt((x * x).mean() + MODEL.epsilon)
    gelu = lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def turned(vector, place):
        pairs = vector[:3] + 1j * vector[3:]
        pairs = pairs * np.exp(1j * place * theta ** (-np.arange(3) / 3))
        return np.concatenate([pairs.real, pairs.imag])

    a = p["attention"]
    project = lambda x, name, head: x @ a[name]["kernel"][:, head] + a[name]["bias"][head]
    out = np.empty_like(x)
    for i in range(len(x)):
        attended = np.zeros((4, 6))
        for head in range(4):
            q = turned(norm(project(norm(x[i], "norm_1"), "query", head), "query_norm", a), i)
            weights, values = [], []
            for j in range(max(0, i - window + 1), i + 1):
                before = norm(x[j], "norm_1")
                k = turned(norm(project(before, "key", head // 2), "key_norm", a), j)
                weights.append(math.exp(2.0 * math.tanh(q @ k / math.sqrt(5) / 2.0)))
                values.append(project(before, "value", head // 2))
            attended[head] = np.average(values, axis=0, weights=weights)
        h = x[i] + norm(np.einsum("hd,hdw->w", attended, a["out"]["kernel"]), "after_1")
        gate, linear = np.einsum("w,wkh->kh", norm(h, "norm_2"), p["mlp"]["hidden"]["kernel"])
        out[i] = h + norm((gelu(gate) * linear) @ p["mlp"]["out"]["kernel"], "after_2")
    return out


@pytest.mark.extended
def test_a_layer_is_its_equation_in_numpy():
    params = made(MODEL)
    found = of_all()
    embedded = params["tokens"]["embedding"][IDS[0]].astype(np.float64) * math.sqrt(8)
    near = restated(params, 0, embedded, window=3, theta=50.0)
    far = restated(params, 1, near, window=7, theta=10_000.0)
    far = (1 + params["final_norm"]["scale"]) * far / np.sqrt((far**2).mean(-1, keepdims=True) + MODEL.epsilon)
    for ours, exact in zip(found[:, 0], (embedded, near, far)):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=3e-6 * np.abs(exact).max())


@pytest.mark.extended
def test_a_later_token_never_changes_an_earlier_state_and_a_window_ends():
    plain = of_all()
    changed = of_all(np.where(np.arange(7) == 4, 11, IDS))
    np.testing.assert_array_equal(changed[:, :, :4], plain[:, :, :4])
    assert (np.abs(changed - plain)[1:, :, 4:].max((1, 3)) > 1e-3).all()
    early = np.abs(of_all(np.where(np.arange(7) == 0, 11, IDS)) - plain).max((1, 3))
    np.testing.assert_array_equal(early[1, 3:], 0)  # the first layer sees three tokens
    assert (early[1, :3] > 1e-3).all() and (early[2] > 1e-3).all()


def test_padding_is_not_seen_on_either_side():
    plain = of_all()
    right = np.arange(7) < np.array([[4], [7]])
    found = of_all(np.where(right, IDS, 13), right)
    np.testing.assert_allclose(found[:, 0, :4], plain[:, 0, :4], atol=1e-5)
    # Positions are relative: a text moved by padding on the left has the same states.
    left = np.arange(7) >= np.array([[3], [0]])
    found = of_all(np.where(left, np.stack([np.roll(IDS[0], 3), IDS[1]]), 13), left)
    np.testing.assert_allclose(found[:, 0, 3:], plain[:, 0, :4], atol=2e-5)
    changed = of_all(np.where(np.arange(7) == 2, 11, IDS), left)
    np.testing.assert_array_equal(
        changed[:, 0, :2], of_all(IDS, left)[:, 0, :2]
    )  # padding sees nothing that comes later
    # Nor itself: attention adds nothing to it. (transformers by PyTorch's fused attention; FLUX.2 dev reads these.)
    alone = jax.tree.map(np.array, made(MODEL))
    alone["layers"]["attention"]["out"]["kernel"][:] = 0
    np.testing.assert_array_equal(of_all(IDS, left)[:, 0, :3], states(MODEL, alone, IDS, left)[:, 0, :3])


def test_a_key_for_two_heads_is_two_equal_keys():
    params = made(MODEL)
    attention = {
        **params["layers"]["attention"],
        **{
            name: jax.tree.map(lambda leaf: np.repeat(leaf, 2, axis=-2), params["layers"]["attention"][name])
            for name in ("key", "value")
        },
    }
    repeated = {**params, "layers": {**params["layers"], "attention": attention}}
    found = states(MODEL.clone(key_heads=4), repeated, IDS, np.ones(IDS.shape, bool))
    np.testing.assert_allclose(found, of_all(), atol=2e-5)


def test_states_are_float32_whatever_the_compute_type():
    """With layers that add nothing, the tokens are the normalised embeddings, to more digits than bfloat16 has."""
    model = DecoderEncoder(**SIZES | {"depth": 1}, dtype="bfloat16")
    params = jax.tree.map(np.zeros_like, made(model))
    table = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    params |= {"tokens": {"embedding": table}, "final_norm": {"scale": np.ones(8, np.float32)}}
    rows = table[IDS].astype(np.float64)
    exact = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + model.epsilon)
    tokens = numpy_programs.outputs(lambda params: model.apply({"params": params}, IDS).tokens, params)
    np.testing.assert_allclose(tokens, exact, rtol=1e-5)


def test_scaled_frequencies_keep_what_turns_often():
    plain = decoder.frequencies(64, 5e5)
    np.testing.assert_allclose(decoder.frequencies(64, 5e5, (8.0,)), plain / 8)
    scaled = decoder.frequencies(64, 5e5, (8.0, 1.0, 4.0, 8192))
    turns = 8192 * plain / (2 * np.pi)
    np.testing.assert_allclose(scaled[turns > 4], plain[turns > 4])
    np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 8)
    assert (np.diff(scaled) < 0).all() and len(scaled[(turns >= 1) & (turns <= 4)]) > 0


QWEN = {
    "vocab_size": 30, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "rope_theta": 1e6, "sliding_window": 32768, "use_sliding_window": False,
    "max_window_layers": 28, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
}  # fmt: skip


def test_configs_of_all_versions_say_the_same():
    build = functools.partial(decoder_tables.build, "Qwen2Model")
    plain = build(QWEN)
    assert plain.biased and not plain.near and plain.theta == 1e6 and plain.head_size == 4
    newer = {**QWEN, "sliding_window": None, "layer_types": ["full_attention"] * 2}
    windowed = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
    both = build({**QWEN, **windowed, "max_window_layers": 1})  # the list counts
    assert both.near == (True, False) and both.window == 32768
    for change in ({"use_sliding_window": False}, {"sliding_window": None}):  # transformers has no window then
        with pytest.raises(Refusal, match="qwen2: layer_types lists sliding_attention, but use"):
            build({**QWEN, **windowed, **change})
    del newer["rope_theta"]
    assert build(newer | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}) == plain
    pictured = {
        "text_config": {**QWEN, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1]}},
        "vision_config": {},
    }
    assert build(pictured) == plain
    whole = {**QWEN, "architectures": ["Qwen2_5_VLForConditionalGeneration"]}
    assert folders.family_of(whole, pathlib.Path("x")) == "Qwen2Model"
    with pytest.raises(Refusal, match=r"Qwen2Model: rotary positions .*yarn.* default, mrope, linear, llama3"):
        build({**QWEN, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}})
    with pytest.raises(Refusal, match="MistralModel: attention_bias = True is not supported"):
        decoder_tables.build("MistralModel", {"attention_bias": True})
    with pytest.raises(Refusal, match=r"Qwen3Model: biased = True cannot be written in this format\. Valid: False"):
        decoder_tables.describe("Qwen3Model", MODEL)


def test_a_cap_of_scores_that_transformers_does_not_apply_is_refused():
    """Its Gemma 3 has the field and reads it nowhere; its Gemma 2 applies it."""
    build = decoder_tables.build
    assert build("Gemma2Model", {"attn_logit_softcapping": 3.0}).cap == 3.0
    assert build("Gemma3TextModel", {"attn_logit_softcapping": None}) == build("Gemma3TextModel", {})
    with pytest.raises(Refusal, match=r"attn_logit_softcapping = 3\.0"):
        build("Gemma3TextModel", {"attn_logit_softcapping": 3.0})
    with pytest.raises(Refusal):
        decoder_tables.describe("Gemma3TextModel", build("Gemma3TextModel", {}).clone(cap=3.0))


def test_wrong_input_is_refused():
    for fields, message in [
        ({"key_heads": 3}, "key_heads=3 does not divide heads=4"),
        ({"head_size": 5}, "head_size=5 must be even"),
        ({"near": (True,)}, "depth=2 layers"),
        ({"scaling": (1.0, 2.0)}, r"factor,\) or \(factor, low, high, context\)"),
        ({"activation": "relu"}, "silu"),
    ]:
        with pytest.raises(ValueError, match=message):
            MODEL.clone(**fields)
    for inputs, how, message in [
        ((IDS[0],), {}, "integer ids"),
        ((IDS, np.ones((2, 5), bool)), {}, "the mask has shape"),
        ((IDS,), {"layers": (3,)}, r"layers=\(3,\) of a network with 2 layers\. Valid: -3 to 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(functools.partial(MODEL.init, **how), jax.random.key(0), *inputs)
