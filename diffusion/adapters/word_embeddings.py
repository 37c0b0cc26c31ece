"""New words for CLIP's text encoders: further rows of the tables of embeddings, and the files that people share.

| file                  | tensors                                                     |
|-----------------------|-------------------------------------------------------------|
| diffusers, SD         | "<word>" [K, D] or [D]                                      |
| AUTOMATIC1111, SD     | "emb_params" [K, D]; the word is the name of the file       |
| AUTOMATIC1111, .pt    | "string_to_param.*" [K, D]; the word is the name of the file|
| SDXL, SD 3            | "clip_l" [K, 768], "clip_g" [K, 1280]                       |

A word with K vectors becomes K consecutive tokens.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.io import safetensors_files
from diffusion.models.interchange import tensor_files
from diffusion.models.interchange.rows import Mismatch
from diffusion.models.text_encoders.clip import LEGACY_EOS, CLIPText
from diffusion.text.added_words import with_words

PARTS = ("clip_l", "clip_g")  # the names of CLIP's encoders in files, in the order of a pipeline's encoders
FILE = "learned_embeds.safetensors"
NAMELESS = ("emb_params", "string_to_param.*")  # the tensors' names in files that do not name their word
WORDS = "trigger_words"  # the entry of a file's metadata that names the word


class Word(NamedTuple):
    """A new word.

    Attributes:
        text: the word as it is written in prompts, e.g. "<cat-toy>".
        rows: {name of a text encoder: the embeddings of the word, [K, D]}.
    """

    text: str
    rows: Mapping[str, Any]


def encoders_of(model: Any) -> dict[str, CLIPText]:
    """The text encoders of CLIP in a `text_to_image.TextToImage`, by their names.

    Raises:
        ValueError: if the model has none.
    """
    towers = {name: _tower(model.modules[name]) for name in model.readers}
    if not any(towers.values()):
        raise ValueError(
            "words can only be added to a text encoder of CLIP, and this model has none. Valid: SD, SDXL, SD 3, Flux"
        )
    return {name: tower for name, tower in towers.items() if tower is not None}


def _tower(module: nn.Module) -> CLIPText | None:
    inner = getattr(module, "text", module)
    return inner if isinstance(inner, CLIPText) else None


def extended(model: Any, words: Sequence[Word]) -> Any:
    """The model with new words: its tokenizers recognise them, and its tables of embeddings end with their rows.

    Some encoders find the end of a text by the largest id. The new words have larger ids, so the encoders of the result
    find it by the id of the end token.

    Args:
        model: a `text_to_image.TextToImage`, with its weights or described.
        words: the new words, each with rows for all encoders of CLIP; for a described model, the rows need only have
            the right shapes.

    Raises:
        ValueError: if the model already has a word, or a vocabulary already has it as one token.
    """
    known = {text.lower() for text in model.words}
    for word in words:
        if word.text.lower() in known:
            raise ValueError(f"the model already has the word {word.text!r}. Valid: another word for one of the two")
        known.add(word.text.lower())
    modules, params, tokenizers = dict(model.modules), dict(model.params), dict(model.tokenizers)
    for name, tower in encoders_of(model).items():
        if replaced := next((word.text for word in words if len(tokenizers[name].ids(word.text)) == 1), None):
            raise ValueError(
                f"the word {replaced!r} is already a token of the vocabulary of {name}. Valid: another word, such as "
                f"'<{replaced}>' (embeddings={{FILE: '<{replaced}>'}}, --embedding='FILE:<{replaced}>')"
            )
        first = tower.vocabulary
        ids = {}
        for word in words:
            ids[word.text] = range(first, first + len(word.rows[name]))
            first += len(word.rows[name])
        tokenizers[name] = with_words(tokenizers[name], ids)
        eos = tokenizers[name].end[0] if tower.eos == LEGACY_EOS else tower.eos
        larger = tower.clone(vocabulary=first, eos=eos)
        modules[name] = larger if tower is modules[name] else modules[name].clone(text=larger)
        params[name] = with_rows(params[name], [word.rows[name] for word in words])
    texts = (*model.words, *(word.text for word in words))
    return model.replaced(modules=modules, params=params, tokenizers=tokenizers, words=texts)


def with_rows(params: Any, rows: Sequence[Any]) -> Any:
    """The parameters of a text encoder, with further rows, [K, D] each, at the end of the table of embeddings."""

    def leaf(path: tuple, table: Any) -> Any:
        if [key.key for key in path[-2:]] != ["tokens", "embedding"]:
            return table
        if isinstance(table, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((len(table) + sum(map(len, rows)), *table.shape[1:]), table.dtype)
        return jnp.concatenate([table, *(jnp.asarray(row).astype(table.dtype) for row in rows)])

    return jax.tree_util.tree_map_with_path(leaf, params)


def table_of(params: Any) -> Any:
    """The table of embeddings [V, D] of a text encoder."""
    inner = params["text"] if "tokens" not in params else params
    return inner["tokens"]["embedding"]


def save(folder: pathlib.Path, word: Word, metadata: Mapping[str, str]) -> pathlib.Path:
    """Writes a word in the form that diffusers reads; returns the path of the file.

    The tensor of a single encoder has the word as its name; the tensors of two are named as in files for SDXL.
    """
    rows = {name: np.asarray(row, np.float32) for name, row in word.rows.items()}
    tensors: dict[str, np.ndarray]
    tensors = {word.text: next(iter(rows.values()))} if len(rows) == 1 else dict(zip(PARTS, rows.values()))
    path = folder / FILE
    safetensors_files.save(path, tensors, {**metadata, WORDS: word.text})
    return path


def load(path: str | pathlib.Path, model: Any, text: str = "") -> Word:
    """Reads the file of a word.

    Args:
        path: a .safetensors file, or a file of torch.save (.bin, .pt), which is read without running code from it.
        model: the model that the word is for.
        text: the word in prompts; "" for the name of the file's tensor, the word in its metadata, or the file's name.

    Raises:
        FileNotFoundError: if there is no such file.
        Mismatch: if the file is of another kind or for another model; the message names the first wrong tensor.
        limits.Refused: if the file is damaged or hostile.
    """
    tensors = tensor_files.open_only(path)
    towers = encoders_of(model)
    names = list(tensors.shapes)
    if set(names) & set(PARTS):
        encoder_of = dict(zip(PARTS, towers))
        unknown = [name for name in names if name not in encoder_of]
    else:
        encoder_of = {names[0]: next(iter(towers))} if names else {}
        unknown = names[1:]
    wrong = [f"{name} belongs to no text encoder of the model" for name in unknown]
    wrong += [f"{name} is missing" for name in encoder_of if name not in names]
    if wrong or not encoder_of:
        valid = f"one tensor [K, D], or {', '.join(dict(zip(PARTS, towers)))}"
        raise Mismatch(f"{tensors.path}: {(wrong or ['it is empty'])[0]}. Valid: {valid}.")
    rows = {}
    for name, part in encoder_of.items():
        shape = tensors.shapes[name]
        if len(shape) not in (1, 2) or shape[-1] != towers[part].width:
            raise Mismatch(
                f"{tensors.path} belongs to another model: {name} has the shape {list(shape)}, and the words of "
                f"{part} have {towers[part].width} features."
            )
        if 0 in shape:
            raise Mismatch(
                f"{tensors.path}: {name} has the shape {list(shape)}, which holds no vector. Valid: [K, D], K >= 1."
            )
        rows[part] = np.atleast_2d(tensors.read(name).astype(np.float32))
    if len(encoder_of) < len(towers):
        raise Mismatch(
            f"{tensors.path} belongs to another model: it has embeddings for {', '.join(encoder_of)}, and this "
            f"model's encoders are {', '.join(towers)}."
        )
    named = names[0] if len(names) == 1 and names[0] not in (*NAMELESS, *PARTS) else ""
    said = tensor_files.metadata(tensors.path).get(WORDS, "")
    return Word(text or named or (said if len(said.split()) == 1 else "") or pathlib.Path(path).stem, rows)
