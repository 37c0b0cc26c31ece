"""What networks are told of a dataset's captions: a vocabulary of their words, and what a text encoder makes of each.

    diffusion encode_text --data=shapes@train --vocabulary=1024 --length=24 --out=runs/text/tokenizer
    diffusion encode_text --data=shapes@train --tokenizer=runs/text/tokenizer \\
        --text_encoder=runs/text/text_encoder --out=runs/text/captions

The first learns byte pairs from the captions, and writes them as CLIP's are published. The second runs a text encoder
(a folder of CLIP's text tower or T5's encoder) once for each distinct caption; training (config.data.text.dir) then
reads what it said, and needs no text encoder.
"""

from absl import flags

from diffusion.experiments.config import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("data", None, "the pictures, NAME@SPLIT, e.g. shapes@train")
    flags.DEFINE_string("data_dir", None, "folder of prepared datasets; TFDS_DATA_DIR by default")
    flags.DEFINE_integer("vocabulary", 0, "learn a vocabulary of this many ids at most", lower_bound=0)
    flags.DEFINE_integer("length", 24, "of a text in ids, start and end among them")
    flags.DEFINE_string("tokenizer", None, "folder of a vocabulary")
    flags.DEFINE_string("text_encoder", None, "folder of a text encoder, to run on the captions")
    flags.DEFINE_string("out", None, "folder to write, made if missing")
    flags.mark_flags_as_required(["data", "out"])
    command_line.begin()

import pathlib
import shlex

from diffusion import text
from diffusion.data import captions, sources
from diffusion.experiments.config import ConfigError
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.io import files
from diffusion.models import interchange
from diffusion.text import byte_pairs


def vocabulary(data: str, out: str | pathlib.Path, size: int, length: int, data_dir: str = "") -> int:
    """Learns a vocabulary from the captions of a split, and writes it.

    Args:
        data: NAME@SPLIT.
        out: folder of the vocabulary.
        size: the most ids.
        length: of a text in ids.
        data_dir: folder of prepared datasets.

    Returns:
        The number of ids.

    Raises:
        ConfigError: if the dataset is not there or has empty captions, a number is out of range, or a caption too
            long.
    """
    found = _texts(data, data_dir)
    with files.whole_folder(out) as place:
        try:
            learned = byte_pairs.learn(found, size)
            byte_pairs.write(place, learned, length)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        _check_lengths(found, text.Tokenizer.open(place), data)
    return len(learned.ids)


def run(
    text_encoder: str | pathlib.Path,
    tokenizer: str | pathlib.Path,
    data: str,
    out: str | pathlib.Path,
    data_dir: str = "",
) -> captions.Table:
    """Writes what a text encoder says of the captions of a split.

    Args:
        text_encoder: folder of the network.
        tokenizer: folder of its vocabulary.
        data: NAME@SPLIT.
        out: folder of the captions.
        data_dir: folder of prepared datasets.

    Returns:
        What was written.

    Raises:
        ConfigError: if the dataset is not there or has empty captions, or a text is longer than the vocabulary takes.
    """
    found = _texts(data, data_dir)
    module, params = interchange.load(text_encoder)
    vocabulary = text.Tokenizer.open(tokenizer)
    _check_lengths(found, vocabulary, data)
    encoder = text.Encoder.of(vocabulary, module, params, **captions.READING)
    table = captions.table(found, lambda few: text.pixart(few, encoder))
    name, _, split = data.rpartition("@")
    spec = sources.describe(name, split, data_dir)
    captions.write(out, table, captions.describe(spec, captions.encoder_fingerprint(params)))
    return table


def _check_lengths(found: list[str], vocabulary: text.Tokenizer, data: str) -> None:
    if cut := [(caption, rest) for caption, rest in zip(found, vocabulary(found).cut) if rest]:
        longest = max(len(vocabulary.ids(caption)) for caption, _ in cut) + vocabulary.length - vocabulary.room
        raise ConfigError(
            f"{len(cut)} captions of {data} are longer than the {vocabulary.length} ids that the "
            f"vocabulary has for a text, e.g. {cut[0][0]!r}, of which {cut[0][1]!r} would be left out. "
            f"Valid: a length of at least {longest} (config.vocabulary.length, --length), or more ids."
        )


def _texts(data: str, data_dir: str) -> list[str]:
    name, at, split = data.rpartition("@")
    if not at:
        raise ConfigError(f"--data={data} is no dataset with its split. Valid: NAME@SPLIT, e.g. shapes@train.")
    try:
        return captions.texts_of(name, split, data_dir)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"--data={data}: {error}") from error


def main(argv: list[str]) -> None:
    """Runs the command line."""
    given = flags.FLAGS
    if bool(given.vocabulary) == bool(given.text_encoder):
        raise ConfigError("name one of --vocabulary (how many ids to learn) and --text_encoder (to run).")
    if given.vocabulary:
        number = vocabulary(given.data, given.out, given.vocabulary, given.length, given.data_dir or "")
        print(f"{given.out}: a vocabulary of {number} ids, for texts of {given.length}")
        return
    if not given.tokenizer:
        raise ConfigError("--tokenizer is missing: the folder of the text encoder's vocabulary.")
    table = run(given.text_encoder, given.tokenizer, given.data, given.out, given.data_dir or "")
    rows = next(iter(table.entries.values()))
    print(
        f"{given.out}: {len(rows) - 1:,} captions of {len(table.row):,} pictures of {given.data}, "
        f"{'x'.join(map(str, rows.shape[1:]))} each. Train on them by "
        + shlex.quote(f"--config.data.text.dir={given.out}")
    )


if __name__ == "__main__":
    command_line.run(main, (*autoencoder_folders.FAILURES, captions.CacheError, sources.DamagedRecord, OSError))
