"""AuraFlow's transformer, written out in numpy by the equations of its authors' code: one layer of each kind."""

from typing import Any

import jax
import numpy as np
import pytest

from diffusion.published.auraflow import AuraFlow, pipeline
from diffusion.published.auraflow.network import AuraFlowBlock
from diffusion.text.encoding import Embeddings

NET = AuraFlow(3, 2, 8, 1, 1, 2, 5, 5)
SMALL = ("patch_embedding", "positions", "registers", "text_embedding", "qkv")  # so small that a norm's epsilon is seen
ROWS, COLUMNS = 2, 3
RNG = np.random.default_rng(0)
X, TEXT = RNG.normal(size=(1, 4, 6, 3)).astype(np.float32), RNG.normal(size=(1, 4, 5)).astype(np.float32)
T = np.float32([0.37])


def parameters():
    def leaf(path, shape):
        small = any(part.key in SMALL for part in path)
        return (RNG.normal(size=shape.shape) * (0.003 if small else 0.7)).astype(np.float32)

    shapes = jax.eval_shape(NET.init, jax.random.key(0), X, T, {"text": TEXT})["params"]
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def heads(p, x, c):
    """Queries and keys, normalised, and values [N, H, S], and the six vectors of a stream."""
    vectors = np.einsum("d,dkw->kw", c, p["modulation"]["dense"]["kernel"])
    read = norm(x) * (1 + vectors[1]) + vectors[0]
    q, k, v = np.einsum("nd,dphs->pnhs", read, p["attention"]["qkv"]["kernel"])
    return (norm(q), norm(k), v), vectors


def attention(q, k, v):
    scores = np.einsum("nhs,mhs->hnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hnm,mhs->nhs", weights / weights.sum(-1, keepdims=True), v)


def left(p, x, mixed, vectors):
    """The attention's output goes into the MLP, and into nothing else."""
    attended = x + vectors[2] * np.einsum("nhs,hsd->nd", mixed, p["attention"]["out"]["kernel"])
    gate, linear = np.einsum(
        "nd,dkh->knh", norm(attended) * (1 + vectors[4]) + vectors[3], p["mlp"]["hidden"]["kernel"]
    )
    return x + vectors[5] * ((silu(gate) * linear) @ p["mlp"]["out"]["kernel"])


def written_out(p):
    dense = lambda p, x: x @ p["kernel"] + p.get("bias", 0)
    frequencies = 10000.0 ** (-np.arange(128) / 128)
    angles = 1000 * np.float64(T[0]) * frequencies
    wave = np.concatenate([np.cos(angles), np.sin(angles)])
    c = silu(dense(p["time"]["out"], silu(dense(p["time"]["hidden"], wave))))
    patches = [X[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].reshape(-1) for i in range(ROWS) for j in range(COLUMNS)]
    image = dense(p["patch_embedding"], np.float64(patches))
    image = image + p["positions"][1:3, 1:4].reshape(-1, 8)  # 5 // 2 - side // 2 is 1 for both sides
    text = np.concatenate([p["registers"], dense(p["text_embedding"], np.float64(TEXT[0]))])

    joint = jax.tree.map(lambda leaf: np.float64(leaf[0]), p["blocks"])
    parts = [heads(joint[name], x, c) for name, x in (("text", text), ("image", image))]
    mixed = attention(*(np.concatenate(pair) for pair in zip(parts[0][0], parts[1][0])))
    text, image = (
        left(joint["text"], text, mixed[: len(text)], parts[0][1]),
        left(joint["image"], image, mixed[len(text) :], parts[1][1]),
    )
    single = jax.tree.map(lambda leaf: np.float64(leaf[0]), p["single_blocks"])["tokens"]
    tokens = np.concatenate([text, image])
    of_heads, vectors = heads(single, tokens, c)
    image = left(single, tokens, attention(*of_heads), vectors)[len(text) :]
    shift, scale = np.einsum("d,dkw->kw", c, p["final_modulation"]["dense"]["kernel"])
    pixels = dense(p["final"], image * (1 + scale) + shift).reshape(ROWS, COLUMNS, 2, 2, 3)
    return pixels.transpose(0, 2, 1, 3, 4).reshape(1, 4, 6, 3)


@pytest.mark.extended
def test_the_network_is_its_equations():
    params = parameters()
    found = jax.jit(lambda params: NET.apply({"params": params}, X, T, {"text": TEXT}))(params)
    expected = written_out(params)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5 * np.abs(expected).max())


def test_a_layer_tells_what_its_attention_reads_of_the_picture():
    """Which a cache compares from step to step."""
    block = AuraFlowBlock(("tokens",), 4, 2, "auto", "float32")
    tokens, c = np.float32(RNG.normal(size=(1, 6, 8))), np.float32(RNG.normal(size=(1, 8)))
    kernel = np.float32(RNG.normal(size=(8, 6, 8)))
    params = {"tokens": {"modulation": {"dense": {"kernel": kernel}}}}
    read, _ = block.apply({"params": params}, (tokens,), c, entering=True)
    shift, scale = np.einsum("d,dkw->kw", c[0], kernel[:, :2])
    np.testing.assert_allclose(read[0], norm(tokens[0, 2:]) * (1 + scale) + shift, rtol=1e-4, atol=1e-5)


def test_the_network_reads_zeros_in_place_of_the_padding(monkeypatch):
    tokens, mask = np.full((1, 3, 2), 7.0), np.array([[False, True, True]])
    encoder: Any = None
    encoded = {(("a cat",), encoder): Embeddings(tokens, mask, None)}
    monkeypatch.setattr(pipeline, "encode", lambda *arguments: encoded[arguments])
    np.testing.assert_array_equal(pipeline.auraflow(("a cat",), encoder)["text"], [[[0, 0], [7, 7], [7, 7]]])


def test_a_picture_larger_than_the_table_of_positions_is_refused():
    init = lambda width: jax.eval_shape(
        NET.init, jax.random.key(0), np.zeros((1, 4, width, 3), np.float32), T, {"text": TEXT}
    )
    init(10)
    with pytest.raises(ValueError, match="latents of 4 x 12 need more patches of 2 on a side than the table of pos"):
        init(12)
    with pytest.raises(ValueError, match="heads=3 does not divide width=8"):
        NET.clone(heads=3)
