"""The backbones that no other library has, against forward passes in plain float64 numpy, one example at a time."""

import jax
import numpy as np
import pytest

from diffusion.models.residual_u_vit import ResidualUViT
from diffusion.models.sequence_transformer import SequenceTransformer
from diffusion.models.set_transformer import SetTransformer
from diffusion.models.video_dit import VideoDiT
from tests import numpy_programs
from tests.models.dit_oracle import dense, feed_forward, layernorm, modulate, rmsnorm, silu, sincos, slice_layer
from tests.published import equations
from tests.published.equations import attention, convolution, group_norm, out_of_heads, timestep

RNG = np.random.default_rng(3)
NORMS = {"layernorm": layernorm, "rmsnorm": rmsnorm}


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def compared(module, oracle, x, t, condition):
    """Compares the output of a module with `oracle(params, number of the example)`; no parameter is zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, t, condition)["params"]
    params = jax.tree.map(lambda leaf: drawn(*leaf.shape) / max(np.prod(leaf.shape[:-1]), 4) ** 0.5, shapes)
    call = lambda params, x, t, condition: module.apply({"params": params}, x, t, condition)
    outputs = numpy_programs.outputs(call, params, x, t, condition)
    wide = jax.tree.map(np.float64, params)
    expected = np.stack([oracle(wide, i) for i in range(len(x))])
    assert outputs.shape == expected.shape and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def embedding(p, times, label=None, vector=None):
    """Before its silu."""
    names = ("timestep_embedding", "timestep_embedding_2")
    c = sum(timestep(p[name], t) for name, t in zip(names, times))
    c = c if label is None else c + p["label_embedding"]["embedding"][label]
    return c if vector is None else c + dense(p["vector_embedding"], vector)


def turned(x, angles):
    """Heads [N, H, S] turned by angles [N, 2, S / 4]; the halves of each half of the features make complex numbers."""
    parts = x.reshape(*x.shape[:2], 2, 2, -1)
    numbers = (parts[..., 0, :] + 1j * parts[..., 1, :]) * np.exp(1j * angles[:, None])
    return np.stack([numbers.real, numbers.imag], axis=-2).reshape(x.shape)


def attended(p, x, angles=None, visible=None):
    """Self-attention of tokens [N, D]; token n sees those of visible[n]."""
    q, k, v = np.moveaxis(equations.dense(p["qkv"], x), 1, 0)
    if "query_norm" in p:
        q, k = rmsnorm(q) * p["query_norm"]["scale"], rmsnorm(k) * p["key_norm"]["scale"]
    if angles is not None:
        q, k = turned(q, angles), turned(k, angles)
    return out_of_heads(p["out"], attention(q, k, v, visible))


def crossed(p, x, context):
    """Attention of tokens [N, D] to a context [M, E]."""
    q, k, v = (equations.dense(p[name], rows) for name, rows in (("query", x), ("key", context), ("value", context)))
    return out_of_heads(p["out"], attention(q, k, v))


def layer(p, x, c, norm, mlp, angles=None):
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = np.split(dense(p["modulation"]["dense"], c), 6)
    x = x + gate_1 * attended(p["attention"], modulate(norm(x), shift_1, scale_1), angles)
    return x + gate_2 * feed_forward(p["mlp"], modulate(norm(x), shift_2, scale_2), mlp)


def last(p, x, c, norm):
    shift, scale = np.split(dense(p["final_modulation"]["dense"], c), 2, axis=-1)
    return dense(p["final"], modulate(norm(x), shift, scale))


@pytest.mark.parametrize("form", ["classes and vector", "given, rotary", "two times"])
def test_the_transformer_of_sequences(form):
    length, channels, heads = 12, 3, 2
    x, t = drawn(2, length, channels), np.float32([0.3, 0.7])
    options = {
        "classes and vector": {"patch": 2, "num_classes": 3, "vector_width": 5, "input_gain": True},
        "given, rotary": {
            "patch": 3, "vector_width": 5, "given": True, "positions": "rope", "qk_norm": True, "norm": "rmsnorm",
            "mlp": "swiglu",
        },
        "two times": {"patch": 1, "times": 2, "num_classes": 3},
    }[form]  # fmt: skip
    module = SequenceTransformer(width=16, depth=2, heads=heads, **options)
    condition = {"label": np.array([3, 1])} if module.num_classes else {}
    condition |= {"vector": drawn(2, 5)} if module.vector_width else {}
    if module.given:
        condition |= {"given": drawn(2, length, channels), "mask": drawn(2, length, channels) > 0.3}
        condition["real"] = drawn(2, length, channels) > -0.5
    times = (t, t - 0.2) if module.times == 2 else (t,)
    norm = NORMS[module.norm]

    def oracle(p, i):
        rows = x[i]
        if module.given:
            mask = condition["mask"][i]
            rows = np.concatenate([rows, condition["given"][i] * mask, mask, condition["real"][i]], axis=1)
        tokens = dense(p["patch_embedding"], rows.reshape(length // module.patch, -1))
        angles = None
        places = np.arange(len(tokens))[:, None]
        if module.positions == "rope":  # a head has 8 features: the frequencies 10^0, 10^-1, 10^-2 and 10^-3
            angles = np.stack([places * [1, 0.01], places * [0.1, 0.001]], axis=1)
        else:
            turns = places * 10000.0 ** (-np.arange(8) / 8)
            tokens = tokens + np.concatenate([np.sin(turns), np.cos(turns)], axis=1)
        inputs = [condition[name][i] if name in condition else None for name in ("label", "vector")]
        c = silu(embedding(p["condition"], [time[i] for time in times], *inputs))
        for k in range(module.depth):
            tokens = layer(slice_layer(p["blocks"], k), tokens, c, norm, module.mlp, angles)
        out = last(p, tokens, c, norm)
        if module.input_gain:
            offset, gain = np.split(out, 2, axis=1)
            out = offset + gain * x[i].reshape(offset.shape)
        return out.reshape(length, channels)

    compared(module, oracle, x, times if module.times == 2 else t, condition)


@pytest.mark.parametrize("summaries", [0, 3])
@pytest.mark.parametrize("padded", [False, True])
def test_the_transformer_of_sets_reads_only_the_elements_of_a_set(summaries, padded):
    heads = 2
    x, t = drawn(2, 7, 3), np.float32([0.3, 0.7])
    real = np.array([[1, 1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 0, 0, 0]], bool)
    if padded:
        x = np.where(real[..., None], x, np.float32(np.nan))  # what stands in the padding is not read
    norm, mlp = ("rmsnorm", "swiglu") if padded else ("layernorm", "gelu")
    module = SetTransformer(16, 2, heads, summaries, 3, 5, norm=norm, mlp=mlp)
    condition = {"label": np.array([0, 3]), "vector": drawn(2, 5)} | ({"real": real} if padded else {})

    def oracle(p, i):
        there = real[i] if padded else np.full(7, True)
        tokens = dense(p["embedding"], x[i][there])
        c = silu(embedding(p["condition"], [t[i]], condition["label"][i], condition["vector"][i]))
        for k in range(2):
            block = slice_layer(p["blocks"], k)
            if not summaries:
                tokens = layer(block, tokens, c, NORMS[norm], mlp)
                continue
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = np.split(dense(block["modulation"]["dense"], c), 6)
            h = modulate(NORMS[norm](tokens), shift_1, scale_1)
            seeds = block["seeds"]
            read = NORMS[norm](seeds + crossed(block["summary_attention"], seeds, h))
            tokens = tokens + gate_1 * crossed(block["attention"], h, read)
            h = modulate(NORMS[norm](tokens), shift_2, scale_2)
            tokens = tokens + gate_2 * feed_forward(block["mlp"], h, mlp)
        out = np.zeros(x[i].shape)
        out[there] = last(p, tokens, c, NORMS[norm])
        return out

    compared(module, oracle, x, t, condition)


def line(number, size):
    """Angles of positions on a line, [number, 2, size / 4]."""
    turns = np.arange(number)[:, None] * 10000.0 ** (-np.arange(size // 2) / (size // 2))
    return turns.reshape(number, -1, 2).swapaxes(1, 2)


def plane(rows, columns, size):
    """Angles of positions on a grid: the row turns the first half of the features, the column the second."""
    w = 10000.0 ** (-np.arange(size // 4) / (size // 4))
    return np.array([[i * w, j * w] for i in range(rows) for j in range(columns)])


def volume(frames, rows, columns, size):
    """Angles of the three axes, the frame's first; row and column have floor(size / 6) numbers each."""
    side = size // 6
    of_frames = size // 2 - 2 * side
    w, u = (10000.0 ** (-np.arange(number) / number) for number in (of_frames, side))
    angles = [np.concatenate([f * w, i * u, j * u]) for f in range(frames) for i in range(rows) for j in range(columns)]
    return np.reshape(angles, (len(angles), 2, -1))


VIDEOS = {
    "text": {"text_width": 4, "vector_width": 5, "positions": "sincos_rope"},
    "patches of two frames": {"num_classes": 3, "patch_frames": 2, "learn_sigma": True, "positions": "sincos"},
    "full": {"mixing": "full", "norm": "rmsnorm", "mlp": "swiglu", "qk_norm": True, "num_classes": 3},
    "chunks of two frames": {"causal": 2},
}


@pytest.mark.parametrize("form", VIDEOS)
def test_the_transformer_of_videos(form):
    frames, height, side, channels, heads, patch = 4, 4, 6, 2, 2, 2
    module = VideoDiT(patch, 16, 2, heads, **VIDEOS[form])
    x = drawn(2, frames, height, side, channels)
    t = np.linspace(0.1, 0.9, 2 * frames, dtype=np.float32).reshape(2, frames)
    condition = {"label": np.array([3, 1])} if module.num_classes else {}
    condition |= {"vector": drawn(2, 5)} if module.vector_width else {}
    if module.text_width:
        condition |= {"text": drawn(2, 3, 4), "text_mask": np.array([[True, False, True], [True, True, True]])}
    rows, columns, deep = height // patch, side // patch, module.patch_frames
    steps = frames // deep
    norm = NORMS[module.norm]
    shown = {"sincos": None}.get(module.positions, plane(rows, columns, 8))
    outputs = channels * (2 if module.learn_sigma else 1)

    def oracle(p, i):
        tokens = np.zeros((steps, rows * columns, 16))
        for f in range(steps):
            for n in range(rows * columns):
                top, left = n // columns * patch, n % columns * patch
                box = x[i, f * deep : (f + 1) * deep, top : top + patch, left : left + patch]
                tokens[f, n] = dense(p["patch_embedding"], box.transpose(1, 2, 0, 3).reshape(-1))
        if module.positions != "rope":
            tokens = tokens + sincos(rows, columns, 16)
        times = np.array([timestep(p["timestep_embedding"], time) for time in t[i]])
        c = times.reshape(steps, deep, -1).mean(1)
        if module.num_classes:
            c = c + p["label_embedding"]["embedding"][condition["label"][i]]
        if module.vector_width:
            c = c + dense(p["vector_embedding"], condition["vector"][i])
        c = silu(c)
        words = None
        if module.text_width:
            words = dense(p["text_embedding"], condition["text"][i][condition["text_mask"][i]])
        visible = None
        if module.causal:
            chunk = np.arange(steps) // module.causal
            visible = chunk[None] <= chunk[:, None]
        for k in range(2):
            block = slice_layer(p["blocks"], k)
            vectors = np.split(dense(block["modulation"]["dense"], c)[:, None], 6, axis=-1)
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = vectors
            h = modulate(norm(tokens), shift_1, scale_1)
            if module.mixing == "full":
                angles = volume(steps, rows, columns, 8)
                mixed = attended(block["attention"], h.reshape(-1, 16), angles).reshape(tokens.shape)
                tokens = tokens + gate_1 * mixed
            else:
                tokens = tokens + gate_1 * np.array([attended(block["attention"], frame, shown) for frame in h])
                shift, scale, gate = np.split(dense(block["temporal_modulation"]["dense"], c)[:, None], 3, axis=-1)
                h = modulate(norm(tokens), shift, scale)
                along = [
                    attended(block["temporal_attention"], h[:, n], line(steps, 8), visible)
                    for n in range(rows * columns)
                ]
                tokens = tokens + gate * np.stack(along, axis=1)
            if words is not None:
                crossing = crossed(block["cross_attention"], tokens.reshape(-1, 16), words)
                tokens = tokens + crossing.reshape(tokens.shape)
            tokens = tokens + gate_2 * feed_forward(block["mlp"], modulate(norm(tokens), shift_2, scale_2), module.mlp)
        out = np.zeros((frames, height, side, outputs))
        for f in range(steps):
            for n, values in enumerate(last(p, tokens[f], c[f], norm)):
                top, left = n // columns * patch, n % columns * patch
                box = values.reshape(patch, patch, deep, outputs).transpose(2, 0, 1, 3)
                out[f * deep : (f + 1) * deep, top : top + patch, left : left + patch] = box
        return out

    compared(module, oracle, x, t, condition)


def residual_block(p, h, c, groups):
    inner = convolution(p["conv_1"], silu(group_norm(p["norm_1"], h, groups)))
    scale, shift = np.split(dense(p["time"], silu(c)), 2)
    inner = convolution(p["conv_2"], silu(modulate(group_norm(p["norm_2"], inner, groups), shift, scale)))
    return inner + (h @ p["shortcut"]["kernel"][0, 0] + p["shortcut"]["bias"] if "shortcut" in p else h)


def test_the_residual_u_vit():
    groups, size = 2, 8
    widths, blocks = (4, 8, 16), (2, 1)
    module = ResidualUViT(widths, blocks, 2, 2, size, 3, 1, 12, groups)
    x, t, labels = drawn(2, 8, 12, 3), np.float32([0.3, 0.7]), np.array([3, 1])

    def layers(p, h, c, number):
        rows, columns, width = h.shape
        tokens = h.reshape(rows * columns, width)
        for k in range(number):
            angles = plane(rows, columns, size)
            tokens = layer(slice_layer(p, k), tokens, silu(c), layernorm, "gelu", angles)
        return tokens.reshape(h.shape)

    def level(p, h, c, k, way):
        if k == 1:  # the two coarsest levels are those of transformers
            return layers(p[f"{way}_1_layers"], h, c, blocks[1])
        for i in range(blocks[0]):
            h = residual_block(p[f"{way}_0_block_{i}"], h, c, groups)
        return h

    def oracle(p, i):
        c = embedding(p, [t[i]], labels[i])
        high_0 = level(p, dense(p["patch_embedding"], x[i]), c, 0, "down")
        halved = lambda h: (h[::2, ::2] + h[1::2, ::2] + h[::2, 1::2] + h[1::2, 1::2]) / 4
        doubled = lambda h: h.repeat(2, 0).repeat(2, 1)
        low_0 = halved(dense(p["down_0_dense"], high_0))
        high_1 = level(p, low_0, c, 1, "down")
        low_1 = halved(dense(p["down_1_dense"], high_1))
        h = layers(p["middle_layers"], low_1, c, 2)
        h = level(p, high_1 + doubled(dense(p["up_1_dense"], h - low_1)), c, 1, "up")
        h = level(p, high_0 + doubled(dense(p["up_0_dense"], h - low_0)), c, 0, "up")
        return last(p, h.reshape(-1, widths[0]), silu(c), layernorm).reshape(x[i].shape)

    compared(module, oracle, x, t, labels)
