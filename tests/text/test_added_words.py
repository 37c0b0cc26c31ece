"""Words beside a vocabulary: their ids in a text, and what is cut of it."""

import pytest

from diffusion.text import Tokenizer
from diffusion.text.added_words import named_in, with_words
from tests.text_to_image import made_pipelines


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = made_pipelines.folder("sd", tmp_path_factory.mktemp("words") / "sd")
    return Tokenizer.open(folder / "tokenizer")


def test_a_word_is_its_ids_between_those_of_the_rest(tokenizer):
    larger = with_words(tokenizer, {"<cat-toy>": (900, 901), "<cat>": (902,)})
    a, b = tokenizer.ids("a photo of"), tokenizer.ids("on a mat")
    assert larger.ids("a photo of <cat-toy> on a mat") == [*a, 900, 901, *b]
    assert larger.ids("<CAT> <cat-toy>") == [902, 900, 901]
    assert larger.ids("a cat") == tokenizer.ids("a cat") and larger.ids("") == tokenizer.ids("")
    assert with_words(tokenizer, {}) is tokenizer


@pytest.mark.parametrize("word", ["<\u0131tem>", "<\u0130tem>", "<item\u017f>"])
def test_a_letter_that_only_an_expression_takes_for_another_makes_no_word(word, tokenizer):
    """It ended in a KeyError."""
    more = with_words(tokenizer, {"<item>": [900], "<items>": [901]})
    assert more.ids(f"a {word}") == tokenizer.ids(f"a {word}")
    assert more.ids("<ITEM> <Items>") == [900, 901]


def test_what_is_cut_is_the_text_from_an_id_on(tokenizer):
    larger = with_words(tokenizer, {"<new>": (900, 901)})
    ids, rest = larger.split("a <new> mat")
    first = len(tokenizer.ids("a"))
    assert rest(first) == rest(first + 1) == "<new> mat" and rest(first + 2).strip() == "mat" and rest(len(ids)) == ""


def test_words_that_are_none_are_refused_and_unknown_ones_found(tokenizer):
    for word, ids in (("", (1,)), ("two words", (1,)), ("<x>", ())):
        with pytest.raises(ValueError, match="Valid: a text without spaces, and at least one id"):
            with_words(tokenizer, {word: ids})
    assert named_in("a <dog> and <Cat> and 1 < 2 > 0", ["<cat>"]) == ["<dog>"]
