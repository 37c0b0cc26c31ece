"""Long prompts in windows: each fills the encoder's context with tokens, and is encoded on its own.

A window ends where it is full, or after its last comma if that is near the end, so that no phrase is split; "BREAK" in
the prompt ends one by hand. AUTOMATIC1111's "stable-diffusion-webui" does the same.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from diffusion.text.tokenizer import Tokenizer

BREAK = re.compile(r"(?<!\s)\s*\bBREAK\b\s*")  # from the first of many spaces, not from each
NEAR = 20  # fewer tokens than this after a comma go into the next window, with what follows them


class Windows(NamedTuple):
    """A prompt in parts.

    Attributes:
        rows: (id, weight) pairs of each window, no more than fit into a context; at least one window.
        cut: the text that did not fit.
    """

    rows: list[list[tuple[int, float]]]
    cut: str


def lowered(prompt: str, windows: bool = False) -> str:
    """A prompt in lower case; where it is read in windows, "BREAK" stays, since it ends one."""
    return " BREAK ".join(part.lower() for part in BREAK.split(prompt)) if windows else prompt.lower()


def first_window(parts: Sequence[tuple[str, float]], tokenizer: Tokenizer) -> Windows:
    """The beginning of a prompt, of texts and weights (`weighting.parse`), and the rest, which does not fit."""
    row: list[tuple[int, float]] = []
    for at, (text, weight) in enumerate(parts):
        ids, rest = tokenizer.split(text)
        space = tokenizer.room - len(row)
        row += [(token, weight) for token in ids[:space]]
        if len(ids) > space:
            return Windows([row], rest(space) + "".join(text for text, _ in parts[at + 1 :]))
    return Windows([row], "")


def all_windows(parts: Sequence[tuple[str, float]], tokenizer: Tokenizer) -> Windows:
    """All of a prompt, of texts and weights (`weighting.parse`)."""
    comma = tokenizer.ids(",")[-1]
    rows: list[list[tuple[int, float]]] = []
    row: list[tuple[int, float]] = []
    for text, weight in parts:
        for at, phrase in enumerate(BREAK.split(text)):
            if at:
                rows.append(row)
                row = []
            for token in tokenizer.ids(phrase):
                if len(row) == tokenizer.room:
                    end = len(row) if token == comma else _end(row, comma)
                    rows.append(row[:end])
                    row = row[end:]
                row.append((token, weight))
    return Windows([*rows, row] if row or not rows else rows, "")


def _end(row: Sequence[tuple[int, float]], comma: int) -> int:
    """The end of a full window: after its last comma, if that is near."""
    after = max((i + 1 for i, (token, _) in enumerate(row) if token == comma), default=0)
    return after if len(row) - after < NEAR and after else len(row)
