"""Picture files: read as what the models take, and written with the settings that made them."""

import contextlib
import io
import itertools
import json
import os
import pathlib
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from diffusion.io import failures, files, limits, opener

KEY = "diffusion"  # the key of the text in a PNG file that has the settings as JSON
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # Pillow reads others by running programs: EPS by Ghostscript
HEAD = 18  # bytes that say the format of a picture
HEADS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"II*\0": "TIFF",
         b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF"}  # fmt: skip  # the bytes that such files begin with
BITMAPS = (12, 40, 52, 56, 64, 108, 124)  # lengths of the second header of BMP
TEXT = 2**20  # characters of settings
PIXELS = 2**26  # most pixels of a picture: 8192 x 8192
# What Pillow raises for a damaged file depends on where in it the damage is; OSError is what it does not know, too.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError,
           struct.error, zlib.error, RuntimeError, AssertionError, Image.DecompressionBombError)  # fmt: skip
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # modes of more than 8 bits
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # fmt: skip  # orientation of EXIF -> how the stored pixels are turned


def format_of(content: bytes) -> str:
    """The format of an encoded picture by its first bytes, as Pillow names it; "" for content of another kind.

    Args:
        content: the content, or its first `HEAD` bytes.
    """
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":  # sounds and films begin with RIFF too
        return "WEBP"
    if content[:2] == b"BM" and int.from_bytes(content[14:HEAD], "little") in BITMAPS:  # so may a text or numbers
        return "BMP"
    return next((name for head, name in HEADS.items() if content.startswith(head)), "")


def opened(
    source: str | pathlib.Path | bytes,
    name: str = "",
    formats: tuple[str, ...] = FORMATS,
    within: pathlib.Path | None = None,
) -> Image.Image:
    """Opens a picture: its header is read and checked, and no pixel is decoded. Every picture is opened here.

    If a file has several pictures (an animation, pages), the first is opened.

    Args:
        source: path of a file of one of the formats, whatever its name, or its content.
        name: the name of the picture in messages; the path by default.
        formats: Pillow's names of the formats to read.
        within: the folder that the file must lie in, as in `opener.open_file`.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is not a valid picture in one of these formats, has more than `PIXELS` pixels, or is no plain
            file.
    """
    file = source if isinstance(source, bytes) else None
    if isinstance(source, (str, pathlib.Path)):
        name = name or str(source)
        source = pathlib.Path(os.path.expanduser(source))
        try:
            file = opener.open_file(source, within=within)
        except PermissionError:
            raise
        except OSError:  # raised also for a folder, or a name that is too long
            raise FileNotFoundError(f"{name}: there is no such file.") from None
    assert file is not None
    try:
        picture = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats)
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a valid picture in one of these formats: {', '.join(formats)}") from None
    except DAMAGED as error:
        raise ValueError(f"{name} is not a valid picture: {error!r}") from _cause(error)
    if picture.width * picture.height > PIXELS:
        picture.close()
        raise ValueError(
            f"{name} declares {picture.width} x {picture.height} pixels. Valid: at most {PIXELS:,} (8192 x 8192); "
            "make it smaller"
        )
    if picture.format == "TIFF" and _stored_pixels(picture) < picture.width * picture.height:
        picture.close()  # Pillow would leave the rest black
        raise ValueError(
            f"{name} is not a valid picture: it declares {picture.width} x {picture.height} pixels and stores fewer"
        )
    picture._exclusive_fp = not isinstance(file, bytes)  # type: ignore[attr-defined]  # closed once it is read
    return picture


def read(source: str | pathlib.Path | bytes, name: str = "") -> np.ndarray:
    """A picture as uint8 [H, W, 3].

    Transparent parts become white, and of 16 bits 8 are left, with a warning: grey is rounded, and of colours the upper
    8 are read. Grey becomes colour. A photograph is turned as its EXIF data say, as every viewer does.

    Args:
        source: a file or its content, as `opened` takes it.
        name: the name of the picture in messages; the path by default.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a valid picture, or has too many pixels.
    """
    path = name or str(source)
    picture = opened(source, name)
    tiles = getattr(picture, "tile", ())  # how Pillow reads the file
    is_cut = picture.mode not in DEEP and any("16" in str(tile[3]) for tile in tiles)
    picture = upright(_loaded(picture, path))
    if is_cut:
        warnings.warn(f"{path} has 16 bits a value: the upper 8 are read", stacklevel=2)
    if picture.mode in DEEP:
        warnings.warn(f"{path} has more than 8 bits a pixel ({picture.mode}): rounded to 8", stacklevel=2)
        return np.repeat(_eight_bits(path, np.asarray(picture))[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if np.asarray(picture)[..., 3].min() < 255:
            warnings.warn(f"{path} has transparent parts: they become white", stacklevel=2)
    return np.asarray(on_white(picture))


def orientation(picture: Image.Image) -> int:
    """How a picture's EXIF data turn its stored pixels, a key of `TURNS`; 1 for not at all, or where they are damaged.

    The pixels of a PNG file are decoded only where its EXIF data come after them, and `picture` is loaded. Pillow
    itself turns TIFF files.
    """
    late = picture.format == "PNG" and not {"exif", "Raw profile type exif"} & picture.info.keys()
    if late or picture.format == "TIFF":
        return 1
    try:
        stated = picture.getexif().get(ExifTags.Base.Orientation)
        return stated if stated in TURNS else 1
    except DAMAGED:
        return 1


def upright(picture: Image.Image) -> Image.Image:
    """The picture, whose pixels are loaded, as its EXIF data turn it: as every viewer shows it."""
    turn = TURNS.get(orientation(picture))
    return picture if turn is None else picture.transpose(turn)


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """(width, height) of the picture that `upright` returns, read only from its header.

    The pixels of a PNG file are decoded only where data come after them that may turn it.

    Raises:
        ValueError: if the pixels of such a file are damaged.
    """
    if picture.format == "PNG" and _has_late_data(picture):
        picture = _loaded(picture, "the picture")
    width, height = picture.size
    return (height, width) if orientation(picture) >= 5 else (width, height)


def _has_late_data(picture: Image.Image) -> bool:
    """Whether a PNG file has EXIF data or texts after its pixels; only its header has been read so far."""
    file: Any = picture.fp  # type: ignore[attr-defined]
    if file is None:  # all of it is read
        return False
    begin, pixels = file.tell(), False
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            break
        pixels |= kind == b"IDAT"
        file.seek(length + 4, os.SEEK_CUR)
    file.seek(begin)
    return len(head) == 8


def on_white(picture: Image.Image) -> Image.Image:
    """The picture in red, green and blue; its transparent parts are white."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def require_eight_bits(picture: Image.Image, name: str | pathlib.Path) -> None:
    """Refuses a picture with more than 8 bits a value: Pillow would cut off what is above 255.

    Args:
        picture: the picture, whose header is read.
        name: the name of the picture, for the message.

    Raises:
        ValueError: naming its mode.
    """
    if picture.mode in DEEP:
        raise ValueError(f"{name} has more than 8 bits a value ({picture.mode}); save it with 8 bits")


def read_with_alpha(path: str | pathlib.Path) -> np.ndarray:
    """A picture as uint8 [H, W, 4]: its colours, also of transparent pixels, and its alpha, 255 without one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a valid picture, or has more than 8 bits.
    """
    picture = upright(_loaded(opened(path), path))
    require_eight_bits(picture, path)
    return np.asarray(picture.convert("RGBA"))


def read_mask(path: str | pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    """A mask as Bool [H, W], True where it is bright: there the picture is repainted.

    Args:
        path: a picture.
        size: (H, W) of the picture that it belongs to.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it has another size, or is not a valid picture.
    """
    picture = opened(path)
    width, height = upright_size(picture)
    if (height, width) != tuple(size):
        raise ValueError(
            f"the mask {path} has {height} x {width} pixels (height x width), but its picture has {size[0]} x "
            f"{size[1]}. Both must have the same size"
        )
    picture = upright(_loaded(picture, path))
    if picture.mode in DEEP:
        return _eight_bits(path, np.asarray(picture)) >= 128
    return np.asarray(picture.convert("L")) >= 128


def encoded(picture: np.ndarray, compress_level: int = 6) -> bytes:
    """A picture as the content of a PNG file, without loss.

    Args:
        picture: the picture, uint8 [H, W] (grey) or [H, W, 3].
        compress_level: the effort of the compression, from 0 (none) to 9.
    """
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG", compress_level=compress_level)
    return content.getvalue()


def write(path: str | pathlib.Path, picture: np.ndarray, settings: Mapping[str, Any]) -> None:
    """Writes a PNG file, whole or not at all, with settings as JSON in its text.

    Args:
        path: the PNG file.
        picture: the picture, uint8 [H, W, 3].
        settings: the settings, a table that JSON can hold.
    """
    text = PngImagePlugin.PngInfo()
    text.add_itxt(KEY, json.dumps(settings, sort_keys=True))
    with files.atomic(pathlib.Path(path)) as file:
        Image.fromarray(picture).save(file, "PNG", pnginfo=text)


def write_layers(path: str | pathlib.Path, layers: np.ndarray, settings: Mapping[str, Any]) -> list[pathlib.Path]:
    """Writes the layers of a picture, a PNG file each, and one of all beside each other, which carries the settings.

    Args:
        path: the PNG file of all layers; theirs have its name and their number, 1 the first.
        layers: the layers, uint8 [L, H, W, 4].
        settings: the settings, a table that JSON can hold.

    Returns:
        The paths of the layers.
    """
    path = pathlib.Path(path)
    paths = [path.with_name(f"{path.stem}_layer_{i}.png") for i in range(1, len(layers) + 1)]
    for place, layer in zip(paths, layers):
        write(place, layer, {})
    write(path, np.concatenate(list(layers), axis=1), settings)
    return paths


@contextlib.contextmanager
def reserved(folder: pathlib.Path, stem: str) -> Iterator[pathlib.Path]:
    """Yields the path of a new picture, stem.png, stem-1.png, .., which no other process can take.

    The path is an empty file until the picture is written, and is removed if nothing is written.
    """
    names = itertools.chain([f"{stem}.png"], (f"{stem}-{i}.png" for i in itertools.count(1)))
    path = next(folder / name for name in names if _is_new(folder / name))
    try:
        yield path
    finally:
        if not path.stat().st_size:
            path.unlink()


def _is_new(path: pathlib.Path) -> bool:
    """Creates an empty file, unless the path exists."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def settings_of(path: str | pathlib.Path) -> dict[str, Any]:
    """The settings in a file that `write` wrote, unchecked (`text_to_image.png.read` checks them).

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it holds no settings.
    """
    with opened(path) as picture:
        text = picture.info.get(KEY)
    if not isinstance(text, str):
        raise ValueError(
            f"{path} carries no settings: this program did not write it, or another program saved it since"
        )
    if len(text) > TEXT:
        raise ValueError(f"{path}: its settings have {len(text):,} characters. Valid: at most {TEXT:,}")
    settings = limits.parse_json(text, f"{path}: its table of settings")
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: its settings are {type(settings).__name__}, not a table of fields")
    return settings


def _loaded(picture: Image.Image, path: str | pathlib.Path) -> Image.Image:
    """The picture with its pixels decoded."""
    try:
        picture.load()
    except DAMAGED as error:
        raise ValueError(f"{path} is not a valid picture: {error!r}") from _cause(error)
    except MemoryError as error:
        raise ValueError(f"{path} needs more memory than there is: it is too large, or damaged") from error
    return picture


def _stored_pixels(picture: Image.Image) -> int:
    """The number of pixels in the strips or tiles of a TIFF file; channels that are stored apart count one by one."""
    boxes = [tile[1] for tile in getattr(picture, "tile", ())]
    return sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)


def _cause(error: BaseException) -> BaseException | None:
    """The error as the cause of a refusal, unless the machine would be blamed for a place that no file can have."""
    return None if failures.is_impossible_place(error) else error


def _eight_bits(path: str | pathlib.Path, deep: np.ndarray) -> np.ndarray:
    """Grey of 16 bits in 8."""
    if deep.dtype.kind == "f" or deep.min() < 0 or deep.max() >= 2**16:
        raise ValueError(
            f"{path} has pixel values from {deep.min()} to {deep.max()}. Valid: 0 .. 65535, as 16 bits can hold"
        )
    return ((deep.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
