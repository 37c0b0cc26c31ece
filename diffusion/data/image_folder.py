"""A folder of pictures with a metadata CSV as a TFDS dataset, for any captions of one's own.

    FOLDER/metadata.csv     file_name,caption[,category]
                            cat.png,a cat on a mat,animals
                            more/dog.jpg,a dog,animals

`prepare(FOLDER, name="mine", data_dir=DIR, side=64)` writes DIR/mine/1.0.0, which is read as any dataset is.
"""

import csv
import io
import pathlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from PIL import Image

from diffusion.data.sources import picture_files
from diffusion.data.transforms import square
from diffusion.io import limits, opener, pictures

METADATA = "metadata.csv"
REQUIRED, OPTIONAL = ("file_name", "caption"), ("category",)
VERSION = "1.0.0"


class Row(NamedTuple):
    """A line of the metadata.

    Attributes:
        file_name: the path of the picture, from the folder on.
        caption: the caption, which says what it shows.
        category: the kind of picture; "" where there is none.
    """

    file_name: str
    caption: str
    category: str


def read_metadata(folder: pathlib.Path) -> list[Row]:
    """Reads a folder's metadata, and checks all of it before any picture is opened.

    Args:
        folder: a folder with metadata.csv and the pictures that it names.

    Returns:
        Its rows, in their order.

    Raises:
        FileNotFoundError: there is no metadata, or pictures are missing: all of them are named.
        ValueError: a column is missing, unknown or there twice, captions are empty or files named twice (with their
            lines), or a name leads out of the folder.
    """
    path = folder / METADATA
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist. It must be a table of the pictures with the columns {_columns()}."
        )
    try:
        text = opener.text_of(opener.read(path, within=folder), path)
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = table.fieldnames or []
        numbered = [(table.line_num, line) for line in table]
    except (limits.Refused, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}. Valid: a CSV in UTF-8 with {_columns()}.") from None
    if set(REQUIRED) - set(names) or set(names) - set(REQUIRED + OPTIONAL) or len(set(names)) < len(names):
        raise ValueError(f"{path} has the columns {', '.join(map(str, names)) or 'none'}. Valid: {_columns()}.")
    if not numbered:
        raise ValueError(f"{path} names no picture.")
    if ragged := [line for line, row in numbered if None in row or None in row.values()]:
        raise ValueError(
            f"{path}: {_lines(ragged)} another number of values than there are columns; put a caption that contains a "
            "comma in quotes."
        )
    rows = [Row(*(str(row.get(name, "")).strip() for name in Row._fields)) for _, row in numbered]
    lines = [line for line, _ in numbered]
    if empty := [line for line, row in zip(lines, rows) if not row.caption]:
        raise ValueError(f"{path}: {_lines(empty)} an empty caption; give each picture one, or leave it out.")
    inner = lambda line, row: limits.inner(f"{path}: line {line}", row.file_name)
    rows = [row._replace(file_name=inner(line, row)) for line, row in zip(lines, rows)]
    if twice := [name for name, number in Counter(row.file_name for row in rows).items() if number > 1]:
        raise ValueError(f"{path} names files more than once: {', '.join(twice)}.")
    if missing := [row.file_name for row in rows if not (folder / row.file_name).is_file()]:
        listed = "\n  ".join(missing)
        raise FileNotFoundError(
            f"{path} names {len(missing)} of {len(rows)} pictures that are not in {folder}:\n  {listed}"
        )
    return rows


def prepare(folder: str | pathlib.Path, name: str, data_dir: str | pathlib.Path, side: int = 0) -> pathlib.Path:
    """Writes a folder of pictures as a dataset with the features image, caption and category, whole or not at all.

    Pictures of any mode become red, green and blue, transparent ones on white. The records are ordered by a hash of
    their names, so that "train[:90%]" is a fair part.

    Args:
        folder: the folder with metadata.csv, see `read_metadata`.
        name: the name of the dataset: a lower-case letter, then letters, digits and "_".
        data_dir: the folder of prepared datasets, made if missing.
        side: the side of the squares into which `transforms.decode_square` turns pictures; 0 for pictures that already
            have one size.

    Returns:
        The dataset's folder.

    Raises:
        FileNotFoundError, ValueError: as in `read_metadata`; for another name or a negative side; or a picture cannot
            be read or is of another size (all such pictures are named).
        FileExistsError: there is such a dataset.
    """
    folder = pathlib.Path(folder).expanduser()
    root = pathlib.Path(data_dir).expanduser()
    if not re.fullmatch(r"[a-z]\w*", name):
        raise ValueError(
            f"name = {name!r} must begin with a lower-case letter; the rest may be letters, digits and '_'."
        )
    if side < 0:
        raise ValueError(f"side = {side} must be at least 1, or 0 if all pictures have one size.")
    target = root / name / VERSION
    if target.exists():
        raise FileExistsError(f"{target} is there already; remove it, or choose another name.")
    rows = read_metadata(folder)
    picture_files.warn_of_unnamed(folder / METADATA, (row.file_name for row in rows))
    size = (side, side) if side else _one_size(folder, rows)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}-") as scratch:
        _builder(folder, name, rows, size, scratch).download_and_prepare()
        (pathlib.Path(scratch) / name / VERSION).rename(target)
    return target


def _builder(
    folder: pathlib.Path, called: str, rows: list[Row], size: tuple[int, int], data_dir: str
) -> tfds.core.DatasetBuilder:
    """The builder of one folder."""

    class ImageFolder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Pictures of a folder with their captions."""

        name = called
        VERSION = tfds.core.Version("1.0.0")
        url_infos = None

        def _info(self) -> tfds.core.DatasetInfo:
            image = tfds.features.Image(shape=(*size, 3), encoding_format="png")
            text = tfds.features.Text()
            features = tfds.features.FeaturesDict({"image": image, "caption": text, "category": text})
            return tfds.core.DatasetInfo(builder=self, description=f"Pictures of {folder}.", features=features)

        def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
            del dl_manager  # nothing to download
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
            for row in rows:
                image = _opened(folder, row.file_name)
                buffer = io.BytesIO()
                (image if image.size == size[::-1] else square(image, size[0])).save(buffer, format="png")
                yield row.file_name, {"image": buffer.getvalue(), "caption": row.caption, "category": row.category}

    return ImageFolder(data_dir=data_dir, file_format="array_record")


def _one_size(folder: pathlib.Path, rows: list[Row]) -> tuple[int, int]:
    """(height, width) of pictures that have one size."""
    sizes = {row.file_name: _header(folder, row.file_name) for row in rows}
    usual, _ = Counter(sizes.values()).most_common(1)[0]
    if others := [f"{name} ({size[0]} x {size[1]})" for name, size in sizes.items() if size != usual]:
        listed = ", ".join(others[:20]) + (f" and {len(others) - 20} more" if len(others) > 20 else "")
        raise ValueError(
            f"most pictures of {folder} have {usual[0]} x {usual[1]} pixels, but these do not: {listed}. Name the "
            "side to which all are cut and resized."
        )
    return usual[1], usual[0]


def _header(folder: pathlib.Path, name: str) -> tuple[int, int]:
    """(width, height) of a picture, read only from its header."""
    try:
        with pictures.opened(folder / name, within=folder) as image:
            return pictures.upright_size(image)
    except ValueError as error:
        raise _unreadable(folder, name, error) from None


def _opened(folder: pathlib.Path, name: str) -> Image.Image:
    """A picture in red, green and blue; transparent ones on white."""
    try:
        with pictures.opened(folder / name, within=folder) as image:
            pictures.require_eight_bits(image, "it")
            image.load()
            return pictures.on_white(pictures.upright(image))
    except pictures.DAMAGED as error:
        raise _unreadable(folder, name, error) from None


def _unreadable(folder: pathlib.Path, name: str, error: Exception) -> ValueError:
    return ValueError(f"{folder / name} cannot be read as a picture: {error}. Valid: {', '.join(pictures.FORMATS)}.")


def _columns() -> str:
    return f"{', '.join(REQUIRED)} and, by choice, {', '.join(OPTIONAL)}"


def _lines(numbers: list[int]) -> str:
    return f"line {numbers[0]} has" if len(numbers) == 1 else f"lines {', '.join(map(str, numbers))} have"
