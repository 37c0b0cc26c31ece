"""Clips of a folder of films (GIF, MP4, WebM ...) and of folders of numbered pictures, decoded when read.

    FOLDER/dog.mp4  FOLDER/dog.txt  FOLDER/cat/0001.png  FOLDER/cat/0002.png ...  FOLDER/cat.txt

The text beside a film or folder is its caption; either all have one or none has. The same films are read from the tar
shards of WebDataset.
"""

import itertools
import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from diffusion.data.sources import splits, table_records, tar_files
from diffusion.io import clips, limits, opener, pictures

FILMS = (".gif", ".mp4", ".webm", ".mkv", ".mov", ".avi")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
OTHER_FILMS = (".m4v", ".wmv", ".flv", ".mpg", ".mpeg", ".m2ts", ".3gp", ".ogv", ".apng")
OTHER_PICTURES = (".tif", ".tiff", ".avif", ".heic", ".heif", ".jfif", ".jpe", ".jp2", ".jxl", ".ppm", ".tga", ".exr")
NUMBER = re.compile(r"(\d+)$")  # the number that ends a picture's stem
ROUNDING = 1e-3  # s, to which films round the times of their frames


def clip_folder(
    path: str,
    split: str = "train",
    *,
    frames: int,
    side: int,
    rate: float = 8.0,
    stored_rate: float = 0.0,
    viewed: bool = True,
) -> "ClipRecords":
    """Opens the films of a folder, and its folders of numbered pictures, as clips of one size and rate.

    A record is {"image": uint8 [F, side, side, 3]} and, with texts, its caption. A film of a higher rate is thinned:
    frame i is what the film shows at i / rate seconds, also where its frames are shown for unequal times. A longer
    film is cut into several clips, and the frames that remain at its end are left out. A frame is cropped to its middle
    square and reduced to `side`.

    Args:
        path: the folder, or one film.
        split: "train", which is all of it, or a part such as "train[:90%]".
        frames: number of frames of a clip, F.
        side: height and width of a clip's frames, in pixels.
        rate: frames a second of a clip.
        stored_rate: frames a second of folders of pictures, which do not say it; 0 for `rate`.
        viewed: whether frames are read as a player shows them: turned as films and EXIF data state, and white where
            they are transparent. False: their stored pixels.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: for a folder without clips, and for a clip that does not fit, whose name and sizes it states.
        limits.Refused: for clips that are larger than the memory.
    """
    _check(frames, side, rate, stored_rate)
    films = _Films(path, split, frames, side, rate, stored_rate or rate, viewed)
    return ClipRecords(films, split, rate, viewed)


def clip_shards(
    path: str, split: str = "train", *, frames: int, side: int, rate: float = 8.0, viewed: bool = True
) -> "ClipRecords":
    """Opens the films of WebDataset's tar shards: the first frames of each, at one rate, cut as by `clip_folder`.

    Records are those of `tar_files`: members of one stem, 0001.mp4 and 0001.txt, are one film and its caption.

    Args:
        path: a folder, a file, or a pattern such as "shards/train-*.tar".
        split: the split, or a part such as "train[:90%]"; a file belongs to the split that its name begins with.
        frames, side, rate: number, side in pixels, and rate of a clip's frames, as in `clip_folder`.
        viewed: whether frames are read as a player shows them, as in `clip_folder`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `tar_files.tar_shards`, and for shards without films.
        limits.Refused: for clips that are larger than the memory.
    """
    _check(frames, side, rate, 0.0)
    return ClipRecords(_Shards(path, split, frames, side, rate, viewed), split, rate, viewed)


class ClipRecords(table_records.Records):
    """The records of films.

    Attributes:
        rate: frames a second of the clips, and of the animations of a run's samples.
    """

    def __init__(self, table: table_records.Table, split: str, rate: float, viewed: bool):
        super().__init__(table, split, viewed=viewed)
        self.rate = rate


def _check(frames: int, side: int, rate: float, stored_rate: float) -> None:
    """Refuses numbers out of range, and clips that are larger than the memory."""
    if frames < 1 or side < 1 or not rate > 0 or stored_rate < 0:
        raise ValueError(
            f"frames = {frames} and side = {side} must be at least 1, rate = {rate} positive and stored_rate = "
            f"{stored_rate} 0 or positive"
        )
    limits.fits(f"a clip of {frames} frames of {side} x {side} pixels", 4 * frames * side * side * 3)  # in float32


class _Shards:
    """The films of tar shards as a table; a film is looked at when its record is read."""

    def __init__(self, path: str, split: str, frames: int, side: int, rate: float, viewed: bool):
        self._table = tar_files.TarShards(path, split)
        self.where, self.name = self._table.where, self._table.name
        self._size, self._viewed = (frames, side, rate), viewed
        films = [name for name in self._table.columns if f".{name.rpartition('.')[2]}" in FILMS]
        texts = [name for name in self._table.columns if name in tar_files.TEXTS]
        if len(films) != 1:
            raise ValueError(
                f"{self.where} has members {', '.join(self._table.columns)}. Valid: one film in each record "
                f"({', '.join(FILMS)})"
            )
        self._stored = {"x": films[0]} | ({"caption": texts[0]} if texts else {})
        self.columns = tuple(self._stored)

    def __len__(self) -> int:
        return len(self._table)

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        stored = self._table.read(rows, [self._stored[name] for name in columns])
        value = lambda row, content, name: self._clip(row, content) if name == "x" else content
        return [
            {name: value(row, record[self._stored[name]], name) for name in columns}
            for row, record in zip(rows, stored)
        ]

    def place(self, row: int) -> str:
        return self._table.place(row)

    def record_name(self, row: int) -> str:
        return self._table.record_name(row)

    def record_length(self, row: int) -> int:
        return self._table.record_length(row)

    def column(self, name: str) -> Sequence[Any]:
        return self._table.column(self._stored[name])

    def stamp(self) -> Any:
        return self._table.stamp()

    def _clip(self, row: int, content: bytes) -> np.ndarray:
        frames, side, rate = self._size
        name = f"its {self._stored['x']}"
        numbers = _frame_numbers(clips.properties(content, name), name, frames, side, rate)[0]
        return np.stack([square(frame, side) for frame in clips.read(content, numbers, name, viewed=self._viewed)])


class _Films:
    """The clips as a table. All headers are read at once, so that a mistake is reported before a run."""

    def __init__(self, path: str, split: str, frames: int, side: int, rate: float, stored_rate: float, viewed: bool):
        place = pathlib.Path(path).expanduser()
        if not place.exists():
            raise FileNotFoundError(f"{place}: there is no such file or folder.")
        splits.require_train(splits.parse(split).base, str(place))
        self.where, self.name = str(place), place.name
        self._frames, self._side, self._viewed = frames, side, viewed
        self._films = films_of(place)
        if not self._films:
            raise ValueError(f"{place} holds neither films ({', '.join(FILMS)}) nor folders of numbered pictures.")
        self._within = splits.within(self.where)
        self._files = [files_of(film) for film in self._films]
        self._clips: list[tuple[int, np.ndarray]] = []
        for number, film in enumerate(self._films):
            windows = _windows(film, self._within, self._files[number], frames, side, rate, stored_rate)
            self._clips += [(number, rows) for rows in windows]
        texts = [film.parent / f"{film.name if film.is_dir() else film.stem}.txt" for film in self._films]
        there = [text.is_file() for text in texts]
        if any(there) and not all(there):
            raise ValueError(f"{texts[there.index(False)]} is missing. Valid: a caption for every clip, or for none.")
        self._texts = [opener.read_text(text, within=self._within).strip() for text in texts] if all(there) else []
        self.columns: tuple[str, ...] = ("x", "caption") if self._texts else ("x",)

    def __len__(self) -> int:
        return len(self._clips)

    def read(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        value = lambda row, name: self._clip(row) if name == "x" else self._texts[self._clips[row][0]]
        return [{name: value(row, name) for name in columns} for row in rows]

    def place(self, row: int) -> str:
        number, frames = self._clips[row]
        return f"{self._films[number]}, from frame {frames[0]}"

    def record_name(self, row: int) -> str:
        """The name of the film, from the folder on, and the first frame of the clip."""
        return self.place(row).removeprefix(self.where).lstrip("/")

    def record_length(self, row: int) -> int:
        """The bytes of the film, or of all pictures of its folder."""
        return sum(file.stat().st_size for file in self._files[self._clips[row][0]])

    def column(self, name: str) -> Sequence[Any]:
        return [self._texts[number] for number, _ in self._clips]

    def stamp(self) -> Any:
        return table_records.stamp_of([file for files in self._files for file in files])

    def _clip(self, row: int) -> np.ndarray:
        number, rows = self._clips[row]
        film = self._films[number]
        if film.is_dir():
            files = self._files[number]
            frames = (frame_of(files[i], self._within, self._viewed) for i in rows)
        else:
            frames = iter(clips.read(film, rows, within=self._within, viewed=self._viewed))
        return np.stack([square(frame, self._side) for frame in frames])


def films_of(root: pathlib.Path) -> list[pathlib.Path]:
    """The films below a folder, and the folders of numbered pictures, by name.

    Warns of films and numbered pictures of other formats, and of pictures without a number beside numbered ones.
    """
    if root.is_file():
        return [root]
    inside = [root / name for name in splits.files_below(root)]
    films = [file for file in inside if file.suffix.lower() in FILMS and file.is_file()]
    folders = {file.parent for file in inside if file.suffix.lower() in PICTURES and NUMBER.search(file.stem)}
    name = lambda file: file.relative_to(root).as_posix()
    other = lambda file: file.suffix.lower() in OTHER_PICTURES and NUMBER.search(file.stem)
    others = [name(file) for file in inside if file.suffix.lower() in OTHER_FILMS or other(file)]
    splits.warn_of_others(root, "clips", others, (*FILMS, *PICTURES))
    loose = [file for file in inside if file.suffix.lower() in PICTURES and not NUMBER.search(file.stem)]
    if loose := [name(file) for file in loose if file.parent in folders]:
        warnings.warn(
            f"{root}: pictures without a number lie beside numbered ones, and are left out of the clips "
            f"({len(loose)}, e.g. {loose[0]}). Number them, or remove them",
            stacklevel=2,
        )
    return sorted([*films, *folders])


def files_of(film: pathlib.Path) -> list[pathlib.Path]:
    """The pictures of a folder in the order of their numbers; for a film, its one file."""
    if film.is_file():
        return [film]
    numbered = [file for file in film.iterdir() if file.suffix.lower() in PICTURES and NUMBER.search(file.stem)]
    return sorted(numbered, key=_number)


def frame_of(file: pathlib.Path, within: pathlib.Path | None = None, viewed: bool = True) -> np.ndarray:
    """The frame in a picture file, uint8 [H, W, 3].

    Args:
        file, within: the file, and the folder that it must lie in, as in `opener.open_file`.
        viewed: whether it is read as a viewer shows it, as in `transforms.decode_square`.

    Raises:
        ValueError: if it is no valid picture, or has more than 8 bits a value.
    """
    picture = pictures.opened(file, within=within)
    pictures.require_eight_bits(picture, file)
    picture.load()
    return np.asarray(pictures.on_white(pictures.upright(picture)) if viewed else picture.convert("RGB"))


def _number(file: pathlib.Path) -> int:
    match = NUMBER.search(file.stem)
    assert match is not None  # `files_of` chose files with a number
    return int(match[1])


def _windows(
    film: pathlib.Path,
    within: pathlib.Path | None,
    files: list[pathlib.Path],
    frames: int,
    side: int,
    rate: float,
    stored_rate: float,
) -> list[np.ndarray]:
    """The numbers of the frames of each clip of a film.

    Raises:
        ValueError: as in `_frame_numbers`, and for a folder in which a frame is missing or occurs twice.
    """
    if not film.is_dir():
        return _frame_numbers(clips.properties(film, within=within), str(film), frames, side, rate)
    numbers = [_number(file) for file in files]  # ascending
    for file, after in itertools.pairwise(files):
        if _number(file) == _number(after):
            raise ValueError(
                f"{film} has frame {_number(file)} twice, as {file.name} and {after.name}. Remove one of them"
            )
    if gaps := [number + 1 for number, after in itertools.pairwise(numbers) if after > number + 1]:
        raise ValueError(f"{film} lacks frame {gaps[0]}: its pictures are numbered {numbers[0]} to {numbers[-1]}")
    width, height = pictures.opened(files[0], within=within).size
    return _frame_numbers(clips.evenly(len(files), height, width, stored_rate), str(film), frames, side, rate)


def _frame_numbers(film: clips.About, name: str, frames: int, side: int, rate: float) -> list[np.ndarray]:
    """The numbers of the frames of each clip of a film with such a header.

    Raises:
        ValueError: for a film of a lower rate, smaller pictures, or too few frames.
    """
    if film.rate < rate * (1 - 1e-3):
        raise ValueError(
            f"{name} has {film.rate:g} frames a second, fewer than rate = {rate:g}. Valid: a rate up to that of the "
            "film"
        )
    if min(film.height, film.width) < side:
        raise ValueError(
            f"{name} has {film.height} x {film.width} pixels, fewer than side = {side}. Valid: a smaller side, or "
            "larger films"
        )
    wanted = np.arange(int(np.ceil((film.length - ROUNDING) * rate))) / rate
    shown = np.searchsorted(film.times, wanted + ROUNDING, side="right") - 1
    if len(shown) < frames:
        raise ValueError(
            f"{name} has {len(film.times)} frames at {film.rate:g} a second; at rate = {rate:g} these are "
            f"{len(shown)} frames, fewer than frames = {frames}. Remove the film, or choose fewer frames"
        )
    return [shown[i : i + frames] for i in range(0, len(shown) - frames + 1, frames)]


def square(frame: np.ndarray, side: int) -> np.ndarray:
    """The middle square of a picture, uint8 [side, side, 3]."""
    height, width = frame.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    middle = Image.fromarray(frame[top : top + short, left : left + short])
    return np.asarray(middle.resize((side, side), Image.Resampling.BOX))
