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
    "bert": {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
}

# Their names here and in a folder; and the class and the length in tokenizer_config.json: those of all but CLIP.
FILES = {
    "t5": (("spiece.model", "spiece.model"),),
    "bert": (("vocab.txt", "vocab.txt"),),
    "gemma": (("gemma.json", "tokenizer.json"),),
}
LIBRARY = {"t5": ("T5Tokenizer", 32), "bert": ("BertTokenizer", 35), "gemma": ("PreTrainedTokenizerFast", 64)}


def folder_of(place: pathlib.Path, kind: str, fixtures: pathlib.Path = FIXTURES, whole: bool = False) -> pathlib.Path:
    """Makes the folder of a tokenizer.

    Args:
        place: the folder to make.
        kind: the kind of tokenizer, a key of SPECIAL.
        fixtures: the folder of the vocabularies.
        whole: whether to copy tokenizer.json in place of the vocabulary's parts.
    """
    place.mkdir(parents=True)
    parts = FILES.get(kind, (("vocab.json", "vocab.json"), ("merges.txt", "merges.txt")))
    for fixture, name in (("tokenizer.json", "tokenizer.json"),) if whole else parts:
        shutil.copy(fixtures / fixture, place / name)
    name, length = LIBRARY.get(kind, ("CLIPTokenizer", 77))
    config = {"tokenizer_class": name, "model_max_length": length, **SPECIAL[kind]}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    return place
