"""ChatGLM's layers written out in numpy by the equations of its authors' code, and its names, fields and vocabulary."""

import json
import shutil

import jax
import numpy as np
import pytest

from diffusion import text
from diffusion.io import limits
from diffusion.models.interchange import Refusal
from diffusion.published.kolors import ChatGLM, pipeline, table
from diffusion.text.encoding import Embeddings
from tests.text.vocabularies import FIXTURES

NET = ChatGLM(11, 8, 2, 2, 1, 8, 6)
RNG = np.random.default_rng(0)
IDS, MASK = np.array([[4, 2, 7, 1, 9]], np.int32), np.array([[False, False, True, True, True]])
POSITIONS = [0, 0, 0, 1, 2]  # padding stands where the text begins


def parameters():
    shapes = jax.eval_shape(NET.init, jax.random.key(0), IDS)["params"]
    return jax.tree.map(lambda shape: RNG.normal(size=shape.shape).astype(np.float32), shapes)


def norm(p, x):
    return p["scale"] * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def turned(x):
    """The pairs (j, j + 4) of a head of 8 features: the first two turn, by 1 and 1 / 100 a token."""
    a, b = x[..., :4], x[..., 4:]
    angles = np.array(POSITIONS)[:, None, None] * np.array([1, 0.01, 0, 0])
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)], -1)


def layer(p, x):
    read = norm(p["norm_1"], x)
    project = lambda name: np.einsum("nd,dhs->nhs", read, p["attention"][name]["kernel"]) + p["attention"][name]["bias"]
    q, k, v = turned(project("query")), turned(project("key")), project("value")
    scores = np.einsum("nhs,ms->hnm", q, k[:, 0]) / np.sqrt(8)
    seen = np.tril(np.ones((5, 5), bool)) & MASK[0]
    scores = np.where(seen | ~MASK[0][:, None], scores, -np.inf)  # padding sees all
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("hnm,ms->nhs", weights, v[:, 0])
    x = x + np.einsum("nhs,hsd->nd", mixed, p["attention"]["out"]["kernel"])
    gate, linear = np.einsum("nd,dkh->knh", norm(p["norm_2"], x), p["mlp"]["hidden"]["kernel"])
    return x + (gate / (1 + np.exp(-gate)) * linear) @ p["mlp"]["out"]["kernel"]


@pytest.mark.extended
def test_the_states_are_those_of_its_equations():
    params = parameters()
    exact = jax.tree.map(np.float64, params)
    first = layer(jax.tree.map(lambda leaf: leaf[0], exact["layers"]), exact["tokens"]["embedding"][IDS[0]])
    last = layer(jax.tree.map(lambda leaf: leaf[1], exact["layers"]), first)
    read = lambda skip, norm: NET.apply({"params": params}, IDS, MASK, skip=skip, norm=norm)
    (before, pooled), (final, _) = jax.jit(lambda: (read(1, False), read(0, True)))()
    for found, expected in ((before[0], first), (pooled[0], last[-1]), (final[0], norm(exact["final_norm"], last))):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_neighbouring_features_of_their_heads_are_half_a_head_apart_here():
    rows = {(row.theirs, row.rows): row for row in table.rows(NET)}
    query, key, value = (rows["encoder.layers.0.self_attention.query_key_value.weight", at]
                         for at in ((0, 16), (16, 24), (24, 32)))  # fmt: skip
    theirs = np.arange(16 * 3).reshape(16, 3)
    ours = query.layout.to_ours(theirs, (3, 2, 8))
    for head in (0, 1):  # the pairs (0, 1) and (2, 3) turn, and the rest does not
        np.testing.assert_array_equal(ours[:, head, [0, 4, 1, 5]], theirs[8 * head : 8 * head + 4].T)
    for row in (query, key):
        np.testing.assert_array_equal(row.layout.to_theirs(row.layout.to_ours(theirs, (3, 2, 8))), theirs)
    np.testing.assert_array_equal(value.layout.to_ours(theirs[:8], (3, 1, 8))[:, 0], theirs[:8].T)
    bias = rows["encoder.layers.0.self_attention.query_key_value.bias", (16, 24)].layout
    np.testing.assert_array_equal(bias.to_ours(np.arange(8), (1, 8))[0, [0, 4, 1, 5]], np.arange(4))
    np.testing.assert_array_equal(bias.to_theirs(bias.to_ours(np.arange(8), (1, 8))), np.arange(8))


MISSING = object()
KIND = {"multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True}


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"multi_query_attention": MISSING}, "multi_query_attention = False is not supported; supported: True"),
        ({"multi_query_attention": False}, "multi_query_attention = False is not supported; supported: True"),
        ({"add_qkv_bias": False}, "add_qkv_bias = False is not supported; supported: True"),
        ({"kv_channels": 6}, "head_size=6 must be a multiple of 4"),
        ({"multi_query_group_num": 5}, "key_heads=5 does not divide heads=32"),
        ({"pre_seq_len": 8}, "pre_seq_len = 8 is not supported"),
        ({"quantization_bit": 4}, "quantization_bit = 4 is not supported; supported: 0"),
    ],
)
def test_another_value_is_refused(field, words):
    assert table.CONFIG.build(KIND) == ChatGLM()
    with pytest.raises(Refusal, match=words):
        table.CONFIG.build({name: value for name, value in (KIND | field).items() if value is not MISSING})


def vocabulary(place, name="ChatGLMTokenizer"):
    shutil.copy(FIXTURES / "spiece.model", place / "tokenizer.model")
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    return place


def test_a_text_stands_behind_two_tokens_of_its_own_vocabulary_and_padding_before_them(tmp_path):
    """The ids are those of ChatGLMTokenizer in diffusers 0.42.1 with the same vocabulary of 108 pieces."""
    tokenizer = text.Tokenizer.open(vocabulary(tmp_path), 16)
    ids, mask, cut = tokenizer(["a cat", "the red car on a hill"])
    assert tokenizer.join is not None and tokenizer.join(ids[1]) == "the red car on a hill"
    assert ids[0].tolist() == [2] * 11 + [109, 111, 4, 51, 9] and mask[0].tolist() == [False] * 11 + [True] * 5
    assert ids[1].tolist() == [109, 111, 3, 7, 6, 18, 14, 51, 17, 3, 54, 4, 3, 35, 58, 10] and cut == ("", "")
    ids, _, cut = text.Tokenizer.open(tmp_path, 8)(["the red car on a hill"])
    assert ids.tolist() == [[109, 111, 3, 7, 6, 18, 14, 51]] and cut == ("r on a hill",)


def test_another_vocabulary_of_that_name_is_refused(tmp_path):
    with pytest.raises(limits.Refused, match=r"belongs to a LlamaTokenizer, which has no tokenizer\.json"):
        text.Tokenizer.open(vocabulary(tmp_path, "LlamaTokenizer"), 16)


def test_the_network_reads_all_states_and_the_pooled_one(monkeypatch):
    read = Embeddings(jax.numpy.ones((1, 3, 2)), MASK[:, :3], jax.numpy.full((1, 4), 7.0))
    encoder: text.Encoder = None  # type: ignore[assignment]
    monkeypatch.setattr(pipeline, "encode", lambda *arguments: {(("a cat",), encoder): read}[arguments])
    found = pipeline.kolors(("a cat",), encoder)
    assert found["text"] is read.tokens and found["pooled"] is read.pooled


def test_shapes_that_do_not_fit_are_refused():
    init = lambda *arguments, **how: jax.eval_shape(lambda: NET.init(jax.random.key(0), *arguments, **how))
    with pytest.raises(ValueError, match=r"integer ids \[B, N\]; got shape \(5,\)"):
        init(IDS[0])
    with pytest.raises(ValueError, match=r"mask has shape \(1, 3\), but the ids have \(1, 5\)"):
        init(IDS, MASK[:, :3])
    with pytest.raises(ValueError, match=r"skip=3 of a network with 2 layers\. Valid: 0 to 2"):
        init(IDS, skip=3)
