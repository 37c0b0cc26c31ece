"""Our tokenizers beside transformers' own on awkward texts, and what is refused."""

import json

import numpy as np
import pytest

from diffusion.io import limits
from diffusion.text import Tokenizer
from tests.text.vocabularies import FIXTURES, folder_of

KINDS = [("clip", False), ("clip", True), ("clip, padded with !", False), ("t5", False),
         ("bert", False), ("gemma", False)]  # fmt: skip


def compare(kind, whole, place, fixtures=FIXTURES):
    """Ids and masks of the awkward texts with those that transformers gave them."""
    found = json.loads((fixtures / "ids.json").read_text())
    tokenizer = Tokenizer.open(folder_of(place, kind, fixtures, whole=whole))
    tokens = tokenizer(found["texts"])
    for text, ours, theirs in zip(found["texts"], tokens.ids, found["ids"][kind]["ids"], strict=True):
        assert list(ours) == theirs, repr(text)
    np.testing.assert_array_equal(tokens.mask, np.array(found["ids"][kind]["mask"], bool))
    assert tokens.ids.dtype == np.int32


@pytest.mark.parametrize(("kind", "whole"), KINDS)
def test_ids_are_those_of_transformers(kind, whole, tmp_path):
    compare(kind, whole, tmp_path / "folder")


@pytest.mark.parametrize("changes, ids", [  # by transformers 5.23, BertTokenizer
    ({}, [[157, 32, 76, 65, 62], [55, 56]]),
    ({"strip_accents": None}, [[157, 32, 76, 65, 62], [55, 56]]),
    ({"strip_accents": False}, [[1, 1], [55, 56]]),
    ({"strip_accents": True, "do_lower_case": False}, [[157, 1], [55, 56]]),
    ({"tokenize_chinese_chars": False}, [[157, 32, 76, 65, 62], [1]]),
])  # fmt: skip
def test_berts_words_are_made_as_its_config_says(changes, ids, tmp_path):
    folder = folder_of(tmp_path / "folder", "bert")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | changes))
    tokenizer = Tokenizer.open(folder)
    assert [tokenizer.ids("naïve Café"), tokenizer.ids("日本")] == ids
    assert tokenizer.ids("a[MASK]b") == [30, 4, 31]


ADDED = {  # ids by transformers 5.23 of texts with two words that were added to the vocabularies of the fixtures
    ("clip", "a photo of <cat-toy> on a mat"): [666, 320, 609, 83, 334, 607, 668, 530, 320, 537, 667],
    ("clip", "blorps and BLORP, blorp"): [666, 669, 338, 64, 77, 323, 669, 267, 669, 667],
    ("bert", "a photo of <cat-toy> on a mat"): [2, 30, 45, 77, 68, 75, 68, 44, 65, 160, 107, 30, 105, 3],
    ("bert", "a<cat-toy>b <CAT-TOY>"): [2, 30, 160, 31, 160, 3],
    ("t5", "a photo of <cat-toy> on a mat"): [4, 55, 64, 9, 48, 34, 22, 208, 3, 54, 4, 27, 31, 1],
    ("t5", "blorps and BLORP, blorp"): [209, 15, 4, 13, 107, 3, 2, 16, 209, 1],
}


@pytest.mark.parametrize("stated", ["added_tokens.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("kind", "text"), ADDED)
def test_words_that_were_added_to_a_vocabulary_have_their_ids(kind, text, stated, tmp_path):
    """As diffusers' training of textual inversion writes them; they were cut into pieces."""
    folder = folder_of(tmp_path / "folder", kind)
    first = {"clip": 668, "bert": 160, "t5": 208}[kind]
    table = {"<cat-toy>": first, "blorp": first + 1}
    if stated == "tokenizer_config.json":
        flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False) | {"normalized": True}
        table = {"added_tokens_decoder": {str(number): {"content": word, **flags} for word, number in table.items()}}
        table |= json.loads((folder / stated).read_text())
    (folder / stated).write_text(json.dumps(table))
    tokenizer = Tokenizer.open(folder)
    assert [*tokenizer.start, *tokenizer.ids(text), *tokenizer.end] == ADDED[kind, text]


@pytest.mark.parametrize("kind, stated, ids", [  # by transformers 5.23, AutoTokenizer
    ("gemma", "tokenizer_config.json", [316, 400, 312, 299, 340, 316, 334, 304, 401]),
    ("gemma", "added_tokens.json", [316, 400, 312, 299, 340, 316, 334, 323, 401]),
    ("clip", "tokenizer_config.json", [320, 668, 530, 320, 537, 669]),
    ("clip", "added_tokens.json", [320, 668, 530, 320, 537, 669]),
])  # fmt: skip
def test_words_that_tokenizer_json_lacks_are_added_to_it(kind, stated, ids, tmp_path):
    folder = folder_of(tmp_path / "folder", kind, whole=kind == "clip")
    first = {"clip": 668, "gemma": 400}[kind]
    table = {"<cat-toy>": first, "<s1>": first + 1}
    if stated == "tokenizer_config.json":
        flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False) | {"normalized": True}
        other = {"lstrip": True, "normalized": False, "special": True}
        words = {first: {"content": "<cat-toy>", **flags}, first + 1: {"content": "<s1>", **flags, **other}}
        table = json.loads((folder / stated).read_text()) | {"added_tokens_decoder": words}
    (folder / stated).write_text(json.dumps(table))
    assert Tokenizer.open(folder).ids("a <cat-toy> on a mat <s1>") == ids


@pytest.mark.parametrize("kind, number, ids", [  # by transformers 5.23, AutoTokenizer
    ("gemma", 320, [316, 336, 299, 320, 340, 320, 287, 295]),
    ("clip", 513, [320, 86, 78, 334, 513, 333, 513, 642]),
    ("bert", 104, [30, 144, 68, 104, 43, 104, 32, 72]),
])  # fmt: skip
def test_a_token_of_the_vocabulary_that_is_an_added_word_too_is_cut_out_first(kind, number, ids, tmp_path):
    folder = folder_of(tmp_path / "folder", kind)
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False) | {"normalized": True}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {number: {"content": "de", **flags}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.open(folder).ids("a wooden deck") == ids


@pytest.mark.parametrize("name, content, message", [
    ("added_tokens.json", {"<cat-toy>": 700}, "'<cat-toy>' has the id 700, but the next of the vocabulary is 668"),
    ("added_tokens.json", {"<cat-toy>": "668"}, r"added_tokens\.json: <cat-toy> = '668'\. Valid: a whole number"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"668": {"content": ""}}}, 'a text as its "content"'),
    ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "added_tokens_decoder: it = .* Valid"),
])  # fmt: skip
def test_added_words_of_another_form_are_refused(name, content, message, tmp_path):
    folder = folder_of(tmp_path / "folder", "clip")
    (folder / name).write_text(json.dumps(content | {"model_max_length": 77} if "config" in name else content))
    with pytest.raises(limits.Refused, match=message):
        Tokenizer.open(folder)


@pytest.mark.parametrize(
    ("text", "joined"),  # by transformers 5.23, BertTokenizer.decode(ids, skip_special_tokens=True)
    [
        ("A CAT,  sitting\ton\n the mat ", "a cat, sitting on the mat"),
        (
            "an oil-painting of two houses; 8k, f/1.4, (bokeh)!!",
            "an oil - painting of two houses ; 8k, f / 1. 4, ( bokeh )!!",
        ),
        ("naïve café, Ünïcödé, ÅNGSTRÖM, re\u0301sume\u0301, İstanbul", "naive cafe, unicode, angstrom, resume,"),
    ],
)
def test_berts_ids_are_joined_to_a_text_as_transformers_joins_them(text, joined, tmp_path):
    tokenizer = Tokenizer.open(folder_of(tmp_path / "folder", "bert"))
    assert tokenizer.join([*tokenizer([text]).ids[0].tolist(), 10**6]) == joined


def test_t5s_ids_are_joined_and_a_vocabulary_that_does_not_say_how_has_no_join(tmp_path):
    tokenizer = Tokenizer.open(folder_of(tmp_path / "t5", "t5"))
    assert tokenizer.join(tokenizer(["a small cat"]).ids[0].tolist()) == "a small cat"
    assert Tokenizer.open(folder_of(tmp_path / "clip", "clip")).join is None


def test_byt5_reads_bytes_and_its_folder_needs_no_vocabulary(tmp_path):
    """The ids are those of transformers' ByT5Tokenizer, with its end and its padding."""
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    tokenizer = Tokenizer.open(tmp_path, 16)
    tokens = tokenizer(['Text "hé". ', "é" * 9])
    assert tokens.ids[0].tolist() == [87, 104, 123, 119, 35, 37, 107, 198, 172, 37, 49, 35, 1, 0, 0, 0]
    assert tokens.mask[0].tolist() == [True] * 13 + [False] * 3
    assert tokens.ids[1].tolist() == [198, 172] * 7 + [198, 1] and tokens.cut == ("", "é")
    assert tokenizer.join is not None and tokenizer.join([87, 1, 198, 172, 259, 300]) == "Té"


def test_a_tokenizer_without_a_config_requires_the_length(tmp_path):
    folder = folder_of(tmp_path / "folder", "t5")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 10**30}))
    with pytest.raises(ValueError, match="length=77"):
        Tokenizer.open(folder)
    tokenizer = Tokenizer.open(folder, length=5)
    assert tokenizer(["a cat"]).ids.shape == (1, 5)
    with pytest.raises(ValueError, match="6 ids do not fit into the 4 positions between start and end"):
        tokenizer.framed([[3], [3] * 6])
    with pytest.raises(ValueError, match="length=1 leaves no room"):
        Tokenizer.open(folder, length=1)


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_padding_stands_where_the_config_says(kind, tmp_path):
    folder = folder_of(tmp_path / "folder", kind)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    right = Tokenizer.open(folder)(["a cat"])
    for side, shift in (("right", 0), ("left", int((~right.mask[0]).sum()))):
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": side}))
        tokens = Tokenizer.open(folder)(["a cat"])
        np.testing.assert_array_equal(tokens.ids, np.roll(right.ids, shift, axis=1))
        np.testing.assert_array_equal(tokens.mask, np.roll(right.mask, shift, axis=1))
    assert shift > 0
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": "top"}))
    with pytest.raises(limits.Refused, match=r"padding_side.*Valid: 'left' or 'right'"):
        Tokenizer.open(folder)


PADDING = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
           "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "padding", "stated", "left"),
    [
        ("PreTrainedTokenizerFast", None, None, False),
        ("LlamaTokenizerFast", None, None, True),
        ("GemmaTokenizer", None, None, True),
        ("LlamaTokenizerFast", PADDING, None, False),
        ("PreTrainedTokenizerFast", PADDING | {"direction": "Left"}, None, True),
        ("LlamaTokenizerFast", None, "right", False),
        ("LlamaTokenizerFast", PADDING, "left", True),
    ],
)
def test_padding_stands_where_the_vocabulary_or_its_class_says(name, padding, stated, left, tmp_path):
    """As transformers 5.23 has it: the config, then tokenizer.json, then the class."""
    folder = folder_of(tmp_path / "folder", "gemma")
    for file, change in (
        ("tokenizer.json", {"padding": padding}),
        ("tokenizer_config.json", {"tokenizer_class": name} | ({"padding_side": stated} if stated else {})),
    ):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | change))
    assert Tokenizer.open(folder).left is left


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("t5", "spiece.model", b"nothing", "not a model of sentencepiece"),
        ("clip", "vocab.json", b"[1, 2]", "not a table"),
        ("clip", "vocab.json", b'{"a": 0}', "do not belong together"),
        ("clip", "merges.txt", b"zz qq\n", "do not belong together"),
        ("clip", "tokenizer.json", b"{}", "not a vocabulary"),
        ("clip", "tokenizer_config.json", b"{", "not valid JSON"),
    ],
)
def test_damaged_files_are_refused(kind, name, content, message, tmp_path):
    folder = folder_of(tmp_path / "folder", kind)
    (folder / name).write_bytes(content)
    with pytest.raises(limits.Refused, match=message):
        Tokenizer.open(folder, length=8)


def test_a_folder_without_a_vocabulary_says_what_it_has(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"vocab\.json.*model\.bin"):
        Tokenizer.open(tmp_path, length=8)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Tokenizer.open(tmp_path / "nowhere", length=8)
    folder = folder_of(tmp_path / "folder", "clip")
    (folder / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"merges\.txt"):
        Tokenizer.open(folder)


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_what_is_cut_is_said(kind, tmp_path):
    tokenizer = Tokenizer.open(folder_of(tmp_path / "folder", kind), length=8)
    text = "a red cat sleeping on the mat, in the rain"
    ids, mask, cut = tokenizer([text, "a cat"])
    assert cut[1] == "" and cut[0] and text.endswith(cut[0].lstrip())
    assert mask[0].all() and not mask[1].all()
    kept = [i for i in ids[0] if i not in (*tokenizer.start, *tokenizer.end)]
    assert kept == tokenizer.ids(text)[: tokenizer.room]
    if kind == "clip":  # T5's vocabulary marks where a word begins, which a part of a word does not
        assert kept + tokenizer.ids(cut[0]) == tokenizer.ids(text)
