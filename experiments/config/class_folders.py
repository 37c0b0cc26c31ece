"""What a published model's model_index.json says at once, without the libraries that read its networks."""

__all__ = ["INDEX", "is_of_classes"]

import pathlib

from diffusion.io import opener

INDEX = "model_index.json"


def is_of_classes(folder: str | pathlib.Path) -> bool:
    """Whether a folder is a published model without a text encoder: of classes, or of nothing.

    Raises:
        limits.Refused: for a model_index.json that is no table.
    """
    path = pathlib.Path(folder).expanduser() / INDEX
    return path.is_file() and not any(name.startswith("text_encoder") for name in opener.read_table(path))
