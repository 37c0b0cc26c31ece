"""Prompts to embeddings with an encoder whose outputs are known: cut, windows, weights, several encoders, the cache.

The encoder embeds a token by its id and its position alone, so that each number of a result is known.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text
from diffusion.published import stable_diffusion_3
from diffusion.text import Embeddings, Encoder, Tokenizer
from diffusion.text.encoding import text_first
from tests.text.vocabularies import folder_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("text") / "clip", "clip")


@pytest.fixture
def tokenizer(folder):
    return Tokenizer.open(folder, length=12)  # ten tokens between start and end


def embed(ids, mask=None):
    """[id, place] + 1 as a token's embedding, the id at place 1 as the pooled one."""
    places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    return np.stack([ids + 1, places + 1], -1).astype(np.float32), ids[:, 1:2].astype(np.float32)


@pytest.fixture
def encoder(tokenizer):
    return Encoder(tokenizer, embed)


def rows(tokenizer, *prompts):
    """The windows' ids as they should be, each from a text that fits."""
    return np.stack([tokenizer([prompt]).ids[0] for prompt in prompts])


def ids_of(found):
    return np.asarray(found.tokens[..., 0]) - 1


LONG = "a cat and a dog on a mat, in the rain under a tree"


def test_a_prompt_that_is_too_long_is_cut_and_what_is_cut_is_said(encoder, tokenizer):
    whole = tokenizer.ids(LONG)
    assert len(whole) > tokenizer.room
    with pytest.warns(UserWarning) as said:
        found = text.encode([LONG, "a cat", ""], encoder)
    (warning,) = said
    cut = tokenizer([LONG]).cut[0]
    assert repr(cut) in str(warning.message)
    assert LONG.endswith(cut) and tokenizer.ids(cut) == whole[tokenizer.room :]
    assert [len(tokenizer.start), len(tokenizer.end)] == [1, 1]
    np.testing.assert_array_equal(ids_of(found)[0], [*tokenizer.start, *whole[:10], *tokenizer.end])
    np.testing.assert_array_equal(found.mask.sum(1), [12, 2 + len(tokenizer.ids("a cat")), 2])
    np.testing.assert_array_equal(ids_of(found)[2, 1:], tokenizer.end * 11)  # "" is a prompt as any other


def test_windows_take_all_of_a_prompt_and_end_after_a_comma(encoder, tokenizer):
    assert len(tokenizer.ids("a cat and a dog on a mat,")) > 10 > len(tokenizer.ids("a cat on a mat,"))
    prompt = "a cat on a mat, in the rain under a tree"
    found = text.encode([prompt, ""], encoder, windows=True)
    assert len(tokenizer.ids(prompt)) > 10
    np.testing.assert_array_equal(
        ids_of(found)[0], rows(tokenizer, "a cat on a mat,", "in the rain under a tree").reshape(-1)
    )
    np.testing.assert_array_equal(ids_of(found)[1], rows(tokenizer, "", "").reshape(-1))  # as many windows
    assert found.mask.shape == (2, 24)
    np.testing.assert_array_equal(found.pooled[:, 0], [tokenizer.ids("a")[0], tokenizer.end[0]])  # of the first window


def test_a_window_without_a_comma_is_filled(encoder, tokenizer):
    prompt = "a cat " * 11
    tokens = tokenizer.ids(prompt)
    found = text.encode([prompt], encoder, windows=True)
    kept = ids_of(found)[0][found.mask[0]]
    np.testing.assert_array_equal(kept[(kept != tokenizer.start[0]) & (kept != tokenizer.end[0])], tokens)
    np.testing.assert_array_equal(found.mask[0].reshape(-1, 12)[:-1], True)


def test_break_ends_a_window_also_inside_brackets(encoder, tokenizer):
    found = text.encode(["a cat BREAK (a dog BREAK a mat)"], encoder, windows=True, emphasis="scale")
    places = found.tokens[0, :, 1].reshape(3, 12)[:, 1:3]
    np.testing.assert_allclose(places, [[2, 3], [2.2, 3.3], [2.2, 3.3]], rtol=1e-6)
    plain = text.encode(["a cat BREAK a dog BREAK a mat"], encoder, windows=True)
    np.testing.assert_array_equal(ids_of(plain)[0], rows(tokenizer, "a cat", "a dog", "a mat").reshape(-1))


def test_weights_multiply_and_the_mean_is_restored(encoder, tokenizer):
    count = len(tokenizer.ids("cat"))
    before, _ = embed(tokenizer(["a cat", "a cat"]).ids)
    weights = np.ones((1, 12, 1), np.float32)
    weights[:, 2 : 2 + count] = 1.5
    scaled = text.encode(["a (cat:1.5)", "a cat"], encoder, emphasis="scale").tokens
    np.testing.assert_allclose(scaled[0], (before * weights)[0], rtol=1e-6)
    restored = text.encode(["a (cat:1.5)", "a cat"], encoder, emphasis="restore_mean").tokens
    np.testing.assert_allclose(restored.mean((1, 2)), before.mean((1, 2)), rtol=1e-6)
    ratio = np.asarray(restored[0] / scaled[0])
    np.testing.assert_allclose(ratio, np.full((12, 2), ratio[0, 0]), rtol=1e-6)
    np.testing.assert_array_equal(restored[1], before[1])  # a prompt without weights is left alone


def test_padding_may_stand_before_a_prompt_and_its_weights_with_it(encoder, tokenizer):
    left = encoder._replace(tokenizer=tokenizer._replace(left=True))
    right = text.encode(["a (cat:1.5)", LONG[:6]], encoder, emphasis="scale")
    found = text.encode(["a (cat:1.5)", LONG[:6]], left, emphasis="scale")
    for i, length in enumerate(right.mask.sum(1)):
        np.testing.assert_array_equal(found.mask[i], np.arange(12) >= 12 - length)
        ids = tokenizer.framed([tokenizer.ids(("a cat", LONG[:6])[i])])[0][0, :length]
        weights = np.asarray(right.tokens[i, :length, 0]) / (ids + 1)
        np.testing.assert_allclose(found.tokens[i, 12 - length :, 0], (ids + 1) * weights, rtol=1e-6)
        np.testing.assert_array_equal(found.tokens[i, : 12 - length, 0], tokenizer.pad + 1)


def test_weights_go_from_the_empty_prompt(encoder, tokenizer):
    full, empty = embed(tokenizer(["a cat", ""]).ids)[0]
    for weight in (0.0, 0.5, 2.0):
        found = text.encode([f"(a cat:{weight})"], encoder, emphasis="from_empty").tokens[0]
        inside = slice(1, 1 + len(tokenizer.ids("a cat")))
        np.testing.assert_allclose(found[inside], (empty + weight * (full - empty))[inside], rtol=1e-6)
        np.testing.assert_array_equal(found[0], full[0])


def test_what_stands_around_a_prompt_has_no_weight(encoder, tokenizer):
    """Brackets of the prompt end with it, those of the template are text, and an empty prompt has the template, too."""
    template = {"before": "a [", "behind": "on"}
    first, inside, end = (tokenizer.ids(part) for part in ("a [", "cat", "on"))
    ids = [*tokenizer.start, *first, *inside, *end]
    weights = np.ones(12, np.float32)
    weights[1 + len(first) : 1 + len(first) + len(inside)] = 1.1
    full, _ = embed(np.array([ids + [*tokenizer.end] * (12 - len(ids))]))
    scaled = text.encode(["(cat"], encoder, emphasis="scale", **template).tokens
    np.testing.assert_allclose(scaled, full * weights[:, None], rtol=1e-6)
    ids = [*tokenizer.start, *tokenizer.ids("a [on")]
    empty, _ = embed(np.array([ids + [*tokenizer.end] * (12 - len(ids))]))
    moved = text.encode(["(cat"], encoder, emphasis="from_empty", **template).tokens
    np.testing.assert_allclose(moved, empty + weights[:, None] * (full - empty), rtol=1e-6)
    with pytest.warns(UserWarning, match=r"the prompt 'a cat and a dog .* under a tree'\."):
        text.encode([LONG], encoder, **template)


def test_each_window_moves_from_that_window_of_the_empty_prompt(encoder, tokenizer):
    """The template of an empty prompt fills its first window; its second one has no token."""
    prompts = ["(cat BREAK dog:2)", "on (mat BREAK cat:0.5)"]
    found = text.encode(prompts, encoder, emphasis="from_empty", windows=True, before="a ").tokens
    empty, _ = embed(rows(tokenizer, "a", ""))
    expected = []
    for weight, *windows in ((2.0, "a cat", "dog"), (0.5, "a on mat", "cat")):
        weights = np.ones((2, 12, 1), np.float32)
        for row, (window, word) in enumerate(zip(windows, (windows[0].split()[-1], windows[1]), strict=True)):
            last = 1 + len(tokenizer.ids(window))
            weights[row, last - len(tokenizer.ids(word)) : last] = weight
        full, _ = embed(rows(tokenizer, *windows))
        expected.append((empty + weights * (full - empty)).reshape(24, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_emphasis_brackets_are_text(encoder, tokenizer):
    prompt = "(a [cat]:1.5)"
    np.testing.assert_array_equal(ids_of(text.encode([prompt], encoder))[0], tokenizer([prompt]).ids[0])


def test_a_prompt_without_weights_needs_no_empty_one(encoder):
    calls = []
    counted = encoder._replace(network=lambda *arguments: calls.append(arguments) or encoder.network(*arguments))
    text.encode(["a cat"], counted, emphasis="from_empty")
    assert len(calls) == 1


def test_a_weighted_prompt_that_is_too_long_is_cut(encoder, tokenizer):
    count = len(tokenizer.ids("a cat and"))
    with pytest.warns(UserWarning, match="left out: ', in the rain'"):
        found = text.encode(["(a cat and:1.5) a dog on a mat(, in the rain)"], encoder, emphasis="scale")
    weights = np.array([1, *[1.5] * count, *[1] * (11 - count)], np.float32)
    np.testing.assert_array_equal(found.tokens[0, :, 1], weights * np.arange(1, 13))


def part(batch, tokens, width, pooled=None):
    values = np.arange(1.0, 1 + batch * tokens * width, dtype=np.float32).reshape(batch, tokens, width)
    return Embeddings(values, np.ones((batch, tokens), bool), np.full((batch, pooled), pooled) if pooled else None)


def test_encoders_stand_side_by_side_and_one_after_other():
    a = part(2, 3, 2, 5)
    b = part(2, 3, 4, 6)
    c = part(2, 7, 8)
    both = text.side_by_side(a, b)
    np.testing.assert_array_equal(both.tokens, np.concatenate([a.tokens, b.tokens], -1))
    assert both.pooled.shape == (2, 6)
    row = text.one_after_other(both, c)
    assert row.tokens.shape == (2, 10, 8) and row.mask.shape == (2, 10) and row.pooled is both.pooled
    np.testing.assert_array_equal(row.tokens[:, :3, :6], both.tokens)
    np.testing.assert_array_equal(row.tokens[:, :3, 6:], 0)
    np.testing.assert_array_equal(row.tokens[:, 3:], c.tokens)
    with pytest.raises(ValueError, match="must read the same number of tokens"):
        text.side_by_side(a, c)


@pytest.mark.parametrize("left", [False, True])
def test_a_task_is_left_out_wherever_padding_stands(left):
    """As diffusers' QwenImagePipeline: the shown tokens of each prompt, without the first ones, and zeros behind."""
    shown = np.arange(6) < np.array([[6], [4]])
    mask = shown[:, ::-1] if left else shown
    tokens = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    ours = text_first(Embeddings(tokens, mask, None), 2)
    for row, states, one in zip(range(2), tokens, mask):
        expected = states[one][2:]
        assert ours["text_mask"][row].tolist() == [True] * len(expected) + [False] * (4 - len(expected))
        np.testing.assert_array_equal(ours["text"][row, : len(expected)], expected)


@pytest.mark.slow
def test_sd3_without_t5_receives_zeros(encoder):
    conditions = stable_diffusion_3.pipeline.stable_diffusion_3(["a cat"], encoder, encoder, width=6, length=5)
    assert conditions["text"].shape == (1, 17, 6) and conditions["pooled"].shape == (1, 2)
    np.testing.assert_array_equal(conditions["text"][:, 12:], 0)


def test_what_was_read_once_is_not_read_again(encoder, tokenizer, tmp_path):
    calls = []

    def network(ids, mask):
        calls.append(len(ids))
        return embed(ids)

    weights = text.fingerprint({"kernel": np.ones((2, 3), np.float32)})
    lazy = text.cached(Encoder(tokenizer, network), weights, tmp_path)
    prompts = ["a cat", "", "a cat", "a dog"]
    expected = text.encode(prompts, encoder)
    for _ in range(2):
        found = text.encode(prompts, lazy)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_array_equal(found.pooled, expected.pooled)
    assert calls == [3]  # each text once, in one call
    (tmp_path / weights).joinpath(sorted(p.name for p in (tmp_path / weights).iterdir())[0]).write_bytes(b"damaged")
    np.testing.assert_array_equal(text.encode(prompts, lazy).tokens, expected.tokens)
    assert calls == [3, 1]
    text.encode(["a cat"], text.cached(Encoder(tokenizer, network), text.fingerprint({"kernel": 2.0}), tmp_path))
    assert calls == [3, 1, 1]  # other weights
    assert not list(tmp_path.rglob("*.part"))


def test_a_fingerprint_knows_weights_names_shapes_and_the_call():
    params = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(2)}
    others = [
        {**params, "b": np.zeros(2)},
        {"a": params["a"].reshape(3, 2), "b": params["b"]},
        {"c": params["a"], "b": params["b"]},
    ]
    prints = [text.fingerprint(params), text.fingerprint(params, skip=1), *map(text.fingerprint, others)]
    assert len(set(prints)) == 5 and text.fingerprint(dict(params)) == prints[0]


@pytest.mark.parametrize(
    ("prompts", "how", "message"),
    [
        ("a cat", {}, "a list"),
        ([], {}, "a list"),
        (["a cat"], {"emphasis": "brackets"}, "'restore_mean'"),
        ([3], {}, "int"),
        (["half \ud83d"], {}, "is not valid Unicode"),
    ],
)
def test_what_is_no_prompt_is_refused(encoder, prompts, how, message):
    with pytest.raises(ValueError, match=message):
        text.encode(prompts, encoder, **how)


def test_the_note_on_a_very_long_prompt_is_short(encoder):
    with pytest.warns(UserWarning, match=r"a mat a mat.* \.\.\. \(\d{4} letters\)'") as said:
        text.encode(["a mat " * 900], encoder)
    assert len(str(said[0].message)) < 400


@pytest.mark.parametrize(
    "returned, words",
    [
        (lambda ids: jnp.zeros((*ids.shape, 4)), r"an array \(2, 12, 4\)"),
        (lambda ids: (jnp.zeros((*ids.shape, 4)),), "a tuple"),
        (lambda ids: (jnp.zeros((12, 4)), None), "a tuple"),
    ],
)
def test_a_network_that_returns_no_pair_is_named(returned, words, tokenizer):
    """An array of two prompts was taken apart: the tokens of the first, with those of the second as pooled."""

    class Bag(nn.Module):
        def __call__(self, ids, mask):
            return returned(ids)

    encoder = Encoder.from_module(tokenizer, Bag(), {})
    with pytest.raises(ValueError, match=rf"text encoder Bag returns {words} for ids \(2, 12\). Valid: \(tokens"):
        text.encode(["a cat", "a dog"], encoder)


def test_equal_ids_of_which_others_are_real_are_read_apart(tokenizer, tmp_path):
    """A padding token of one prompt may be the last token of another."""
    counted = Encoder(tokenizer, lambda ids, mask: (np.repeat(mask.sum(1), 4).reshape(len(ids), 2, 2) * 1.0, None))
    network = text.cached(counted, "weights", tmp_path).network
    ids = np.ones((2, 5), np.int32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], bool)
    for _ in range(2):  # computed, and from the disk
        tokens, _ = network(ids, mask)
        assert np.asarray(tokens)[:, 0, 0].tolist() == [3, 4]
