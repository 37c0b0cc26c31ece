"""A cache of latents: an autoencoder's latent of every picture of a split, written once, read in training.

    FOLDER/latents.json                            what it holds, and of what; written last, so that no part is a cache
    FOLDER/latents-00003-of-00040.array_record     a run of records, each written under another name and then renamed
    FOLDER/encoding.json                           what is being written; a writing that was killed goes on from it

A record is the example's label and, for each view of its picture (as it is; mirrored), the mean and log variance of its
posterior. It holds moments, not draws, so that training draws another latent of a picture in every epoch, as it would
from the encoder itself; `scale` and `shift` are applied when a record is read, and stored beside it.
"""

import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data import fingerprints, identities, pipeline
from diffusion.data.sources import DataSpec
from diffusion.data.sources.spec import IndexedRecords, RandomAccess, Source
from diffusion.io import limits, opener

FORMAT = 1  # raised when a change makes older readers wrong
PARTS = {"moments": 2, "mean": 1}  # arrays of a view: the mean, and the log variance of a posterior that has one
VIEWS = ("plain", "flipped")
DTYPES = ("float32", "float16")
LABEL = np.dtype("<i4")  # before the arrays of a record
INDEX = "latents.json"
"""File of a cache that describes it, which is written last."""
ORDER = "order"  # entry of its note: a digest of the names of the records
LENGTHS = "lengths"  # entry of its note: a digest of the lengths of their files
BEGUN = "encoding.json"  # what a cache that is not finished will hold


class CacheError(ValueError):
    """A folder is no cache of the required latents; the message names what differs, and the next step."""


class Description(NamedTuple):
    """The description of a cache.

    Attributes:
        dataset: {"name", "version", "split", "size", "num_classes", "shape"} of the pictures.
        autoencoder: {"family", "config", "sha256"}: its architecture, its fields, and the hash of its weights.
        shape: the shape of a latent, (h, w, D), or (f, h, w, D) of a clip.
        kind: the kind of a record: "moments" of a posterior, from which each epoch draws again, or only its "mean".
        views: the views of each picture: "plain", and "flipped", its mirror image, where flips are wanted.
        dtype: the type of the numbers on disk: "float32", or "float16" of half the size.
        scale: the scale of the latents, one number or D: training reads scale (z - shift), of about unit variance.
        shift: the shift of the latents, one number or D.
    """

    dataset: dict[str, Any]
    autoencoder: dict[str, Any]
    shape: tuple[int, ...]
    kind: str
    views: tuple[str, ...]
    dtype: str
    scale: float | tuple[float, ...]
    shift: float | tuple[float, ...]

    @property
    def record(self) -> tuple[int, ...]:
        """The shape of the arrays of a record: [views, parts, h, w, D]."""
        return (len(self.views), PARTS[self.kind], *self.shape)

    @property
    def record_bytes(self) -> int:
        """The bytes of a record."""
        return LABEL.itemsize + limits.array_bytes("a cache of latents", self.record, np.dtype(self.dtype).itemsize)


def describe(folder: str | pathlib.Path) -> Description:
    """The description of a cache, without reading its records.

    Args:
        folder: a folder that `latent_writer.write` wrote.

    Raises:
        FileNotFoundError: if it holds no finished cache.
        CacheError, limits.Refused: if its description is damaged.
    """
    return parse(_index(folder), opener.read_json(_index(folder)))


def dataset_of(spec: DataSpec) -> dict[str, Any]:
    """The entry `dataset` of a description: what is known of the records of a split."""
    fields = ("name", "version", "split", "size", "num_classes")
    return {field: getattr(spec, field) for field in fields} | {"shape": list(spec.shape)}


def named(folder: str | pathlib.Path, name: str) -> str:
    """The dataset's name in a finished cache, even if its folder of data was renamed; without a cache `name`."""
    return describe(folder).dataset["name"] if (pathlib.Path(folder) / INDEX).is_file() else name


def open_cache(folder: str | pathlib.Path) -> tuple["Latents", DataSpec]:
    """Opens a cache for random access.

    Args:
        folder: a folder that `latent_writer.write` wrote.

    Returns:
        The latents, and their spec, which `pipeline.batches` takes; the latents' method `draw` must be the first of
        its augmentations.

    Raises:
        FileNotFoundError: if it holds no finished cache, or a file of it is missing.
        CacheError, limits.Refused: if its description is damaged, or a file does not have the length in it.
    """
    description = describe(folder)
    sizes = opener.read_json(_index(folder))["files"]
    for name, size in sizes.items():
        path = pathlib.Path(folder) / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. The command that wrote the cache of latents writes it again.")
        opener.check(path, within=folder)
        if path.stat().st_size != size:
            raise CacheError(
                f"{path} has {path.stat().st_size:,} bytes, but {size:,} were written. The command that wrote the "
                "cache of latents writes it again."
            )
    dataset = description.dataset
    held = sum(sizes.values())
    if dataset["size"] * description.record_bytes > held:  # else the order of an epoch alone would fill the memory
        raise CacheError(
            f"{folder} declares {dataset['size']:,} latents of {description.record_bytes:,} bytes each, and "
            f"its files have {held:,} bytes; write the cache again."
        )
    spec = DataSpec(
        dataset["name"],
        dataset["split"],
        description.shape,
        dataset["num_classes"],
        dataset["size"],
        dataset["version"],
        "float32",
    )
    return Latents(folder, list(sizes), description, spec), spec


class Latents(RandomAccess):
    """The records of a cache, {"x": [views, parts, h, w, D], "label"} each."""

    def __init__(self, folder: str | pathlib.Path, files: Sequence[str], description: Description, spec: DataSpec):
        """Opens no file yet."""
        super().__init__()
        self.description, self.spec, self.where = description, spec, str(folder)
        self._mend = (
            f"The cache on disk is damaged: remove {folder} and repeat the command that wrote it (diffusion encode, or "
            "the run whose folder it is in)"
        )
        # imported here: few runs have a cache
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        try:
            self._files = ArrayRecordDataSource([str(pathlib.Path(folder) / name) for name in files])
        except RuntimeError as error:
            raise CacheError(f"{folder} cannot be read: {limits.reason(error)}. {self._mend}.") from error
        self._scale, self._shift = (np.asarray(x, np.float32) for x in (description.scale, description.shift))

    def draw(self, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
        """Draws a latent for training; an augmentation, for which `pipeline` has an rng for each example.

            scale (mean + exp(log variance / 2) eps - shift),   eps ~ N(0, 1)

        Args:
            rng: the generator of the example.
            x: the arrays of a record, [views, parts, h, w, D]; a view is also drawn.

        Returns:
            float32 [h, w, D].
        """
        x = pipeline.view(rng, x)
        z = x[0].astype(np.float32)
        if len(x) == 2:
            z = z + np.exp(0.5 * x[1].astype(np.float32)) * rng.standard_normal(z.shape, np.float32)
        return self._scale * (z - self._shift)

    def fingerprint(self) -> dict[str, int | str]:
        """A fingerprint of the cache: the number of records, and a digest of some; as `sources.Records.fingerprint`."""
        return {"records": len(self), "sha256": self._sampled()}

    def _place(self, row: int) -> str:
        return f"latents of {self.spec.name} ({self.spec.split}): record {row}"

    def _stored(self, rows: list[int]) -> list[bytes]:
        return list(self._files.__getitems__(rows))

    def _bytes(self, stored: bytes) -> bytes:
        return stored

    def _record(self, row: int, stored: bytes) -> dict[str, Any]:
        if len(stored) != self.description.record_bytes:
            raise ValueError(f"it has {len(stored)} bytes instead of {self.description.record_bytes}")
        x = np.frombuffer(stored, self.description.dtype, offset=LABEL.itemsize).reshape(self.description.record)
        if not self.spec.num_classes:
            return {"x": x}
        label = int(np.frombuffer(stored, LABEL, 1)[0])
        if not 0 <= label < self.spec.num_classes:
            raise ValueError(f"its label is {label}. Valid: 0..{self.spec.num_classes - 1}")
        return {"x": x, "label": label}


# ==== What a cache is of ====


def differences(there: Description, required: Description) -> list[str]:
    """The differences of two descriptions, a phrase for each field: "autoencoder.sha256: 'ab..' -> 'cd..'"."""
    there, required = (json.loads(json.dumps(description._asdict())) for description in (there, required))
    return [f"{field}: {old!r} -> {new!r}" for field, old, new in _differing("", there, required)]


def _differing(path: str, there: Any, required: Any) -> list[tuple[str, Any, Any]]:
    """The entries in which two nested tables differ, as (path, value that is there, value required)."""
    if isinstance(there, dict) and isinstance(required, dict):
        return [
            item
            for key in sorted(there.keys() | required.keys())
            for item in _differing(f"{path}.{key}" if path else key, there.get(key), required.get(key))
        ]
    return [] if there == required else [(path, there, required)]


def require(
    description: Description, name: str, split: str, autoencoder: Mapping[str, Any] | None = None, where: str = "it"
) -> None:
    """Refuses a cache of other pictures, or of another autoencoder, than the run has.

    Args:
        description: the description of the cache.
        name: the name of the dataset, `name[/config][:version]`; without a version any will do.
        split: the split of the dataset.
        autoencoder: the autoencoder as `Description` has it; None if any will do.
        where: the place of the cache, for the message.

    Raises:
        CacheError: naming what differs.
    """
    dataset, (bare, _, version) = description.dataset, name.partition(":")
    required = {"name": bare, "split": split} | ({"version": version} if version else {})
    present = {key: dataset[key] for key in required}
    present["name"] = present["name"].partition(":")[0]
    differs = _differing("dataset", present, required)
    if autoencoder is not None:
        differs += _differing("autoencoder", description.autoencoder, dict(autoencoder))
    if differs:
        listed = "; ".join(f"{field} is {old!r} there, but the run needs {new!r}" for field, old, new in differs)
        raise CacheError(
            f"{where} holds other latents than this run needs: {listed}. Write the latents of this run by diffusion "
            "encode into another folder."
        )


def require_same_records(folder: str | pathlib.Path, source: Source) -> None:
    """Refuses captions and other facts of records that are not the pictures of a cache's latents.

    Latents and records have only their rows in common, so that another order would give a picture another's caption.

    Args:
        folder: the folder of a finished cache. Earlier versions noted no names, and some no fingerprint; a fingerprint
            is compared in what both state, and where the condition of the records is no part of it.
        source: the records, opened at the split of the cache.

    Raises:
        CacheError: if they are other records, or lie in another order.
        FileNotFoundError: as `describe`.
    """
    path = _index(folder)
    note = opener.read_json(path)
    size, spec = parse(path, note).dataset["size"], source.spec
    advice = "Put the old records back, or write the latents again by diffusion encode into another folder."
    if size != len(source):
        raise CacheError(
            f"{folder} holds latents of {size:,} records, but {spec.name} ({spec.split}) has {len(source):,} now. "
            + advice
        )
    if spec.version:  # a version of a dataset has its records in one order
        return
    require_same_order(folder, note, facts_of(source), advice)
    if spec.condition is None and (changes := fingerprints.changes(note.get("pictures") or {}, source.fingerprint())):
        raise CacheError(
            f"{folder} holds latents of other pictures than {spec.name} ({spec.split}) has now: {'; '.join(changes)}. "
            + advice
        )


def order_of_pictures(folder: str | pathlib.Path) -> str | None:
    """The order of the pictures that a finished cache notes, see `identities.order_of`; None where it notes none."""
    return opener.read_json(_index(folder)).get(ORDER)


def require_same_order(
    folder: str | pathlib.Path, note: Mapping[str, Any], facts: Mapping[str, str | None], advice: str
) -> None:
    """Refuses records with other names or lengths of their files, or in another order, than a cache's note states.

    Args:
        folder: the folder of the cache, for the message.
        note: the content of the note; it states neither where the records had no files of their own.
        facts: the facts of the records, from `facts_of`; those that are None are not compared.
        advice: the next step, for the message.

    Raises:
        CacheError: if they differ.
    """
    changed = {name for name, now in facts.items() if identities.have_changed(note.get(name), now)}
    if ORDER in changed:
        raise CacheError(
            f"{folder} holds latents of records with other names, or in another order: records were added, removed, "
            f"renamed or moved in their table since they were encoded. {advice}"
        )
    if LENGTHS in changed:
        raise CacheError(
            f"{folder} holds latents of other pictures: files of the same names have other lengths since they were "
            f"encoded. {advice}"
        )


def facts_of(source: IndexedRecords) -> dict[str, str | None]:
    """What a note states of the records beside their fingerprint, {`ORDER`, `LENGTHS`}; None for what is not known."""
    lengths = identities.lengths_of(source)
    known = None if lengths is None else fingerprints.digest([np.array(lengths, np.int64).tobytes()])
    return {ORDER: identities.order_of(source), LENGTHS: known}


def _index(folder: str | pathlib.Path) -> pathlib.Path:
    path = pathlib.Path(folder) / INDEX
    if not path.is_file():
        begun = (path.parent / BEGUN).is_file()
        what = "its writing was never finished; the command that began it goes on" if begun else "there is none"
        raise FileNotFoundError(
            f"{folder} holds no cache of latents: {what}. It is made by: "
            f"diffusion encode --autoencoder=FOLDER --data=NAME@SPLIT " + shlex.quote(f"--out={folder}")
        )
    return path


def parse(path: pathlib.Path, content: Any) -> Description:
    """A description from the content of a note, checked.

    Raises:
        CacheError: if it does not describe a cache.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CacheError(f"{path} does not describe a cache of latents in format {FORMAT}; write the cache again.")
    try:
        fields: dict[str, Any] = {name: content[name] for name in Description._fields}
        tuples: dict[str, Any] = {"shape": tuple(fields["shape"]), "views": tuple(fields["views"])}
        tuples |= {name: tuple(fields[name]) for name in ("scale", "shift") if isinstance(fields[name], list)}
        description = Description(**{**fields, **tuples})
        numbers = [*np.ravel(description.scale), *np.ravel(description.shift)]
        sound = (
            len(description.shape) in (3, 4)
            and description.kind in PARTS
            and description.dtype in DTYPES
            and description.record_bytes > 0
            and description.views in (VIEWS[:1], VIEWS)
            and all(np.isfinite(float(x)) for x in numbers)
            and isinstance(description.autoencoder, dict)
            and description.dataset["size"] > 0
            and description.dataset["num_classes"] >= 0
            and {type(description.dataset[key]) for key in ("name", "version", "split")} == {str}
            and type(description.dataset["num_classes"]) is type(description.dataset["size"]) is int
            and isinstance(content.get("pictures", {}), dict)
            and {type(content.get(name, "")) for name in (ORDER, LENGTHS)} == {str}
            and type(content["shard_records"]) is int
            and content["shard_records"] > 0
            and all(type(size) is int for size in content["files"].values())
            and np.broadcast_shapes(np.shape(description.scale), np.shape(description.shift), description.shape[-1:])
            == description.shape[-1:]
        )
        limits.inside(str(path), content["files"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CacheError(f"{path} is damaged ({error!r}); write the cache of latents again.") from error
    if not sound:
        raise CacheError(f"{path} is damaged: a field is out of range; write the cache of latents again.")
    return description
