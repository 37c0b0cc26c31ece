"""MDLM's and SEDD's files: made weights by their names, against d3-dna and their architecture in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion import discrete
from diffusion.models.interchange import Mismatch, symbol_tables
from diffusion.models.symbol_transformer import SymbolTransformer
from tests.drawn_parameters import drawn
from tests.models.interchange import published

SIZE, WIDTH, DEPTH, HEADS, CONDITION = 7, 16, 2, 2, 5


def weights():
    """The state dict of `DIT` (models/dit.py of MDLM) and of `SEDD` (model/transformer.py), of random numbers."""
    rng = np.random.default_rng(0)
    made = lambda *shape: rng.normal(0, 0.4, shape).astype(np.float32)
    state = {
        "vocab_embed.embedding": made(SIZE, WIDTH),
        "sigma_map.mlp.0.weight": made(CONDITION, 256),
        "sigma_map.mlp.0.bias": made(CONDITION),
        "sigma_map.mlp.2.weight": made(CONDITION, CONDITION),
        "sigma_map.mlp.2.bias": made(CONDITION),
        "output_layer.norm_final.weight": made(WIDTH),
        "output_layer.linear.weight": made(SIZE, WIDTH),
        "output_layer.linear.bias": made(SIZE),
        "output_layer.adaLN_modulation.weight": made(2 * WIDTH, CONDITION),
        "output_layer.adaLN_modulation.bias": made(2 * WIDTH),
    }
    for i in range(DEPTH):
        state |= {
            f"blocks.{i}.norm1.weight": made(WIDTH),
            f"blocks.{i}.attn_qkv.weight": made(3 * WIDTH, WIDTH),
            f"blocks.{i}.attn_out.weight": made(WIDTH, WIDTH),
            f"blocks.{i}.norm2.weight": made(WIDTH),
            f"blocks.{i}.mlp.0.weight": made(4 * WIDTH, WIDTH),
            f"blocks.{i}.mlp.0.bias": made(4 * WIDTH),
            f"blocks.{i}.mlp.2.weight": made(WIDTH, 4 * WIDTH),
            f"blocks.{i}.mlp.2.bias": made(WIDTH),
            f"blocks.{i}.adaLN_modulation.weight": made(6 * WIDTH, CONDITION),
            f"blocks.{i}.adaLN_modulation.bias": made(6 * WIDTH),
        }
    return state


def theirs(state, ids, sigma):
    """One example through their architecture: ids [L], sigma a number -> [L, K], without the scaling of SEDD."""
    w = {name: np.asarray(array, np.float64) for name, array in state.items()}
    linear = lambda name, x: x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)
    silu = lambda x: x / (1 + np.exp(-x))
    gelu = lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def norm(name, x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"]

    frequencies = np.exp(-np.log(10000) * np.arange(128) / 128)
    embedded = np.concatenate([np.cos(sigma * frequencies), np.sin(sigma * frequencies)])
    c = silu(linear("sigma_map.mlp.2", silu(linear("sigma_map.mlp.0", embedded))))
    x = w["vocab_embed.embedding"][ids]
    length, size = len(ids), WIDTH // HEADS
    angles = np.outer(np.arange(length), 1 / 10000 ** (np.arange(0, size, 2) / size))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def turned(q):  # features a of the first half and b of the second: a cos - b sin, b cos + a sin
        a, b = q[..., : size // 2], q[..., size // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    for i in range(DEPTH):
        block = f"blocks.{i}"
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = np.split(linear(f"{block}.adaLN_modulation", c), 6)
        read = norm(f"{block}.norm1", x) * (1 + scale_a) + shift_a
        q, k, v = np.moveaxis(linear(f"{block}.attn_qkv", read).reshape(length, 3, HEADS, size), 1, 0)
        scores = np.einsum("qhd,khd->hqk", turned(q), turned(k)) / np.sqrt(size)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        attended = np.einsum("hqk,khd->qhd", shares, v).reshape(length, WIDTH)
        x = x + gate_a * linear(f"{block}.attn_out", attended)
        read = norm(f"{block}.norm2", x) * (1 + scale_m) + shift_m
        x = x + gate_m * linear(f"{block}.mlp.2", gelu(linear(f"{block}.mlp.0", read)))
    shift, scale = np.split(linear("output_layer.adaLN_modulation", c), 2)
    return linear("output_layer.linear", norm("output_layer.norm_final", x) * (1 + scale) + shift)


@pytest.mark.extended
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_file_gives_the_outputs_of_their_architecture(tmp_path, prefix):
    state = weights()
    buffers = {"rotary_emb.inv_freq": np.ones(4, np.float32)}
    stored = {prefix + name: array for name, array in (state | buffers).items()}
    save_file(stored, tmp_path / "mdlm.safetensors")
    module, variables = symbol_tables.load(tmp_path / "mdlm.safetensors", heads=HEADS)
    assert (module.size, module.width, module.depth, module.heads) == (SIZE, WIDTH, DEPTH, HEADS)
    assert module.condition_width == CONDITION and module.mlp_ratio == 4
    ids = np.array([[0, 6, 3, 3, 1], [5, 5, 2, 0, 4]])
    sigma = np.array([0.0, 2.5], np.float32)
    found = jax.jit(module.apply)(variables, jnp.asarray(ids), jnp.asarray(sigma), None)
    for i in range(2):
        expected = theirs(state, ids[i], float(sigma[i]))
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.extended
def test_a_file_gives_the_outputs_of_the_layers_of_sedd_that_a_package_has(tmp_path):
    """d3-dna's copy of the authors' layers (tests/peers/families/sedd.py), which puts out 0 at the symbol of x_t."""
    peer = published.case("sedd")
    save_file(peer.tensors(), tmp_path / "model.safetensors")
    module, variables = symbol_tables.load(tmp_path, heads=peer.config["heads"])
    ids = peer.inputs["ids"]
    found = np.array(module.apply(variables, jnp.asarray(ids, jnp.int32), jnp.asarray(peer.inputs["sigma"]), None))
    np.put_along_axis(found, ids[..., None], 0.0, -1)
    assert peer.outputs["output"].std() > 0.3
    np.testing.assert_allclose(found, peer.outputs["output"], rtol=0, atol=1e-5)


@pytest.mark.extended
def test_what_is_written_is_read_again(tmp_path):
    module = SymbolTransformer(SIZE, 64, 1, 1, condition_width=4)
    params = drawn(module.init, jnp.zeros((1, 3), jnp.int32), jnp.zeros(1))["params"]
    symbol_tables.save(tmp_path, module, params)
    again, variables = symbol_tables.load(tmp_path / "model.safetensors")
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, variables["params"], params)


def test_another_network_is_refused(tmp_path):
    save_file({"weight": np.zeros((2, 2), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(Mismatch, match=r"is not a network of MDLM or SEDD: it has no matrix vocab_embed\.embedding"):
        symbol_tables.load(tmp_path / "a.safetensors")
    state = weights() | {"extra.weight": np.zeros(3, np.float32)}
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(Mismatch, match=r"extra\.weight"):
        symbol_tables.load(tmp_path / "b.safetensors", heads=HEADS)


def test_a_scaled_score_of_zeros_is_that_of_equally_likely_symbols():
    """SEDD: log p_t(y) / p_t(mask) = log(alpha / (1 - alpha)) + log p(y), with p(y) = 1 / (K - 1)."""
    process = discrete.absorbing(discrete.polynomial(2.0), 5)
    x, t = jnp.array([[4, 2]]), jnp.array([0.3])
    found = np.exp(discrete.from_scaled_ratios(process, jnp.zeros((1, 2, 5)), x, t))[0]
    np.testing.assert_allclose(found, [[0.25] * 4 + [0], [0, 0, 1, 0, 0]], atol=1e-6)
    logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4, 1.0]) * 4)
    found = np.exp(discrete.from_scaled_ratios(process, jnp.broadcast_to(logits, (1, 2, 5)), x, t))[0]
    np.testing.assert_allclose(found[0], [0.1, 0.2, 0.3, 0.4, 0], atol=1e-6)
    half = np.exp(discrete.from_scaled_ratios(process, jnp.broadcast_to(logits - jnp.log(2), (1, 2, 5)), x, t))[0]
    np.testing.assert_allclose(half[0], [0.05, 0.1, 0.15, 0.2, 0.5], atol=1e-6)  # the rest of 1 is the mask's
    with pytest.raises(ValueError, match="from_scaled_ratios: the process has no mask"):
        discrete.from_scaled_ratios(discrete.uniform(discrete.linear(), 5), jnp.zeros((1, 2, 5)), x, t)
