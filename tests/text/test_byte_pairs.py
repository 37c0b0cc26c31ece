"""A vocabulary learned from captions: its merges by hand, its ids in CLIP's order, and every text in it."""

import json

import pytest

from diffusion.text import Tokenizer, byte_pairs

WORDS = ["low low low low low lower lower newest newest newest newest newest newest widest widest widest"]


def test_the_merges_are_sennrichs():
    """The corpus of the paper's figure 1, where "es", "est", "est</w>", "lo", "low" are merged; the end of a word is
    part of its last letter here, as in CLIP's, so that "es" + "t</w>" is the second."""
    learned = byte_pairs.learn(WORDS, byte_pairs.LEAST + 4)
    assert set(learned.merges[:2]) in ({("e", "s"), ("es", "t</w>")}, {("s", "t</w>"), ("e", "st</w>")})
    assert len(learned.merges) == 4 and len(learned.ids) == byte_pairs.LEAST + 4
    assert "est</w>" in learned.ids


def test_ids_are_in_clips_order_and_the_end_is_the_largest(tmp_path):
    learned = byte_pairs.learn(WORDS, 530)
    assert list(learned.ids.values()) == list(range(len(learned.ids)))
    assert learned.ids["<|endoftext|>"] == len(learned.ids) - 1 == learned.ids["<|startoftext|>"] + 1
    assert [token for token in list(learned.ids)[256:512] if not token.endswith("</w>")] == []
    byte_pairs.write(tmp_path, learned, 12)
    ids, mask, _ = Tokenizer.open(tmp_path)(["low lower"])
    named = {number: token for token, number in learned.ids.items()}
    assert named[int(ids[0][0])] == "<|startoftext|>"
    assert "".join(named[int(i)] for i in ids[0][mask[0]][1:-1]) == "low</w>lower</w>"
    assert all(named[int(i)] == "<|endoftext|>" for i in ids[0][~mask[0]])


@pytest.mark.parametrize("text", ["zebra", "é", "猫", "🙂", "x9!", 'the word "xyz"'])
def test_no_text_is_unknown(text, tmp_path):
    """The bytes of a text that no caption had, put together again, are those of the text."""
    byte_pairs.write(tmp_path, byte_pairs.learn(WORDS, 530), 40)
    named = {number: token for token, number in json.loads((tmp_path / "vocab.json").read_text()).items()}
    found = "".join(named[i] for i in Tokenizer.open(tmp_path).ids(text)).replace("</w>", "")
    letters = _byte_of()
    assert bytes(letters[letter] for letter in found) == text.replace(" ", "").encode()


def _byte_of():
    """OpenAI's table of bytes as printable letters (their encoder.py, `bytes_to_unicode`)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


def test_learning_again_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        byte_pairs.write(tmp_path / name, byte_pairs.learn(WORDS, 530), 12)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_what_is_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"513 ids has no room for all bytes\. Valid: at least 514"):
        byte_pairs.learn(WORDS, 513)
    with pytest.raises(ValueError, match="there are none"):
        byte_pairs.learn([], 600)
    with pytest.raises(ValueError, match="length = 2 leaves no room"):
        byte_pairs.write(tmp_path, byte_pairs.learn(WORDS, 514), 2)
