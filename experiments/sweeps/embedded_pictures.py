"""Pictures within a page, which are made small enough that one file can hold hundreds of runs."""

import base64
import functools
import io
import pathlib
from collections.abc import Sequence

from PIL import Image

from diffusion.io import opener, pictures

ROOM = 16_000_000  # the most bytes of all pictures of a page
LARGEST = 80_000  # the most bytes of one picture
SIDES = (900, 640, 440, 320, 220, 150)  # pixels of the longer side; the first at which a picture fits is used
QUALITY = 82  # quality of WebP


def embedded(paths: Sequence[pathlib.Path]) -> dict[str, str | None]:
    """PNG files as "data:" addresses; None for a file that cannot be read, since a run may just be writing it.

    A picture that fits into its share of `ROOM` is not changed; a larger one becomes WebP, scaled down if needed.
    """
    share = min(LARGEST, ROOM // max(len(paths), 1))
    return {str(path): _address(path, share) for path in paths}


def _address(path: pathlib.Path, share: int) -> str | None:
    try:
        stat = path.stat()
        return _encoded(path, stat.st_mtime_ns, stat.st_size, share)
    except (OSError, ValueError):
        return None


@functools.lru_cache(maxsize=4096)  # a report that follows a sweep shows the same files each time
def _encoded(path: pathlib.Path, changed: int, size: int, share: int) -> str:
    content = opener.read(path)
    with pictures.opened(content, str(path)) as image:
        image.load()
        kind = Image.MIME[str(image.format)]
        if len(content) > share:
            content = _smaller(image, share)
            kind = "image/webp"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _smaller(image: Image.Image, share: int) -> bytes:
    image = image.convert("RGB")
    for side in SIDES:
        file = io.BytesIO()
        copy = image.copy()
        copy.thumbnail((side, side), Image.Resampling.LANCZOS)
        copy.save(file, "WEBP", quality=QUALITY, method=4)
        if file.tell() <= share:
            break
    return file.getvalue()
