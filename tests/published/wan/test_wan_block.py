"""Wan's layer, written out in numpy."""

import numpy as np
import pytest

from diffusion.published.wan.network import WanBlock
from tests.models.dit_oracle import gelu
from tests.published.equations import applied, attention, close, dense, normal, normalised, out_of_heads, rms, turned

NORMS = {"query": "query_norm", "key": "key_norm", "picture_key": "picture_norm"}


def wide(p, name, source, angles=None):
    """Queries or keys, normalised over all heads together; `angles` are the same for each head."""
    projected = dense(p[name], source)
    flat = rms(projected.reshape(len(source), -1), 1e-6)
    heads = flat.reshape(projected.shape) * p[NORMS[name]]["scale"]
    return heads if angles is None else turned(heads, angles)


@pytest.mark.parametrize("text_norm", [True, False])
def test_a_layer_is_its_equations(text_norm):
    """Two frames of three tokens have other vectors; pictures have keys of their own, and a hint comes last."""
    x, c, angles, text = normal(2, 6, 8), normal(2, 2, 6, 8), normal(6, 2), normal(2, 3, 8)
    pictures, hints = normal(2, 4, 8), normal(3, 2, 6, 8)
    block = WanBlock(2, 5, text_norm, "auto", "float32")
    p, (found, _) = applied(block, x, c, angles, text, pictures, hints, np.int32(1))
    for b in range(2):
        vectors = np.repeat(np.float64(c[b]) + p["table"], 3, axis=0)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors.swapaxes(0, 1)
        h, words, seen = (np.float64(a[b]) for a in (x, text, pictures))
        read, heads = normalised(h, 1e-6) * (1 + scale_a) + shift_a, p["attention"]
        entered = block.apply({"params": p}, x, c, angles, text, pictures, entering=True)[0]
        close(entered[b], read)
        q, k = wide(heads, "query", read, angles), wide(heads, "key", read, angles)
        h = h + gate_a * out_of_heads(heads["out"], attention(q, k, dense(heads["value"], read)))
        read, heads = h, p["cross_attention"]
        if text_norm:
            read = normalised(h, 1e-6) * p["text_norm"]["scale"] + p["text_norm"]["bias"]
        q = wide(heads, "query", read)
        mixed = attention(q, wide(heads, "key", words), dense(heads["value"], words))
        mixed = mixed + attention(q, wide(heads, "picture_key", seen), dense(heads["picture_value"], seen))
        h = h + out_of_heads(heads["out"], mixed)
        hidden = gelu(dense(p["mlp_hidden"], normalised(h, 1e-6) * (1 + scale_m) + shift_m))
        close(found[b], h + gate_m * dense(p["mlp_out"], hidden) + hints[1, b])
