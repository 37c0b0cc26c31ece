"""Picture files: read as what the models take, and written with the settings that made them."""

import json
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from diffusion import files, limits

KEY = "diffusion"  # of the text in a PNG file that holds the settings, as JSON
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")  # modes of more than 8 bits


def read(path: str | pathlib.Path) -> np.ndarray:
    """A picture as uint8 [H, W, 3].

    Transparent parts are laid on white and 16 bits rounded to 8, which a warning says; grey becomes colour.

    Args:
      path: a PNG, JPEG or other file that Pillow reads.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is no sound picture, or larger than this machine's memory.
    """
    picture = _open(path)
    if picture.mode in DEEP:
        warnings.warn(f"{path} has more than 8 bits a pixel ({picture.mode}): rounded to 8", stacklevel=2)
        return np.repeat(_eight_bits(path, np.asarray(picture))[..., None], 3, axis=-1)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if np.asarray(picture)[..., 3].min() < 255:
            warnings.warn(f"{path} has transparent parts: laid on white", stacklevel=2)
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def read_mask(path: str | pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    """A mask as Bool [H, W], True where it is bright: there the picture is painted anew.

    Args:
      path: a picture.
      size: (H, W) of the picture that it belongs to.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it has another size, or is no sound picture.
    """
    picture = _open(path)
    if picture.size[::-1] != tuple(size):
        raise ValueError(f"the mask {path} has {picture.size[1]} x {picture.size[0]} pixels (height x width), and its "
                         f"picture {size[0]} x {size[1]}; they must be the same")
    if picture.mode in DEEP:
        return _eight_bits(path, np.asarray(picture)) >= 128
    return np.asarray(picture.convert("L")) >= 128


def write(path: str | pathlib.Path, picture: np.ndarray, settings: Mapping[str, Any]) -> None:
    """Writes a PNG file, whole or not at all, with settings as JSON in its text.

    Args:
      path: of the file.
      picture: uint8 [H, W, 3].
      settings: what JSON can say.
    """
    about = PngImagePlugin.PngInfo()
    about.add_itxt(KEY, json.dumps(settings, sort_keys=True))
    with files.whole(pathlib.Path(path)) as file:
        Image.fromarray(picture).save(file, "PNG", pnginfo=about)


def settings_of(path: str | pathlib.Path) -> dict[str, Any]:
    """The settings in a file that `write` wrote; nothing of them is executed.

    Raises:
      FileNotFoundError: if there is no file.
      ValueError: if it holds none.
    """
    text = getattr(_open(path), "text", {}).get(KEY)
    if text is None:
        raise ValueError(f"{path} carries no settings: it was not written by this program, or saved by another since")
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: its settings are not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: its settings are {type(found).__name__}, not a table of fields")
    return found


def _open(path: str | pathlib.Path) -> Image.Image:
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        picture = Image.open(path)
        limits.fits(str(path), 16 * picture.width * picture.height)
        picture.load()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, limits.Refused) as error:
        raise ValueError(f"{path} is no sound picture: {error}") from error
    return picture


def _eight_bits(path: str | pathlib.Path, deep: np.ndarray) -> np.ndarray:
    """Grey of 16 bits in 8."""
    if deep.dtype.kind == "f" or deep.min() < 0 or deep.max() >= 2**16:
        raise ValueError(f"{path} has numbers {deep.min()} .. {deep.max()} for pixels; 0 .. 65535 is what 16 bits say")
    return ((deep.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
