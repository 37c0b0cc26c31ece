"""Prompts in which brackets give some words more or less weight.

| written        | the weight of the word is multiplied by |
|----------------|-----------------------------------------|
| "(word)"       | 1.1                                     |
| "[word]"       | 1 / 1.1                                 |
| "(word:1.3)"   | 1.3                                     |
| "\\(word\\)"     | 1: the brackets are text                |

Brackets nest, and their factors multiply. A bracket that is left open closes at the end of the prompt. A closing
bracket without an open one is text. Syntax and corner cases follow AUTOMATIC1111's "stable-diffusion-webui".
"""

import re
from collections.abc import Iterable

EMPHASIS = ("none", "scale", "restore_mean", "from_empty")  # the effects of a weight, see `text.encode`
ROUND = 1.1
SQUARE = 1 / 1.1
PARTS = re.compile(
    r"""\\(?P<literal>[\\()\[\]]?)                             # a backslash alone is no text; two are one
    | :\s*(?P<weight>[+-]?(\d+(\.\d*)?|\.\d+))\s*(?P<end>\))  # ":1.3)"
    | (?P<bracket>[()\[\]])
    | (?P<text>[^\\()\[\]:]+ | :)""",
    re.VERBOSE | re.DOTALL,
)


def parse(prompt: str) -> list[tuple[str, float]]:
    """The texts of a prompt and their weights, in order; neighbouring texts of equal weight are joined.

        parse("a ((red) cat:1.5)") = [("a ", 1.0), ("red", 1.65), (" cat", 1.5)]

    Args:
        prompt: any text.

    Returns:
        At least one pair: [("", 1.0)] for an empty prompt.
    """
    parts: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # positions in the parts at which the open brackets began

    def multiply(start: int, factor: float) -> None:
        for part in parts[start:]:
            part[1] *= factor

    for token in PARTS.finditer(prompt):
        bracket = token["bracket"]
        if bracket in opened:
            opened[bracket].append(len(parts))
        elif token["weight"] and opened["("]:
            multiply(opened["("].pop(), float(token["weight"]))
        elif bracket == ")" and opened["("]:
            multiply(opened["("].pop(), ROUND)
        elif bracket == "]" and opened["["]:
            multiply(opened["["].pop(), SQUARE)
        else:
            parts.append([token[0] if token["literal"] is None else token["literal"], 1.0])
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        for start in opened[bracket]:
            multiply(start, factor)

    return joined((text, weight) for text, weight in parts) or [("", 1.0)]


def unbracketed(prompt: str, emphasis: str = "none") -> str:
    """The text of a prompt without the brackets of its weights; the prompt itself where brackets are text."""
    return prompt if emphasis == "none" else "".join(text for text, _ in parse(prompt))


def joined(parts: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Texts and weights in which neighbours of equal weight are joined, since a tokenizer may merge their letters."""
    merged: list[tuple[str, float]] = []
    for text, weight in parts:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged
