"""A dataset that TFDS has prepared, by its name; TensorFlow is not needed, and nothing is downloaded."""

import contextlib
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from diffusion.data import catalog, fingerprints, identities
from diffusion.data.sources.columns import CLASSES
from diffusion.data.sources.spec import IMAGE_LIMIT, DataSpec, RandomAccess
from diffusion.data.sources.table_records import stamp_of
from diffusion.data.transforms import check_side, decode, decode_any, decode_square
from diffusion.io import failures, files, limits, opener, pictures

if TYPE_CHECKING:
    import tensorflow_datasets


def describe(name: str, split: str, data_dir: str = "", varied: tuple[int, ...] = ()) -> DataSpec:
    """Describes a split without reading its records; a bundled dataset is prepared first if it is missing.

    Args:
        name: TFDS name, `name[/config][:version]`.
        split: split name, or a part of it in TFDS's notation.
        data_dir: folder of prepared datasets; "" for the default: TFDS_DATA_DIR or ~/tensorflow_datasets, and for the
            bundled datasets DIFFUSION_CACHE/tfds, by default ~/.cache/diffusion/tfds.
        varied: (H, W) of the samples, where images keep their sizes; () where all have one.

    Returns:
        The `DataSpec`.

    Raises:
        FileNotFoundError: if the dataset or one of its files is missing; nothing is ever downloaded.
        ValueError: if the dataset has no such split, does not hold images, or lies in a folder that is not safe to
            open.
    """
    return _spec(_builder(name, data_dir), name, split, varied)


def shape(name: str, split: str, data_dir: str = "") -> tuple[int, int, int]:
    """Returns the shape (H, W, C) of the images of a split; unlike `describe`, it prepares nothing.

    The splits of a bundled dataset are known once it is prepared; before that, any split has its shape.

    Args:
        name, split, data_dir: name of the dataset, its split, and the folder of prepared datasets, as in `describe`.

    Raises:
        FileNotFoundError, ValueError: as in `describe`.
    """
    bundled = catalog.bundled_name(name, data_dir)
    if not bundled:
        return describe(name, split, data_dir).shape
    builder = catalog.bundled(bundled)(data_dir=str(files.cache("tfds")), file_format="array_record")
    if builder.info.splits:
        _examples(builder.info, name, split)
    return cast(tuple[int, int, int], tuple(builder.info.features["image"].shape))


def open_source(
    name: str, split: str, data_dir: str = "", side: int = 0, varied: tuple[int, ...] = ()
) -> tuple["Records", DataSpec]:
    """Opens a split for random access.

    Args:
        name, split, data_dir: name of the dataset, its split, and the folder of prepared datasets, as in `describe`.
        side: height and width of the squares that images become, see `transforms.decode_square`; 0 for images that
            have one size already.
        varied: (H, W) for `spec.shape`, where images keep their sizes and `data.buckets` fits them; () where all have
            one size.

    Returns:
        The records, {"image": uint8 [H, W, C], "label": int in 0..num_classes - 1} each ("label" only where the dataset
        has classes), and the `DataSpec`.

    Raises:
        FileNotFoundError, ValueError: as in `describe`; a ValueError also for a side that no image has.
    """
    check_side(side)
    import tensorflow_datasets  # imported here: it takes half a second

    builder = _builder(name, data_dir)
    spec = _spec(builder, name, split, (side, side) if side else varied)
    where = catalog.find(name, data_dir)
    with _read_by_tfds(where):
        paths = builder.info.splits[split].filepaths
    for path in paths:
        try:
            opener.check(path, within=Path(path).parent)
        except FileNotFoundError:
            raise FileNotFoundError(f"{name} ({split}): {path} is missing; prepare the dataset again.") from None
    if not spec.size:
        raise ValueError(f"{name} ({split}) holds no records.")
    held = sum(Path(path).stat().st_size for path in paths)
    if spec.size > held:  # else the order of an epoch alone would fill the memory
        raise ValueError(
            f"{name} ({split}) declares {spec.size:,} records, but its files have {held:,} bytes; prepare it again."
        )
    # Images stay encoded: other image features are not needed, and "image" is decoded where its errors can be named.
    features = cast(tensorflow_datasets.features.FeaturesDict, builder.info.features).items()
    skip = {
        key: tensorflow_datasets.decode.SkipDecoding()
        for key, feature in features
        if isinstance(feature, tensorflow_datasets.features.Image)
    }
    if side:
        read = functools.partial(decode_square, side=side, channels=spec.shape[2], limit=IMAGE_LIMIT)
    elif varied:
        read = functools.partial(decode_any, channels=spec.shape[2], limit=IMAGE_LIMIT)
    else:
        read = functools.partial(decode, shape=spec.shape)
    with _read_by_tfds(where):  # (TFDS's decorator hides the parameters.)
        encoded = builder.as_data_source(split, decoders=skip)  # pyright: ignore[reportCallIssue]
    return Records(encoded, spec, read, keep=not varied, where=str(where)), spec


def tfds(dataset: str, split: str, folder: str = "", side: int = 0, varied: tuple[int, ...] = ()) -> "Records":
    """The source of a dataset that TFDS has prepared: `config.data.name` in `config.data.dir`.

    Args:
        dataset: the name of the dataset.
        split: the split, or a part of it in TFDS's notation.
        folder: the folder of prepared datasets; "" for the default.
        side, varied: the sizes of the images, as in `open_source`.

    Raises:
        FileNotFoundError, ValueError: as in `describe`.
    """
    return open_source(dataset, split, folder, side, varied)[0]


def column(name: str, split: str, feature: str, data_dir: str = "") -> list[Any]:
    """Returns one feature of every record of a split, in the order of the records, without decoding an image.

    Args:
        name, split, data_dir: name of the dataset, its split, and the folder of prepared datasets, as in `describe`.
        feature: the name of the feature: "caption" or another text (str), a number or a class (int or float).

    Raises:
        FileNotFoundError, ValueError: as in `describe`, or the dataset has no such feature.
    """
    return open_source(name, split, data_dir, varied=(1, 1))[0].column(feature)


class Records(RandomAccess):
    """The decoded records of a split; a small dataset stays in memory once it has been read."""

    _mend = "The dataset on disk is damaged or does not fit its description: prepare it again"

    def __init__(
        self, encoded: Any, spec: DataSpec, read: Callable[[bytes], np.ndarray], keep: bool = True, where: str = ""
    ):
        """Wraps a TFDS data source of encoded images, which `read` decodes."""
        super().__init__()
        self._encoded = encoded
        self.spec = spec
        self.where = where
        self._decode_image = read
        self._keep = keep and self._fits_memory()

    def _place(self, row: int) -> str:
        return f"{self.spec.name} ({self.spec.split}): record {row}"

    def _stored(self, rows: list[int]) -> list[dict[str, Any]]:
        return self._encoded.__getitems__(rows)

    def _record(self, row: int, stored: dict[str, Any]) -> dict[str, Any]:
        image = self._decode_image(stored["image"])
        image.flags.writeable = False  # it may be handed out again
        if not self.spec.num_classes:
            return {"image": image}
        label = int(stored["label"])
        if not 0 <= label < self.spec.num_classes:
            raise ValueError(f"its label is {label}. Valid: 0..{self.spec.num_classes - 1}")
        return {"image": image, "label": label}

    def _bytes(self, stored: Any) -> bytes:
        values = (stored[name] for name in sorted(stored))
        return fingerprints.digest(x if isinstance(x, bytes) else np.asarray(x).tobytes() for x in values).encode()

    def captions(self) -> list[str]:
        """The feature "caption" of each record; errors as in `column`."""
        return self.column("caption")

    def column(self, feature: str) -> list[Any]:
        """One feature of every record, a text or a number, in the order of the records, without decoding an image.

        Raises:
            ValueError: if the dataset has no such feature.
        """
        import tensorflow_datasets

        features = dict(cast(tensorflow_datasets.features.FeaturesDict, self._encoded.dataset_info.features).items())
        if not isinstance(
            features.get(feature),
            tensorflow_datasets.features.Text
            | tensorflow_datasets.features.Scalar
            | tensorflow_datasets.features.ClassLabel,
        ):
            have = ", ".join(f"{key} ({type(value).__name__})" for key, value in sorted(features.items()))
            raise ValueError(
                f"{self.spec.name} has no feature {feature!r} that is a text or a number; its features are {have}."
            )
        values = []
        for first in range(0, len(self), 1000):
            some = self._encoded.__getitems__(range(first, min(first + 1000, len(self))))
            values += [record[feature] for record in some]
        return [value.decode() if isinstance(value, bytes) else np.asarray(value).item() for value in values]

    def fingerprint(self) -> dict[str, int | str]:
        """The number of the split's records and bytes, and a digest of some records as they are stored.

        Returns:
            {"records", "bytes", "sha256"}, the same wherever the files lie and whenever they were written.
        """
        paths = self._encoded.dataset_info.splits[self.spec.split].filepaths
        held = sum(Path(path).stat().st_size for path in paths)
        return {"records": len(self), "bytes": held, "sha256": self._sampled()}

    def identities(self) -> np.ndarray:
        """The identities of the records in the dataset's files, see `data.identities`."""
        info = self._encoded.dataset_info
        parts = info.splits[self.spec.split].file_instructions
        files = [(Path(part.filename).name, range(part.skip, part.skip + part.take)) for part in parts]
        return np.concatenate([identities.numbered(info.full_name, *file) for file in files])

    def stamp(self) -> str:
        """sha256 of the split's description and of its files' names, lengths and times of change; reads no record."""
        paths = self._encoded.dataset_info.splits[self.spec.split].filepaths
        known = [self.spec.name, self.spec.version, self.spec.split, self.spec.size, stamp_of(paths)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def sizes(self, rows: Sequence[int]) -> np.ndarray:
        """Returns the heights and widths of the images of many rows, int64 [n, 2], read only from their headers.

        Raises:
            DamagedRecord: if a record is damaged, or does not begin as an image does.
            failures.Unreadable: if this machine could not read the file.
        """
        return self._sizes(rows, "image", lambda data: pictures.opened(data, "its image"))


def _spec(
    builder: "tensorflow_datasets.core.DatasetBuilder", name: str, split: str, size: tuple[int, ...] = ()
) -> DataSpec:
    """Checks that a dataset has the features that the pipeline needs, and describes it."""
    import tensorflow_datasets

    info = builder.info
    examples = _examples(info, name, split)
    _require_forward_parts(info.splits, name, split)
    features = dict(sorted(cast(tensorflow_datasets.features.FeaturesDict, info.features).items()))
    feature = features.get("image")
    have = ", ".join(f"{key} ({type(value).__name__})" for key, value in features.items())
    if not isinstance(feature, tensorflow_datasets.features.Image):
        raise ValueError(f"{name} has no image feature named 'image'; its features are {have}.")
    stored = cast(tuple[int | None, ...], feature.shape)
    dtype = np.dtype(cast(Any, feature.np_dtype))
    shape = (*size, *stored[2:]) if size else stored
    if None in shape or len(shape) != 3 or shape[-1] not in (1, 3, 4) or dtype != np.uint8:
        raise ValueError(
            f"{name}: its images are {dtype} {shape} (None: this side varies) and cannot be batched. Prepare the "
            "dataset as uint8 images of one size, (H, W, 1), (H, W, 3) or (H, W, 4); or name the side of squares to "
            "which all are resized; or train with config.data.buckets."
        )
    sides = cast(tuple[int, int, int], tuple(shape))
    if math.prod(sides) > IMAGE_LIMIT:
        raise ValueError(
            f"{name} declares images of {shape}, {limits.size(math.prod(sides))} each; at most "
            f"{limits.size(IMAGE_LIMIT)} are read. Prepare it with smaller images."
        )
    label = features.get("label")
    classes = ()
    if isinstance(label, tensorflow_datasets.features.ClassLabel) and label.num_classes:
        if label.num_classes > CLASSES:
            raise ValueError(f"{name} declares {label.num_classes:,} classes; at most {CLASSES:,} are read.")
        classes = tuple(label.names)
    return DataSpec(name, split, sides, len(classes), examples, str(info.version), classes=classes)


def _examples(info: "tensorflow_datasets.core.DatasetInfo", name: str, split: str) -> int:
    """The number of a split's records; refuses an unknown split."""
    try:
        return info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(f"{name} has no split {split!r}; its splits are {', '.join(sorted(info.splits))}.") from error


def _require_forward_parts(splits: "tensorflow_datasets.core.SplitDict", name: str, split: str) -> None:
    """Refuses parts such as "train[10:5]", of which TFDS counts or reads the wrong records."""
    import tensorflow_datasets

    for part in tensorflow_datasets.core.ReadInstruction.from_spec(split).to_absolute(splits):
        first = part.from_ or 0
        last = splits[part.splitname].num_examples if part.to is None else part.to
        if last < first:
            raise ValueError(
                f"{name}: a part of split {split!r} ends before it begins ([{first}:{last}] of {part.splitname!r})."
            )


@contextlib.contextmanager
def _read_by_tfds(folder: Path) -> Iterator[None]:
    """Names the folder where TFDS cannot read a description, whose errors have many types and no file."""
    try:
        yield
    except (FileNotFoundError, limits.Refused):
        raise
    except Exception as error:  # of TFDS, of protobuf, and of what they call
        if failures.is_machine_failure(error):
            raise
        raise ValueError(
            f"{folder}: its dataset_info.json or features.json is not as TFDS writes it: {limits.reason(error)}. "
            "Prepare the dataset again."
        ) from error


def _builder(name: str, data_dir: str) -> "tensorflow_datasets.core.DatasetBuilder":
    """Opens the folder of a prepared dataset."""
    import tensorflow_datasets

    folder = catalog.find(name, data_dir)
    catalog.check_folder(folder)
    with _read_by_tfds(folder):
        builder = tensorflow_datasets.builder_from_directory(folder)
        file_format = builder.info.file_format
    if file_format is not tensorflow_datasets.core.FileFormat.ARRAY_RECORD:
        stored = getattr(file_format, "value", None)
        raise ValueError(
            f"{name} in {folder} is stored as {stored}, which has no random access. Write it again with "
            "file_format='array_record' (python -m tensorflow_datasets.scripts.convert_format --help)."
        )
    return builder
