"""Captions as conditions of training: a table with a row for each distinct caption, and each record's row number.

    FOLDER/captions.json           the note: the pictures that the captions belong to, and the text encoder
    FOLDER/captions.safetensors    the rows: an array [U, ...] for each entry of the condition; and "row" int32 [N]

The first row belongs to the empty caption, which stands for no condition (classifier-free guidance). A text encoder is
run once for each distinct caption of a dataset, and not in training.
"""

__all__ = [
    "INDEX",
    "Captioned",
    "Entries",
    "Table",
    "describe",
    "description_of",
    "encoder_fingerprint",
    "null",
    "read",
    "require",
    "require_order_of_latents",
    "require_same_texts",
    "table",
    "texts_of",
    "tokenized_stream",
    "tokens",
    "write",
]

import pathlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from diffusion.data import fingerprints, identities, pipeline, sources
from diffusion.data.latent_cache import ORDER, CacheError, order_of_pictures
from diffusion.data.sources import DataSpec
from diffusion.data.sources.combined_streams import CaptionedStream
from diffusion.data.sources.spec import Derived, ManyAtOnce
from diffusion.data.sources.streams import Stream
from diffusion.io import failures, files, json_files, limits, opener, safetensors_files
from diffusion.package import public
from diffusion.text import Tokenizer, Tokens, fingerprint

FORMAT = 1
INDEX = "captions.json"
"""The file that describes a folder of captions; it is written last."""
ARRAYS = "captions.safetensors"
ROW = "row"
READING = {"masked": True}  # a text encoder reads captions without the padding, as in PixArt

Entries = dict[str, np.ndarray]
"""The entries of a network's condition: arrays by name."""


class Table(NamedTuple):
    """The conditions of a dataset.

    Attributes:
        entries: the entries of the condition, {name: [U, ...]}; row 0 belongs to the empty caption.
        row: the row of each record, int32 [N].
    """

    entries: Entries
    row: np.ndarray

    @property
    def null(self) -> Entries:
        """The null condition, {name: [...]}."""
        return {name: rows[0] for name, rows in self.entries.items()}


class Captioned(Derived, ManyAtOnce):
    """A source that adds the table's entries for each record's caption, {name: [...]}, to the record.

    The entries are added to "condition", where they are a text encoder's input or output, or to "metadata", where they
    are the facts that a reward reads.
    """

    def __init__(self, source: sources.Source, table: Table, entry: str = "condition"):
        """Adds the table's entries to an entry of each record.

        Args:
            source: the source of N records.
            table: the table, whose `row` has N entries.
            entry: the entry of a record that receives the table's entries, "condition" or "metadata".

        Raises:
            CacheError: if the table has another number of records.
            ValueError: if the source's records have a condition without names, or with a name of the table.
        """
        if len(source) != len(table.row):
            raise CacheError(
                f"there are {len(source):,} records but captions for {len(table.row):,}; both must have the same number"
            )
        if entry == "condition":
            _require_other_names(source.spec.condition, table.entries)
        super().__init__(source)  # the description is that of the source, without the table's entries
        self._table, self._entry = table, entry

    def fingerprint(self) -> dict[str, int | str]:
        """The source's fingerprint with "conditions" or "metadata": a digest of all row numbers and of some rows."""
        row, entries = self._table.row, self._table.entries
        some = [entries[name][k].tobytes() for name in sorted(entries) for k in fingerprints.rows(len(entries[name]))]
        name = "conditions" if self._entry == "condition" else self._entry
        return super().fingerprint() | {name: fingerprints.digest([row.tobytes(), *some])}

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns many records; raises the errors of the source."""
        records = pipeline.fetch(self._of, np.asarray(rows))
        entries, entry = self._table.entries, self._entry
        return [
            record | {entry: {**record.get(entry, {}), **{name: entries[name][k] for name in entries}}}
            for record, k in zip(records, self._table.row[np.asarray(rows)])
        ]


def tokenized_stream(stream: Stream, tokenizer: str | pathlib.Path, names: Sequence[str]) -> CaptionedStream:
    """A stream that adds the tokens of captions to the "condition" of its records.

    Args:
        stream: the stream of records with captions.
        tokenizer: the folder of the vocabulary, see `text.Tokenizer`.
        names: the names of the entries that the network receives.

    Raises:
        FileNotFoundError: if the folder holds no vocabulary.
        ValueError: if the vocabulary is refused, the first record has no caption, or the records have a condition
            without names, or with one of `names`.
        DamagedRecord: if none of the first records has a caption.
    """
    _require_other_names(stream.spec.condition, names)
    read = _reader(tokenizer)
    return CaptionedStream(stream, lambda text: {name: rows[0] for name, rows in read([text]).items() if name in names})


def _require_other_names(condition: Any, names: Iterable[str]) -> None:
    """Refuses a condition to which captions cannot be added: one without names, or with a name of the captions."""
    if condition is not None and not (isinstance(condition, Mapping) and not condition.keys() & set(names)):
        raise ValueError(
            f"the condition of the records, {condition}, cannot hold the captions too. Valid: a mapping whose names "
            f'differ from {", ".join(names)}, e.g. condition = ("mask",)'
        )


def texts_of(source: sources.Source) -> list[str]:
    """The captions of a source, in the order of its records.

    Raises:
        ValueError: if the source has no captions, or some are empty; the message then lists the records.
    """
    spec = source.spec
    read = getattr(source, "captions", None)
    if read is None:
        raise ValueError(
            f"{spec.name} ({spec.split}) is a {type(source).__name__}, which has no captions. Valid: a source with a "
            "method captions(), e.g. picture_folder with a column of texts"
        )
    texts = [text.strip() for text in read()]
    if empty := [row for row, text in enumerate(texts) if not text]:
        listed = ", ".join(map(str, empty[:20])) + (", .." if len(empty) > 20 else "")
        raise ValueError(
            f"{spec.name} ({spec.split}): {len(empty)} of {len(texts)} captions are empty, at the records {listed} "
            "(counted from 0). Give each of these pictures a caption, or leave it out."
        )
    return texts


def table(texts: Sequence[str], read: Callable[[list[str]], Mapping[str, Any]], batch_size: int = 256) -> Table:
    """The table of captions.

    Args:
        texts: the caption of each record.
        read: a function from B texts to the entries of the condition, {name: [B, ...]}.
        batch_size: the number of texts that are read at once.
    """
    distinct = list(dict.fromkeys(["", *texts]))
    number = {text: i for i, text in enumerate(distinct)}
    parts = []
    for first in range(0, len(distinct), batch_size):
        few = distinct[first : first + batch_size]
        filled = few + [""] * (min(batch_size, len(distinct)) - len(few))  # one shape, one compilation
        parts.append({name: np.asarray(rows)[: len(few)] for name, rows in read(filled).items()})
    entries = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Table(entries, np.array([number[text] for text in texts], np.int32))


def tokens(texts: Sequence[str], tokenizer: str | pathlib.Path) -> Table:
    """The table of captions as the tokens of a vocabulary: {"ids": int32 [U, M], "mask": Bool [U, M]}.

    Args:
        texts: the caption of each record.
        tokenizer: the folder of the vocabulary, see `text.Tokenizer`.

    Raises:
        FileNotFoundError, ValueError: as `text.Tokenizer.open`.
    """
    return table(texts, _reader(tokenizer))


def _reader(tokenizer: str | pathlib.Path) -> Callable[[list[str]], Mapping[str, Any]]:
    """The function from texts to their tokens, {"ids": int32 [B, M], "mask": Bool [B, M]}."""
    vocabulary = Tokenizer.open(tokenizer)

    def read(few: list[str]) -> Mapping[str, Any]:
        read_as = vocabulary(few)
        return {"ids": read_as.ids, "mask": read_as.mask}

    return read


def encoder_fingerprint(params: Any) -> str:
    """The fingerprint that a folder of captions stores for a text encoder, computed from the encoder's parameters."""
    return fingerprint(params, **READING)


def describe(
    spec: DataSpec, encoder: str, texts: Sequence[str] = (), order: str | None = None, tokens: Tokens | None = None
) -> dict[str, Any]:
    """The note of a folder of captions.

    Args:
        spec: the description of the dataset.
        encoder: the fingerprint of the encoder that read the captions.
        texts: the caption of each record, of which the note holds a digest; () for no digest.
        order: a digest of the records' names, as `identities.order_of` returns it; None if they have no names.
        tokens: the captions in the encoder's vocabulary, of which the note holds a digest; None for no digest.
    """
    dataset = {"name": spec.name, "version": spec.version, "split": spec.split, "size": spec.size}
    known = ({"texts": _digest(texts)} if texts else {}) | ({} if order is None else {ORDER: order})
    if tokens is not None:
        known["tokens"] = fingerprints.digest([tokens.ids.tobytes(), tokens.mask.tobytes()])
    return {"format": FORMAT, "dataset": dataset, "encoder": encoder} | known


def _digest(texts: Sequence[str]) -> str:
    return fingerprints.digest(text.encode("utf-8", "surrogatepass") for text in texts)


def write(folder: str | pathlib.Path, contents: Table, description: Mapping[str, Any]) -> None:
    """Writes a table as a folder. The note comes last, so that an unfinished folder is not mistaken for a table."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    entries = {f"entries/{name}": np.ascontiguousarray(rows) for name, rows in contents.entries.items()}
    with files.atomic(folder / ARRAYS) as file:
        file.write(save(entries | {ROW: contents.row}))
    json_files.write(folder / INDEX, description)


def description_of(folder: str | pathlib.Path) -> dict[str, Any]:
    """The note of a folder.

    Raises:
        FileNotFoundError: if the folder holds no captions.
        CacheError, limits.Refused: if the note is damaged.
    """
    path = pathlib.Path(folder) / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no captions. They are written by: diffusion encode_text "
            f"--text_encoder=FOLDER --tokenizer=FOLDER --data=NAME@SPLIT " + shlex.quote(f"--out={folder}")
        )
    note = opener.read_json(path)
    if not isinstance(note, dict) or note.get("format") != FORMAT or not isinstance(note.get("dataset"), dict):
        raise CacheError(f"{path} does not describe captions in format {FORMAT}; write the captions again.")
    return note


def read(folder: str | pathlib.Path) -> Table:
    """The table of a folder.

    Raises:
        FileNotFoundError, CacheError, limits.Refused: as `description_of`, or for damaged arrays.
        failures.Unreadable: if this machine could not read the files.
    """
    path = pathlib.Path(folder) / ARRAYS
    description_of(folder)
    try:
        arrays = safetensors_files.load(path)
        row = arrays.pop(ROW)
    except (OSError, KeyError, limits.Refused) as error:
        raise _failure(path, error) from error
    entries = {name.removeprefix("entries/"): rows for name, rows in arrays.items()}
    if not entries or row.dtype != np.int32 or not all(0 <= row.min() and row.max() < len(a) for a in entries.values()):
        raise CacheError(f"{path} is damaged: its rows do not belong together; write the captions again.")
    return Table(entries, row)


def null(folder: str | pathlib.Path) -> Entries:
    """The condition of the empty caption, without reading the other rows; raises the errors of `read`."""
    path = pathlib.Path(folder) / ARRAYS
    description_of(folder)
    try:
        tensors = safetensors_files.header(path).tensors
        return {name.removeprefix("entries/"): np.array(one.read()[0]) for name, one in tensors.items() if name != ROW}
    except (OSError, IndexError, limits.Refused) as error:
        raise _failure(path, error) from error


def _failure(path: pathlib.Path, error: Exception) -> Exception:
    if failures.is_machine_failure(error):
        return failures.Unreadable(f"{path} could not be read: {error}. It may be sound.")
    return CacheError(f"{path} is damaged ({error}); write the captions again.")


def require(folder: str | pathlib.Path, name: str, split: str, size: int) -> None:
    """Refuses captions of other pictures than the run's.

    Args:
        folder: the folder of the captions.
        name: the name of the dataset, as in `latent_cache.require`.
        split: the split of the dataset.
        size: the number of records of the split.

    Raises:
        CacheError: if they differ; the message names the differences.
        FileNotFoundError: as `description_of`.
    """
    dataset, (bare, _, version) = description_of(folder)["dataset"], name.partition(":")
    required = {"name": bare, "split": split, "size": size} | ({"version": version} if version else {})
    present = {**dataset, "name": str(dataset.get("name")).partition(":")[0]}
    if differs := [
        f"{key} is {present.get(key)!r} there, but the run needs {value!r}"
        for key, value in required.items()
        if present.get(key) != value
    ]:
        raise CacheError(
            f"{folder} holds other captions: {'; '.join(differs)}. Write them by diffusion encode_text "
            "into another folder."
        )


def require_same_texts(folder: str | pathlib.Path, source: sources.Source) -> None:
    """Refuses captions that have changed, or are in another order, since a text encoder read them.

    Args:
        folder: the folder of the captions. A folder of an earlier version has no digest, and is accepted.
        source: the source of the records. A source without captions is accepted.

    Raises:
        CacheError: if they differ.
        FileNotFoundError: as `description_of`.
    """
    noted = description_of(folder).get("texts")
    if noted is None:
        return
    try:
        texts = texts_of(source)
    except ValueError:
        return
    if _digest(texts) != noted:
        raise CacheError(
            f"{folder} was written for other captions, or for the same ones in another order: the captions of the data "
            "have changed since. Write them again by diffusion encode_text into another folder."
        )


def require_order_of_latents(folder: str | pathlib.Path, latents: str | pathlib.Path) -> None:
    """Refuses captions whose records were in another order, or had other names, than the pictures of latents.

    Args:
        folder: the folder of the captions.
        latents: the folder of the cache of latents. If one of the two folders stores no order, both are accepted.

    Raises:
        CacheError: if they differ.
        FileNotFoundError: as `description_of` and `latent_cache.describe`.
    """
    if identities.have_changed(order_of_pictures(latents), description_of(folder).get(ORDER)):
        raise CacheError(
            f"the captions in {folder} and the latents in {latents} are of records with different names, or in a "
            "different order: the data changed between their encodings. Write both again, by diffusion encode_text and "
            "diffusion encode, into other folders."
        )


public.declare(__name__, renamed={"of_stream": "tokenized_stream"})
