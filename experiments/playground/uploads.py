"""Pictures that visitors upload: their size is checked before they are decoded, and their checksum names the file."""

import base64
import binascii
import hashlib
import io
import pathlib

from PIL import Image

from diffusion.io import files, pictures

PIXELS = 2**24  # the most pixels of a picture
NAME = "the file that was sent"


def keep(content: str, inputs: pathlib.Path) -> str:
    """Writes a picture into a folder as a PNG file, named by the picture's checksum and size; returns its path.

    Args:
        content: the file of the picture, in base64 or as a data URL.
        inputs: the folder; it is made if it is missing.

    Raises:
        ValueError: if the content is not a valid picture, or has more than `PIXELS` pixels.
    """
    if not isinstance(content, str):
        raise ValueError("a picture must be a file in base64, or a data URL")
    try:
        sent = base64.b64decode(content.rpartition(",")[2], validate=True)
    except binascii.Error as error:
        raise ValueError(f"the picture did not arrive completely: {error}") from error
    with pictures.opened(sent, NAME) as header:
        if header.width * header.height > PIXELS:
            raise ValueError(
                f"the picture has {header.width} x {header.height} pixels. Valid: at most {PIXELS:,}, such as 4096 x "
                "4096; reduce its size"
            )
    picture = pictures.read(sent, NAME)
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG")
    inputs.mkdir(parents=True, exist_ok=True)
    path = inputs / f"{hashlib.sha256(picture.tobytes()).hexdigest()[:16]}-{picture.shape[1]}x{picture.shape[0]}.png"
    if not path.exists():
        with files.atomic(path) as file:
            file.write(encoded.getvalue())
    return str(path)
