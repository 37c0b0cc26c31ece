"""Words that a vocabulary does not have, with further ids, as textual inversion learns them."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from diffusion.text.tokenizer import Tokenizer

TRIGGER = re.compile(r"<[\w-]+>")  # how such words are written in prompts


def with_words(tokenizer: Tokenizer, words: Mapping[str, Sequence[int]]) -> Tokenizer:
    """The tokenizer with further words, each of one or several ids; capital and small letters are one.

    Args:
        tokenizer: tokenizer of the vocabulary.
        words: the ids of each word, e.g. {"<cat-toy>": (49408, 49409)}.

    Raises:
        ValueError: for a word with a space in it, an empty one, or one without ids.
    """
    for word, ids in words.items():
        if not word or word.split() != [word] or not len(ids):
            raise ValueError(
                f"the word {word!r} with {len(ids)} ids is not valid. Valid: a text without spaces, and at least one id"
            )
    if not words:
        return tokenizer
    table = {word.lower(): list(ids) for word, ids in words.items()}
    pattern = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))), re.IGNORECASE)

    def split(text: str) -> tuple[list[int], Callable[[int], str]]:
        parts = []  # (text, ids, n -> the text from id n on)
        at = 0
        for match in pattern.finditer(text):
            if match[0].lower() not in table:  # expressions also take "ı" for "i", and "ſ" for "s"
                continue
            between = text[at : match.start()]
            parts += [(between, *tokenizer.split(between))] if between.strip() else []
            parts.append((match[0], table[match[0].lower()], lambda first, word=match[0]: word))
            at = match.end()
        parts += [(text[at:], *tokenizer.split(text[at:]))] if text[at:].strip() or not parts else []

        def rest(first: int) -> str:
            for i, (_, ids, text_from) in enumerate(parts):
                if first < len(ids):
                    return text_from(first) + "".join(later for later, _, _ in parts[i + 1 :])
                first -= len(ids)
            return ""

        return [token for _, ids, _ in parts for token in ids], rest

    return tokenizer._replace(split=split)


def named_in(text: str, known: Iterable[str]) -> list[str]:
    """The unknown words of a prompt that have the form of trigger words, "<cat-toy>"."""
    lower = {word.lower() for word in known}
    return [word for word in dict.fromkeys(TRIGGER.findall(text)) if word.lower() not in lower]
