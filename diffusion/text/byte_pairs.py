"""A vocabulary of your own: byte pairs of the words of captions, written as CLIP's is published.

    byte_pairs.write("run/tokenizer", byte_pairs.learn(captions, 1024), length=24)
    tokenizer = text.Tokenizer.open("run/tokenizer")

The order of the ids is CLIP's: 256 bytes, 256 bytes that end a word, the merges as they were learned, start, end. The
end of a text is therefore its largest id, by which CLIP's text tower finds it, and no text is unknown.
"""

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from diffusion.io import files
from diffusion.text.tokenizer import CLIP_SPECIAL, CLIP_WORDS, checked

END_OF_WORD = "</w>"
LEAST = 2 * 256 + 2  # ids without any merge: the bytes, those that end a word, start and end


class BytePairs(NamedTuple):
    """A learned vocabulary: the ids of its tokens, and pairs of tokens that become one, the most frequent first."""

    ids: dict[str, int]
    merges: Sequence[tuple[str, str]]


def learn(captions: Iterable[str], size: int) -> BytePairs:
    """The byte pairs that are most frequent in captions, whose words are in lower case.

    Args:
        captions: texts, at least one.
        size: the largest number of ids, at least `LEAST`; there are fewer once all words are tokens.

    Raises:
        ValueError: for a size out of range, or no caption.

    Reference: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016, algorithm 1;
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, their code.
    """
    captions = [checked(caption) for caption in captions]
    if size < LEAST:
        raise ValueError(f"a vocabulary of {size} ids has no room for all bytes. Valid: at least {LEAST}")
    if not captions:
        raise ValueError("a vocabulary is learned from captions, but there are none")
    library = tokenizers.Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    library.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 2,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    library.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(library.to_str())["model"]["merges"]][: size - LEAST]
    single = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *single,
        *(letter + END_OF_WORD for letter in single),
        *map("".join, merges),
        CLIP_SPECIAL["bos_token"],
        CLIP_SPECIAL["eos_token"],
    ]
    ids: dict[str, int] = {}
    for token in tokens:  # two merges may give the same token
        ids.setdefault(token, len(ids))
    return BytePairs(ids, merges)


def write(folder: str | pathlib.Path, learned: BytePairs, length: int) -> None:
    """Writes a vocabulary as a folder that `Tokenizer.open` reads, and transformers as CLIPTokenizer.

    Args:
        folder: the folder, which is made.
        learned: the result of `learn`.
        length: number of ids of a text, with start and end, at least 3.

    Raises:
        ValueError: for a length that leaves no room.
    """
    if length < 3:
        raise ValueError(f"length = {length} leaves no room for text between the start and the end. Valid: at least 3")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "do_lower_case": True, **CLIP_SPECIAL}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in learned.merges), ""]
    for name, content in (
        ("vocab.json", json.dumps(learned.ids, ensure_ascii=False)),
        ("merges.txt", "\n".join(lines)),
        ("tokenizer_config.json", json.dumps(config, indent=2)),
    ):
        with files.atomic(folder / name) as file:
            file.write(content.encode())
