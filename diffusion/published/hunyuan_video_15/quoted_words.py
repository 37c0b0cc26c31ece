"""The words in quotes of a prompt, the only words that the second text encoder of HunyuanVideo 1.5 reads."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.text.encoding import Encoder, encode

QUOTED = re.compile(r"\"(.*?)\"|“(.*?)”")


def in_quotes(prompt: str) -> str:
    """The words in quotes of a prompt, as their encoder reads them; "" without any."""
    words = dict.fromkeys(straight or curved for straight, curved in QUOTED.findall(prompt))
    return "".join(f'Text "{one}". ' for one in words)


def glyphs(quoted: Sequence[str], byt5: Encoder) -> dict[str, Any]:
    """{"glyphs", "glyph_mask"} of words in quotes; the mask of a prompt without such words is False everywhere.

    Args:
        quoted: B texts as their encoder reads them; "" for a prompt without words in quotes.
        byt5: ByT5's encoder, `masked=True`.
    """
    states = encode(quoted, byt5)
    shown = states.mask & np.array([bool(words) for words in quoted])[:, None]
    return {"glyphs": states.tokens, "glyph_mask": shown}
