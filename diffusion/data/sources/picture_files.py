"""Folders of picture files: one folder for each class, or pictures with a table of captions and labels beside them.

    FOLDER/CLASS/picture.png                  class_folders; with splits FOLDER/train/CLASS/picture.png or
                                              FOLDER/CLASS/train/picture.png
    FOLDER/picture.png                        picture_folder; optionally with one of
    FOLDER/metadata.csv                         the columns file_name,caption,label,mask_file_name ...
    FOLDER/metadata.jsonl                       in each line {"file_name": "picture.png", "caption": "a cat"}
    FOLDER/picture.txt                          the caption of picture.png

Nothing is ever written into these folders.
"""

import csv
import io
import os
import pathlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusion.data.sources import splits
from diffusion.data.sources.columns import PictureFile
from diffusion.data.sources.table_records import Records, stamp_of
from diffusion.io import limits, opener

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
OTHERS = (".gif", ".avif", ".heic", ".heif", ".jfif", ".jpe", ".jp2", ".jxl", ".ppm", ".pgm", ".tga", ".psd", ".exr")
METADATA = ("metadata.csv", "metadata.jsonl")
OTHER_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".caption")
NUMBER = re.compile(r"\s*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\s*")  # Python reads 1_0 and nan, too
FILE = "file_name"  # the column that names the picture; "mask_file_name" etc. name further pictures of a record


def class_folders(
    path: str,
    split: str = "train",
    *,
    side: int = 0,
    label: str | None = None,
    classes: tuple[str, ...] = (),
    varied: tuple[int, ...] = (),
    viewed: bool = True,
) -> Records:
    """Opens a folder that has a folder of pictures for each class, whose name is the label and caption of its pictures.

    Args:
        path: the folder, with FOLDER/CLASS/..., or FOLDER/train/CLASS/... or FOLDER/CLASS/train/... and other splits.
        split: the split, or a part such as "train[:90%]".
        side: height and width of the squares that pictures become; 0 for pictures of one size.
        label: None if the folders are the labels; "" for no labels.
        classes: the names of the folders in the order of the classes' numbers; () for all folders, sorted.
        varied: (H, W) of the samples if pictures keep their sizes; () if all pictures have one size.
        viewed: whether pictures are read as a viewer shows them, as in `transforms.decode_square`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder holds no pictures in folders of classes.
    """
    table = ClassFolders(path, split)
    how = {"side": side, "varied": varied, "viewed": viewed}
    return Records(table, split, label=label, classes=classes, caption="label", **how)


def picture_folder(
    path: str,
    split: str = "train",
    *,
    x: str = "image",
    label: str | None = None,
    classes: tuple[str, ...] = (),
    condition: str | tuple[str, ...] = (),
    caption: str = "",
    side: int = 0,
    varied: tuple[int, ...] = (),
    viewed: bool = True,
) -> Records:
    """Opens a folder of pictures, with the columns of its metadata.csv, metadata.jsonl, or .txt files.

    Args:
        path: the folder; if it has a folder for each split, each of these has a table of its own.
        split: the split, or a part such as "train[:90%]".
        x, label, classes, condition, caption: the columns of the example, the label, the condition and the text, and
            the names of the classes, as in `table_records.Records`; "mask_file_name" is the column "mask".
        side: height and width of the squares that pictures become; 0 for pictures of one size.
        varied: (H, W) of the samples if pictures keep their sizes; () if all pictures have one size.
        viewed: whether pictures are read as a viewer shows them, as in `transforms.decode_square`.

    Raises:
        FileNotFoundError: if there is no such folder, or a picture that the table names is missing.
        ValueError: if the folder holds no pictures, or the table cannot be read.
    """
    table = PictureFolder(path, split)
    columns = {"x": x, "label": label, "classes": classes, "condition": condition, "caption": caption}
    return Records(table, split, side=side, varied=varied, viewed=viewed, **columns)


class _Files:
    """A table of picture files."""

    def __init__(self, path: str, split: str):
        self._folder = pathlib.Path(path).expanduser()
        if not self._folder.is_dir():
            raise FileNotFoundError(f"{self._folder}: there is no such folder.")
        self.where = str(self._folder)
        self.name = self._folder.name
        self._base = splits.parse(split).base

    def _split_folder(self) -> pathlib.Path:
        """The folder of the split: the folder with the split's name, or `path` itself if no folder names a split."""
        named = sorted(name for name in splits.NAMES if (self._folder / name).is_dir())
        if named:
            outside = [name for name in METADATA if (self._folder / name).is_file()]
            outside += [name for name in _listed(self._folder) if name.split("/")[0] not in named]
            if outside:
                warnings.warn(
                    f"{self._folder}: files that belong to no split are left out ({len(outside)}, e.g. {outside[0]}). "
                    f"Move them to {self._base!r}, or to another split; a table's names count from its own folder on",
                    stacklevel=2,
                )
        if self._base in named:
            return self._folder / self._base
        if named:
            raise ValueError(f"{self._folder} has no split {self._base!r}; its splits are {', '.join(named)}.")
        splits.require_train(self._base, str(self._folder))
        return self._folder

    def place(self, row: int) -> str:
        return str(self._paths[row])

    def record_name(self, row: int) -> str:
        """The name of the picture, with the folders below `where`."""
        return str(self._paths[row]).removeprefix(self.where).lstrip("/")

    def record_length(self, row: int) -> int:
        """The size of the picture's file in bytes."""
        return os.stat(self._paths[row]).st_size

    def stamp(self) -> Any:
        return stamp_of(self._paths)

    _paths: list[pathlib.Path]

    def __len__(self) -> int:
        return len(self._paths)


class ClassFolders(_Files):
    """Pictures that have as their label the name of the class's folder."""

    columns: tuple[str, ...] = ("image", "label")

    def __init__(self, path: str, split: str):
        super().__init__(path, split)
        folder, names = self._folder, pictures_in(self._folder)
        names = splits.files_of(self._base, names, self.where, splits.split_of_folders) if names else []
        self._labels = [splits.class_of(name) for name in names]
        loose = [name for name, label in zip(names, self._labels) if not label]
        if loose or not names:
            held = f"{len(loose)} pictures that lie in no class's folder, e.g. {loose[0]}" if loose else "no pictures"
            raise ValueError(
                f"{folder} holds {held}. Valid: FOLDER/CLASS/picture.png; for pictures without classes, "
                '{"name": "picture_folder"}.'
            )
        self._paths = [folder / name for name in names]

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        picture = lambda row: PictureFile(self._paths[row], self._folder)
        return [{name: picture(row) if name == "image" else self._labels[row] for name in columns} for row in rows]

    def column(self, name: str) -> Sequence[Any]:
        return self._labels


class PictureFolder(_Files):
    """Pictures with the columns of a table, or with the .txt files beside them."""

    def __init__(self, path: str, split: str):
        super().__init__(path, split)
        folder = self._split_folder()
        tables = [folder / name for name in METADATA if (folder / name).is_file()]
        if len(tables) > 1:
            raise ValueError(f"{folder} holds both {' and '.join(METADATA)}. Keep one of them.")
        rows = read_table(tables[0]) if tables else _sidecars(folder)
        if not rows:
            raise ValueError(f"{folder} holds neither pictures ({', '.join(PICTURES)}) nor {' or '.join(METADATA)}.")
        self._paths = [folder / row[FILE] for row in rows]
        others = [name for name in rows[0] if name != FILE]
        named = lambda name: name.removesuffix(f"_{FILE}")
        columns = Counter(["image", *map(named, others)])
        if twice := [name for name, number in columns.items() if number > 1]:
            sources = [name for name in rows[0] if twice[0] in (named(name), "image" if name == FILE else "")]
            raise ValueError(
                f"{tables[0]}: the columns {' and '.join(sources)} both make the column {twice[0]!r} of the records; "
                "rename or remove one of them."
            )
        self._values: dict[str, list[Any]] = {"image": [PictureFile(path, folder) for path in self._paths]}
        for name in others:
            files = name.endswith(f"_{FILE}")
            self._values[named(name)] = [
                PictureFile(folder / row[name], folder) if files else row[name] for row in rows
            ]
        self.columns = tuple(self._values)
        names = [value for row in rows for name, value in row.items() if name.endswith(FILE)]
        listed = _listed(folder)
        _require_there(folder, names, listed)
        if tables:
            warn_of_unnamed(tables[0], names, listed)

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        return [{name: self._values[name][row] for name in columns} for row in rows]

    def column(self, name: str) -> Sequence[Any]:
        return self._values[name]


def pictures_in(folder: pathlib.Path) -> list[str]:
    """The names of the picture files in a folder and below it; warns of pictures in formats that are not read."""
    files = splits.files_below(folder, PICTURES + OTHERS)
    splits.warn_of_others(folder, "pictures", [name for name in files if name.lower().endswith(OTHERS)], PICTURES)
    return [name for name in files if name.lower().endswith(PICTURES)]


def warn_of_unnamed(table: pathlib.Path, names: Iterable[str], files: Iterable[str] | None = None) -> None:
    """Warns of pictures in the folder of a table and below it that the table does not name, and that are left out.

    Args:
        table: the table, in the folder of its pictures.
        names: the names in the table, relative to the folder.
        files: the names of the pictures in the folder; None if the folder must be listed.
    """
    files = _listed(table.parent) if files is None else files
    if unnamed := sorted({*files}.difference(names)):
        listed = ", ".join(unnamed[:10]) + (" ..." if len(unnamed) > 10 else "")
        warnings.warn(
            f"{table} does not name {len(unnamed)} of the {len({*files})} pictures of its folder, which are left out: "
            f"{listed}. Add them to the table, or remove them",
            stacklevel=3,
        )


def _listed(folder: pathlib.Path) -> dict[str, bool]:
    """The picture files in a folder and below it, as in `splits.entries_below`; {} if the folder cannot be listed."""
    try:
        return splits.entries_below(folder, PICTURES)
    except (limits.Refused, OSError):
        return {}


def sidecar(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The text file with the caption of a picture, whose name is relative to the folder."""
    return (folder / name).with_suffix(".txt")


def _sidecars(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The pictures of a folder; if they have .txt files, with the contents of these as "caption"."""
    names = pictures_in(folder)
    texts = [sidecar(folder, name) for name in names]
    there = [text.is_file() for text in texts]
    if not any(there):
        _warn_of_tables(folder)
        return [{FILE: name} for name in names]
    if missing := [name for name, has in zip(names, there) if not has]:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(names)} pictures have no caption, e.g. {missing[0]} has no "
            f"{sidecar(folder, missing[0]).name}. Write these captions, which diffusion caption can do, or remove the "
            "pictures."
        )
    return [{FILE: name, "caption": opener.read_text(text, within=folder).strip()} for name, text in zip(names, texts)]


def _warn_of_tables(folder: pathlib.Path) -> None:
    """Warns of files that may hold captions or labels, but have no name or format that is read."""
    others = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in OTHER_TABLES)
    if others:
        warnings.warn(
            f"{folder}: captions and labels are not read from {', '.join(others[:3])}"
            f"{' ...' if len(others) > 3 else ''}. Valid: {', '.join(METADATA)} or a .txt file beside each picture",
            stacklevel=4,
        )


def read_table(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a metadata.csv or metadata.jsonl; in a CSV file, a column that holds only numbers is read as numbers.

    Raises:
        ValueError: if the table cannot be read, has no column file_name, a column twice or lines of different lengths,
            or names a file twice or outside the folder.
    """
    text = opener.text_of(opener.read(path, within=path.parent), path)
    rows = _jsonl(path, text) if path.suffix == ".jsonl" else _csv(path, text)
    if not rows:
        raise ValueError(f"{path} names no picture.")
    for name in [name for name in rows[0] if name.endswith(FILE)]:
        for number, row in enumerate(rows, 1):
            row[name] = limits.inner(f"{path}: row {number}", str(row[name]))
    names = [row[FILE] for row in rows]
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise ValueError(f"{path} names files more than once: {', '.join(twice[:10])}.")
    return rows


def _csv(path: pathlib.Path, text: str) -> list[dict[str, Any]]:
    """The lines of a CSV table; the values of a column become numbers if all of them are numbers written in digits."""
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = table.fieldnames or []
        numbered = [(table.line_num, row) for row in table]
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV file: {error}.") from None
    if FILE not in columns:
        raise ValueError(f"{path} has the columns {', '.join(map(str, columns)) or 'none'}, but no column {FILE}.")
    if twice := [name for name, number in Counter(columns).items() if number > 1]:
        raise ValueError(f"{path} has the column {twice[0]!r} more than once; rename or remove the others.")
    if ragged := [line for line, row in numbered if None in row or None in row.values()]:
        raise ValueError(
            f"{path}: line {ragged[0]} has another number of values than there are columns; put a text that contains "
            "a comma in quotes."
        )
    rows: list[dict[str, Any]] = [row for _, row in numbered]
    for name in columns:
        if not all(NUMBER.fullmatch(row[name]) for row in rows):
            continue
        for kind in (int, float):
            try:
                values = [kind(row[name]) for row in rows]
            except ValueError:
                continue
            for row, value in zip(rows, values):
                row[name] = row[name] if name.endswith(FILE) else value
            break
    return rows


def _jsonl(path: pathlib.Path, text: str) -> list[dict[str, Any]]:
    """The lines of a JSONL table, which all have the same fields."""
    rows = []
    for line, content in enumerate(text.split("\n"), 1):  # a text may hold other ends of lines, such as U+2028
        if not content.strip():
            continue
        try:
            row = limits.parse_json(content, "it")
        except limits.Refused as error:
            raise ValueError(f"{path}: line {line} is not JSON: {error}") from None
        if not isinstance(row, dict) or FILE not in row:
            raise ValueError(f"{path}: line {line} is not an object with the field {FILE!r}.")
        for name, value in row.items():
            if name.endswith(FILE) and not isinstance(value, str):
                raise ValueError(
                    f"{path}: line {line}: its {name} is {limits.short(value)}. Valid: a text, the name of a file."
                )
        if rows and row.keys() != rows[0].keys():
            odd = ", ".join(sorted(row.keys() ^ rows[0].keys()))
            raise ValueError(
                f"{path}: line {line} differs from the first line in {odd}; all lines must have the same columns."
            )
        rows.append(row)
    return rows


def _require_there(folder: pathlib.Path, names: Sequence[str], listed: Mapping[str, bool]) -> None:
    """Refuses names of pictures that do not exist; names that are listed as plain files are not looked up again."""
    if missing := [name for name in names if not listed.get(name) and not (folder / name).is_file()]:
        shown = "\n  ".join(missing[:20])
        more = f"\n  and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise FileNotFoundError(f"{len(missing)} of {len(names)} pictures are not in {folder}:\n  {shown}{more}")
