"""Words that a tokenizer's folder adds to its vocabulary, in added_tokens.json or in tokenizer_config.json."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import tokenizers

from diffusion.io import limits, opener, schema

IDS = schema.integer()  # valid ids of tokens
ADDED = "added_tokens.json"  # {word: its id}
FLAGS_OF_WORDS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # how a word that was added is recognised
WORD = schema.Valid(
    'a table with a text as its "content"',
    lambda value: (
        isinstance(value, Mapping)
        and bool(value.get("content"))
        and schema.text().holds(value["content"])
        and all(isinstance(value.get(flag, False), bool) for flag in FLAGS_OF_WORDS)
    ),
)


def read(folder: pathlib.Path, config: Mapping[str, Any]) -> dict[int, tokenizers.AddedToken]:
    """The words that were added to a vocabulary, by their ids, in ascending order.

    Args:
        folder: the tokenizer's folder.
        config: the content of its tokenizer_config.json.

    Raises:
        limits.Refused: for entries of another form than those that transformers writes.
    """
    path = folder / ADDED
    table = opener.read_table(path) if path.is_file() else {}
    schema.check(dict.fromkeys(table, IDS), table, str(path))
    words = {number: tokenizers.AddedToken(word) for word, number in table.items() if word}
    entries = config.get("added_tokens_decoder") or {}
    where = f"{folder / 'tokenizer_config.json'}: added_tokens_decoder"
    number = schema.Valid("a whole number", lambda text: bool(re.fullmatch("[0-9]{1,9}", text)))
    schema.check({"it": schema.table(WORD, most=limits.TEXT, names=number)}, {"it": entries}, where)
    for text, entry in entries.items():
        flags = {flag: entry[flag] for flag in FLAGS_OF_WORDS if flag in entry}
        words[int(text)] = tokenizers.AddedToken(entry["content"], **flags)
    return dict(sorted(words.items()))
