"""Prepares the captions of a dataset for training: learns a vocabulary, or stores the output of a text encoder.

    diffusion encode_text --data=shapes@train --vocabulary=1024 --length=24 --out=runs/text/tokenizer
    diffusion encode_text --data=shapes@train --tokenizer=runs/text/tokenizer \\
        --text_encoder=runs/text/text_encoder --out=runs/text/captions

The first command learns a byte-pair encoding from the captions, and writes it in CLIP's format. The second command runs
a text encoder (a folder of CLIP's text encoder or T5's encoder) once for each distinct caption. Training then reads the
stored output (config.data.text.dir), and needs no text encoder.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("data", None, "dataset with captions, as NAME@SPLIT, e.g. shapes@train, or '{SOURCE}@train'")
    flags.DEFINE_string("data_dir", None, "folder of prepared datasets; TFDS_DATA_DIR by default")
    flags.DEFINE_integer("vocabulary", 0, "largest size of a vocabulary to learn", lower_bound=0)
    flags.DEFINE_integer("length", 24, "length of a tokenized text, including start and end token")
    flags.DEFINE_string("tokenizer", None, "folder of a learned vocabulary")
    flags.DEFINE_string("text_encoder", None, "folder of a text encoder to run on the captions")
    flags.DEFINE_string("out", None, "folder for the results, created if missing")
    flags.mark_flags_as_required(["data", "out"])
    command_line.begin()

import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

from diffusion import text
from diffusion.data import captions, identities, sources
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.io import files, limits
from diffusion.models import interchange
from diffusion.published.pixart import pipeline
from diffusion.recipe import ConfigError
from diffusion.recipe.data import named
from diffusion.text import byte_pairs


def vocabulary(data: str | sources.Source, out: str | pathlib.Path, size: int, length: int, data_dir: str = "") -> int:
    """Learns a vocabulary from the captions of a split, and writes it.

    Args:
        data: a source, or its name with the split, in the form of `--data`.
        out: the folder for the vocabulary; empty, or not there yet.
        size: the largest number of ids.
        length: the length of a tokenized text, including start and end token.
        data_dir: the folder of prepared datasets; "" for TFDS's default.

    Returns:
        The number of ids.

    Raises:
        ConfigError: if the dataset does not exist or has empty captions, a number is out of range, or a caption is too
            long.
        FileExistsError: if `out` holds files, which would be removed.
    """
    workdir.output_folder(out)
    if pathlib.Path(out).is_dir() and any(pathlib.Path(out).iterdir()):
        raise FileExistsError(f"{out} holds files already; choose another folder, or remove it first.")
    texts = _texts(named(data, data_dir))
    with files.whole_folder(out) as new:
        try:
            learned = byte_pairs.learn(texts, size)
            byte_pairs.write(new, learned, length)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        _tokens(texts, text.Tokenizer.open(new))
    return len(learned.ids)


def run(
    text_encoder: str | pathlib.Path,
    tokenizer: str | pathlib.Path,
    data: str | sources.Source,
    out: str | pathlib.Path,
    data_dir: str = "",
) -> captions.Table:
    """Runs a text encoder on the captions of a split, and writes and returns its outputs.

    Args:
        text_encoder: the folder of the text encoder.
        tokenizer: the folder of its vocabulary.
        data: a source, or its name with the split, in the form of `--data`.
        out: the folder for the outputs.
        data_dir: the folder of prepared datasets; "" for TFDS's default.

    Raises:
        ConfigError: if the dataset does not exist or has empty captions, or a caption is longer than the vocabulary or
            the encoder supports.
        CacheError: if `out` holds the captions of another dataset, the output of another encoder or tokenizer, or
            other files, such as a run.
    """
    others = files.other_names(pathlib.Path(out), captions.ARRAYS.__eq__)
    if others and not (pathlib.Path(out) / captions.INDEX).is_file():
        raise captions.CacheError(
            f"{out} holds {others}, but no captions. Valid: a new or empty folder, or the folder of these captions."
        )
    source = named(data, data_dir)
    texts = _texts(source)
    module, params = interchange.load(text_encoder)
    vocabulary = text.Tokenizer.open(tokenizer)
    tokens = _tokens(texts, vocabulary)
    encoder = text.Encoder.from_module(vocabulary, module, params, **captions.READING)
    description = captions.describe(
        source.spec, captions.encoder_fingerprint(params), texts, identities.order_of(source), tokens
    )
    _require_same(out, description)
    try:
        table = captions.table(texts, lambda few: pipeline.pixart(few, encoder))
    except ValueError as error:
        raise ConfigError(f"--text_encoder={text_encoder} does not take the texts of {tokenizer}: {error}") from error
    captions.write(out, table, description)
    return table


def _require_same(folder: str | pathlib.Path, description: Mapping[str, Any]) -> None:
    """Refuses to replace the captions of another dataset, or the output of another encoder or tokenizer."""
    try:
        before = captions.description_of(folder)
    except (FileNotFoundError, captions.CacheError, limits.Refused):
        return  # there are none, or none that can be read
    there, now = ({**note["dataset"], "encoder": note.get("encoder")} for note in (before, description))
    if "tokens" in before:  # earlier versions did not store them
        there["tokens"], now["tokens"] = before["tokens"], description["tokens"]
    if differs := [f"{name}: {there.get(name)!r} -> {now[name]!r}" for name in now if there.get(name) != now[name]]:
        raise captions.CacheError(
            f"{folder} holds other captions than these: {'; '.join(differs)}. Choose another folder, or remove it."
        )


def _tokens(texts: list[str], vocabulary: text.Tokenizer) -> text.Tokens:
    """The captions as tokens; refuses captions that are longer than the vocabulary's texts."""
    tokens = vocabulary(texts)
    if cut := [(caption, rest) for caption, rest in zip(texts, tokens.cut) if rest]:
        longest = max(len(vocabulary.ids(caption)) for caption, _ in cut) + vocabulary.length - vocabulary.room
        raise ConfigError(
            f"{len(cut)} captions are longer than {vocabulary.length} ids, the length of a text in this vocabulary, "
            f"e.g. {cut[0][0]!r}, from which {cut[0][1]!r} would be left out. Valid: a length of at least {longest} "
            "(config.vocabulary.length, --length), or a vocabulary of more ids, which needs fewer for a text."
        )
    return tokens


def _texts(source: sources.Source) -> list[str]:
    try:
        return captions.texts_of(source)
    except ValueError as error:
        raise ConfigError(f"--data: {error}") from error


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    if bool(values.vocabulary) == bool(values.text_encoder):
        raise ConfigError("name either --vocabulary=SIZE, to learn one, or --text_encoder=FOLDER, to run the encoder.")
    if values.vocabulary:
        flag_errors.refuse(["tokenizer"], "has no effect with --vocabulary, which learns a new one.")
        number = vocabulary(values.data, values.out, values.vocabulary, values.length, values.data_dir or "")
        print(f"{values.out}: a vocabulary of {number} ids, for texts of {values.length}")
        return
    flag_errors.refuse(["length"], "has no effect with --text_encoder: the texts have the length of its --tokenizer.")
    if not values.tokenizer:
        raise ConfigError("--tokenizer is missing: name the folder of the text encoder's vocabulary.")
    table = run(values.text_encoder, values.tokenizer, values.data, values.out, values.data_dir or "")
    rows = next(iter(table.entries.values()))
    print(
        f"{values.out}: {len(rows) - 1:,} captions of {len(table.row):,} pictures of {values.data}, "
        f"{'x'.join(map(str, rows.shape[1:]))} each. Train on them by "
        + shlex.quote(f"--config.data.text.dir={values.out}")
    )


if __name__ == "__main__":
    command_line.run(
        main, (*autoencoder_folders.FAILURES, captions.CacheError, sources.DamagedRecord, OSError), compiles=True
    )
