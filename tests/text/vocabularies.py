"""Folders of tokenizers as people have them, from the vocabularies of tests/fixtures/text."""

import json
import pathlib
import shutil

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "text"
CLIP = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
SPECIAL = {
    "clip": {**CLIP, "pad_token": "<|endoftext|>"},
    "clip, padded with !": {**CLIP, "pad_token": "!"},
    "t5": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
}


def folder_of(place: pathlib.Path, kind: str, fixtures: pathlib.Path = FIXTURES, whole: bool = False) -> pathlib.Path:
    """Makes the folder of a tokenizer.

    Args:
        place: is made.
        kind: "clip", "clip, padded with !" or "t5".
        fixtures: where the vocabularies lie.
        whole: copy tokenizer.json in place of the vocabulary's parts.
    """
    place.mkdir(parents=True)
    parts = ("spiece.model",) if kind == "t5" else ("vocab.json", "merges.txt")
    for name in ("tokenizer.json",) if whole else parts:
        shutil.copy(fixtures / name, place / name)
    name, length = ("T5Tokenizer", 32) if kind == "t5" else ("CLIPTokenizer", 77)
    config = {"tokenizer_class": name, "model_max_length": length, **SPECIAL[kind]}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    return place
