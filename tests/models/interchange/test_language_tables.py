"""LLaDA's and Dream's files: made weights by their names, against transformers and their architecture in float64."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion import discrete, timesteps
from diffusion.models.interchange import Mismatch, language_tables
from diffusion.models.interchange.family import Refusal
from tests.models.interchange import published

SIZE, WIDTH, DEPTH, HEADS, KEY_HEADS, HIDDEN, MASK = 11, 16, 2, 4, 2, 12, 7
LLADA = {
    "architectures": ["LLaDAModelLM"], "model_type": "llada", "vocab_size": SIZE, "embedding_size": SIZE,
    "d_model": WIDTH, "n_layers": DEPTH, "n_heads": HEADS, "n_kv_heads": KEY_HEADS, "mlp_hidden_size": HIDDEN,
    "rms_norm_eps": 1e-5, "rope": True, "rope_theta": 500000.0, "weight_tying": False, "block_type": "llama",
    "layer_norm_type": "rms", "activation_type": "silu", "alibi": False, "attention_layer_norm": False,
    "include_bias": False, "include_qkv_bias": False, "mask_token_id": MASK, "max_sequence_length": 4096,
    "flash_attention": False, "input_emb_norm": False, "scale_logits": False, "init_device": "meta",
    "attention_dropout": 0.0, "embedding_dropout": 0.0, "residual_dropout": 0.0, "bias_for_layer_norm": False,
}  # fmt: skip
DREAM = {
    "architectures": ["DreamModel"], "model_type": "Dream", "vocab_size": SIZE, "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS,
    "intermediate_size": HIDDEN, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
    "tie_word_embeddings": False, "mask_token_id": MASK, "max_position_embeddings": 131072, "rope_scaling": None,
    "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28, "attention_dropout": 0.0,
}  # fmt: skip
NAMES = {  # of our words: (the prefix of a layer, the names of its parts, those of the rest, whether it has biases)
    "llada": ("model.transformer.blocks.", ("attn_norm", "ff_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_proj",
                                            "up_proj", "ff_out"),
              ("model.transformer.wte", "model.transformer.ln_f", "model.transformer.ff_out"), False),
    "dream": ("model.layers.", ("input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj",
                                "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
                                "mlp.down_proj"),
              ("model.embed_tokens", "model.norm", "lm_head"), True),
}  # fmt: skip
CONFIGS = {"llada": LLADA, "dream": DREAM}


def weights(kind):
    rng = np.random.default_rng(0)
    made = lambda *shape: rng.normal(0, 0.4, shape).astype(np.float32)
    prefix, parts, (table, norm, head), biased = NAMES[kind]
    keys = KEY_HEADS * WIDTH // HEADS
    shapes = dict(zip(parts, [(WIDTH,), (WIDTH,), (WIDTH, WIDTH), (keys, WIDTH), (keys, WIDTH), (WIDTH, WIDTH),
                              (HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN)]))  # fmt: skip
    state = {f"{table}.weight": made(SIZE, WIDTH), f"{norm}.weight": made(WIDTH), f"{head}.weight": made(SIZE, WIDTH)}
    for i in range(DEPTH):
        state |= {f"{prefix}{i}.{name}.weight": made(*shape) for name, shape in shapes.items()}
        state |= {f"{prefix}{i}.{name}.bias": made(shapes[name][0]) for name in parts[2:5] if biased}
    return state


def theirs(kind, state, ids):
    """One text through their architecture: ids [L] -> logits [L, K]."""
    w = {name: np.asarray(array, np.float64) for name, array in state.items()}
    prefix, parts, (table, norm_name, head), _ = NAMES[kind]
    config = CONFIGS[kind]
    linear = lambda name, x: x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)
    norm = lambda name, x: x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * w[f"{name}.weight"]
    x, length, size = w[f"{table}.weight"][ids], len(ids), WIDTH // HEADS
    angles = np.outer(np.arange(length), config["rope_theta"] ** (-np.arange(0, size, 2) / size))
    cos, sin = (np.tile(part, 2)[:, None] for part in (np.cos(angles), np.sin(angles)))

    def turned(q):
        a, b = np.split(q, 2, -1)
        return q * cos + np.concatenate([-b, a], -1) * sin

    for i in range(DEPTH):
        norm_1, norm_2, q, k, v, out, gate, up, down = (f"{prefix}{i}.{name}" for name in parts)
        read = norm(norm_1, x)
        q, k, v = (linear(name, read).reshape(length, -1, size) for name in (q, k, v))
        k, v = (np.repeat(a, HEADS // KEY_HEADS, 1) for a in (turned(k), v))
        scores = np.einsum("qhd,khd->hqk", turned(q), k) / np.sqrt(size)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)  # a token sees all the others
        x = x + linear(out, np.einsum("hqk,khd->qhd", shares, v).reshape(length, WIDTH))
        read = norm(norm_2, x)
        gated = linear(gate, read)
        x = x + linear(down, gated / (1 + np.exp(-gated)) * linear(up, read))
    logits = linear(head, norm(norm_name, x))
    return np.concatenate([logits[:1], logits[:-1]]) if kind == "dream" else logits  # `_sample` of Dream's code


def folder(path, kind, **changes):
    save_file(weights(kind), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(CONFIGS[kind] | changes))
    return path


@pytest.mark.extended
@pytest.mark.parametrize("kind", NAMES)
def test_a_folder_gives_the_outputs_of_their_architecture(tmp_path, kind):
    model = language_tables.load(folder(tmp_path, kind))
    assert model.mask == MASK and model.network.shifted == (kind == "dream")
    ids = np.array([[0, 7, 3, 3, 10], [7, 7, 2, 0, 4]])
    found = model.network.apply(model.variables, jnp.asarray(ids), jnp.zeros(2), None)
    for i in range(2):
        expected = theirs(kind, weights(kind), ids[i])
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.extended
@pytest.mark.parametrize("kind", NAMES)
def test_a_folder_gives_the_logits_of_the_decoder_of_transformers_in_which_all_tokens_see_each_other(tmp_path, kind):
    """Llama under LLaDA's names, and Qwen 2.5, whose logits Dream reads one token later (tests/peers/families)."""
    peer = published.case(kind)
    sizes = {"vocab_size": "vocab_size", "embedding_size": "vocab_size", "d_model": "hidden_size",
             "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads",
             "mlp_hidden_size": "intermediate_size", "hidden_size": "hidden_size",
             "num_hidden_layers": "num_hidden_layers", "num_attention_heads": "num_attention_heads",
             "num_key_value_heads": "num_key_value_heads", "intermediate_size": "intermediate_size"}  # fmt: skip
    config = CONFIGS[kind] | {ours: peer.config[theirs] for ours, theirs in sizes.items() if ours in CONFIGS[kind]}
    assert config["rms_norm_eps"] == peer.config["rms_norm_eps"]
    assert config["rope_theta"] == peer.config["rope_parameters"]["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = peer.tensors()
    save_file({peer.same.get(name, name): array for name, array in tensors.items()}, tmp_path / "model.safetensors")
    model = language_tables.load(tmp_path)
    found = np.asarray(model.network.apply(model.variables, jnp.asarray(peer.inputs["ids"])))
    expected = peer.outputs["logits"]
    if kind == "dream":
        expected = np.concatenate([expected[:, :1], expected[:, :-1]], 1)
    assert expected.std() > 0.3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.extended
def test_a_prompt_is_continued_block_after_block(tmp_path):
    """The mask is not the last symbol; the likeliest of all is filled in first, as LLaDA's code does without noise."""
    model = language_tables.load(folder(tmp_path, "llada"))
    process = discrete.absorbing(discrete.linear(), SIZE, model.mask)
    network = lambda x, t, c: model.network.apply(model.variables, x, t, c)
    predict = discrete.predictor(network, process, discrete.from_logits)
    greedy = lambda x, t: discrete.top_k(predict(x, t), 1)
    start = jnp.array([[1, 4, MASK, MASK, MASK, MASK]])
    choose = discrete.blockwise(discrete.surest(1), 2)
    keys, plan = jax.random.split(jax.random.key(0), 1), timesteps.plan(np.linspace(1, 0.2, 5))
    found = discrete.sample(discrete.unmasking(choose), greedy, process, start, plan, keys)

    text = np.array([1, 4, MASK, MASK, MASK, MASK])
    for _ in range(4):
        logits = theirs("llada", weights("llada"), text)
        logits[:, MASK] = -np.inf
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        masked = np.flatnonzero(text == MASK)
        block = masked[masked // 2 == masked[0] // 2]
        where = block[np.argmax(p[block].max(-1))]
        text[where] = p[where].argmax()
    np.testing.assert_array_equal(found[0], text)


def test_another_config_or_another_tensor_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"alibi"):
        language_tables.load(folder(tmp_path, "llada", alibi=True))
    with pytest.raises(
        Refusal, match=r"config.json: mask_token_id = 11. Valid: a whole number, at least 0 and at most 10"
    ):
        language_tables.load(folder(tmp_path, "llada", mask_token_id=SIZE))
    with pytest.raises(Refusal, match=r"mask_token_id = True\. Valid"):
        language_tables.load(folder(tmp_path, "llada", mask_token_id=True))
    for architectures in ({"a": 1}, [["LLaDAModelLM"]]):
        with pytest.raises((Mismatch, Refusal), match=r"config\.json"):
            language_tables.load(folder(tmp_path, "llada", architectures=architectures))
    with pytest.raises(Refusal, match=r"'LlamaModel', and not of LLaDAModelLM or DreamModel"):
        language_tables.load(folder(tmp_path, "llada", architectures=["LlamaForCausalLM"]))
    with pytest.raises(Mismatch, match=r"self_attn\.q_proj\.bias"):
        path = folder(tmp_path, "dream")
        state = weights("dream")
        del state["model.layers.1.self_attn.q_proj.bias"]
        save_file(state, path / "model.safetensors")
        language_tables.load(path)
    model = language_tables.load(folder(tmp_path, "dream"))
    with pytest.raises(ValueError, match="takes no condition; write a prompt into known positions"):
        model.network.apply(model.variables, jnp.zeros((1, 3), int), None, jnp.zeros(1, int))


@pytest.mark.extended
def test_a_tied_head_is_the_table(tmp_path):
    state = weights("llada")
    tied = {name: array for name, array in state.items() if name != "model.transformer.ff_out.weight"}
    path = folder(tmp_path, "llada", weight_tying=True)
    save_file(tied, path / "model.safetensors")
    model = language_tables.load(path)
    ids = np.array([2, 7, 9])
    state["model.transformer.ff_out.weight"] = state["model.transformer.wte.weight"]
    expected = theirs("llada", state, ids)
    found = model.network.apply(model.variables, jnp.asarray(ids)[None], None, None)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
