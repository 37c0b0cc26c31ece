"""HiDream-I1's layers, and what is before and behind them, written out in numpy."""

import jax
import numpy as np

from diffusion.models.layers.rotary import axis_angles
from diffusion.published.hidream.network import HiDream, HiDreamBlock
from tests.published.equations import (
    applied,
    attention,
    close,
    conditioning,
    dense,
    normal,
    normalised,
    out_of_heads,
    patches,
    rms,
    swiglu,
    turned,
    without_layers,
)


def heads(p, name, x):
    """Queries or keys, normalised over the features of all heads together."""
    projected = dense(p["attention"]["qkv"], x)[:, "qk".index(name[0])]
    return p[name]["scale"] * rms(projected.reshape(len(x), -1), 1e-5).reshape(projected.shape)


def mlp(p, x, active):
    if "router" not in p:
        return swiglu(p, x)
    scores = np.exp(dense(p["router"], x))
    scores /= scores.sum(-1, keepdims=True)
    out = swiglu(p["shared"], x)
    for token, row in enumerate(scores):
        for expert in np.argsort(row)[-active:]:
            out[token] += row[expert] * swiglu(
                jax.tree.map(lambda leaf, e=expert: leaf[e], p["experts"]["mlp"]), x[token]
            )
    return out


def after_layer(p, streams, c, angles, copies, padding, active):
    """The tokens of each stream, text first; the key of token `padding` is zero, and stands `copies` times."""
    vectors = {name: dense(p[name]["modulation"]["dense"], c) for name in streams}
    read = {name: normalised(x, 1e-6) * (1 + vectors[name][1]) + vectors[name][0] for name, x in streams.items()}
    joined = lambda part: np.concatenate([part(p[name], x) for name, x in read.items()])
    q = turned(joined(lambda p, x: heads(p, "query_norm", x)), angles)
    k = turned(joined(lambda p, x: heads(p, "key_norm", x)), angles)
    v = joined(lambda p, x: dense(p["attention"]["qkv"], x)[:, 2])
    if copies:
        k[padding] = 0
        k, v = (np.concatenate([a, np.repeat(a[padding : padding + 1], copies - 1, axis=0)]) for a in (k, v))
    mixed, end, left = attention(q, k, v), 0, {}
    for name, x in streams.items():
        start, end = end, end + len(x)
        _, _, gate_a, shift, scale, gate_m = vectors[name]
        x = x + gate_a * out_of_heads(p[name]["attention"]["out"], mixed[start:end])
        left[name] = x + gate_m * mlp(p[name]["mlp"], normalised(x, 1e-6) * (1 + scale) + shift, active)
    return left


def test_a_joint_layer_is_its_equations():
    """A token for three of padding stands before four of the picture, and a text of the layer before the text."""
    block = HiDreamBlock(("image", "text"), 4, 3, 2, 3, 2, "auto", "float32")
    image, text, own, c, angles = normal(2, 5, 8), normal(2, 3, 8), normal(2, 2, 8), normal(2, 8), normal(10, 2)
    p, ((image_after, text_after), _) = applied(block, (image, text), c, angles, own)
    for b in range(2):
        streams = {"text": np.float64(np.concatenate([own[b], text[b]])), "image": np.float64(image[b])}
        expected = after_layer(p, streams, np.float64(c[b]), angles, 3, 5, 2)
        close(image_after[b], expected["image"])
        close(text_after[b], expected["text"][2:])
        shift, scale, *_ = dense(p["image"]["modulation"]["dense"], np.float64(c[b]))
        entered = block.apply({"params": p}, (image, text), c, angles, own, entering=True)[0]
        close(entered[b], (normalised(np.float64(image[b]), 1e-6) * (1 + scale) + shift)[1:])


def test_before_and_behind_its_layers_the_network_is_its_equations():
    """Layers 0 and 1 are joint and layer 2 is single; they read the states 1, 3 and 1 of Llama."""
    net = HiDream(3, 2, 12, 2, 1, 2, 2, 1, 4, 5, (1, 3, 1), 7, (2, 2, 2), (6, 6))
    x, t, text, pooled = normal(2, 4, 6, 3), np.float32([300, 800]), normal(2, 3, 14), normal(2, 7)
    p, found, received = without_layers(net, x, t, {"text": text, "pooled": pooled})
    ((image, words), joint), (_, single) = received
    places = [(0, 0, 0)] * 10 + [(0, row, column) for row in range(2) for column in range(3)]
    for c, angles, _ in (joint, single):
        close(angles, axis_angles(np.array(places), (2, 2, 2)))
        np.testing.assert_array_equal(c, joint[0])
    for b in range(2):
        read = np.float64(text[b])
        states = [read[:, 4:9], read[:, 9:], read[:, 4:9]]  # of the layers 1, 3, 1
        llama = np.array([state @ kernel for state, kernel in zip(states, p["llama_embeddings"]["kernel"])])
        close(np.concatenate([joint[2], single[2]])[:, b], llama)
        close(words[b], np.concatenate([dense(p["t5_embedding"], read[:, :4]), llama[2]]))
        parts = patches(np.float64(x[b]))
        picture = dense(p["patch_embedding"], parts)
        close(image[b], np.concatenate([p["patch_embedding"]["bias"][None], picture]))  # a patch of zeros is padding
        c = conditioning(p["conditioning"], t[b], np.float64(pooled[b]))
        close(joint[0][b], c)
        shift, scale = dense(p["final_modulation"]["dense"], c)
        close(patches(found[b]), -dense(p["final"], normalised(picture, 1e-6) * (1 + scale) + shift))
