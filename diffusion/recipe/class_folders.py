"""Reads facts of a model's folder without importing the libraries for its networks; and the bundled models."""

import pathlib

from diffusion.io import opener

INDEX = "model_index.json"
LORA = "pytorch_lora_weights.safetensors"
"""The file of a folder that travels with the project, and is another model with a LoRA."""
WEIGHTS = pathlib.Path(__file__).parents[1] / "weights"
"""The folder of the models that travel with the project."""
SHIPPED = {
    "digits": "070a2cb69c1819aa96a029c907205074bbc26d7da9ec20e4168656d8560e8c91",
    "moving": "d12e1b42e3281783490c3d27aa65039f9ddff1b5379afec8c2abaa0c33ce6d4d",
    "drawings-fast": "64412d602867e1177c52f076424ceb3a0d3f19a4c16b58062348808b78c55f03",
    "drawings": "540bfcbb14a47953bc381af89e1d6488d62ce6d013635f7f777b714d21ba3d76",
}
"""The SHA-256 of each one's model.safetensors or LoRA, or the fingerprint of a text-to-image model's folder.

`python -m tools.weights` writes a folder and prints its line.
"""


def folder_of(model: str | pathlib.Path) -> pathlib.Path:
    """The folder that --model names: an existing folder of that name, or else the bundled model of that name.

    A run folder of the name is no model.
    """
    path = pathlib.Path(model).expanduser()
    return path if str(model) not in SHIPPED or (path / INDEX).is_file() else WEIGHTS / str(model)


def shipped_name(folder: str | pathlib.Path) -> str | None:
    """The name of the bundled model in a folder, by its name or any path with links to it; None for another folder."""
    folder = folder_of(folder).resolve()
    return folder.name if folder.parent == WEIGHTS.resolve() and folder.name in SHIPPED else None


def is_shipped(folder: str | pathlib.Path) -> bool:
    """Whether a folder holds weights of a run, and travels with the project."""
    path = folder_of(folder)
    return shipped_name(folder) is not None and not ((path / INDEX).is_file() or (path / LORA).is_file())


def is_of_classes(folder: str | pathlib.Path) -> bool:
    """Whether a folder is a published model without a text encoder: of classes, or of nothing.

    Raises:
        limits.Refused: for a model_index.json that is no table.
    """
    path = folder_of(folder) / INDEX
    if is_shipped(folder):
        return True
    return path.is_file() and not any(name.startswith("text_encoder") for name in opener.read_table(path))
