"""The models that travel with the project: a run's config and the moving average of its weights, without the run.

    diffusion sample --model=digits
    run = trained_run.load("digits")

`python -m tools.weights` writes the folder of one, and `class_folders.SHIPPED` has its name and its digest.
"""

__all__ = ["FILE", "read_config", "read_params"]

import hashlib
import pathlib
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from diffusion.experiments.config import class_folders, versions
from diffusion.io import opener, safetensors_files
from diffusion.models.interchange.family import Refusal

FILE = "model.safetensors"


def read_config(folder: str | pathlib.Path) -> ConfigDict:
    """The config of a model, which samples as its run does.

    Raises:
        ConfigError: for a file that is no config of this version, or an earlier one.
    """
    return versions.read(opener.read_text(class_folders.folder_of(folder) / "config.json"))


def read_params(folder: str | pathlib.Path) -> tuple[Any, str]:
    """The parameters of a model, and the digest of its file.

    Raises:
        Refusal: for another file than the one that travels under this name.
    """
    folder = class_folders.folder_of(folder)
    path = folder / FILE
    digest = hashlib.sha256(opener.read(path)).hexdigest()
    if digest != (expected := class_folders.SHIPPED.get(folder.name)):
        raise Refusal(
            f"{path} has the SHA-256 {digest}, and the model {folder.name!r} has {expected}. Install it anew."
        )
    leaves = {tuple(name.split(".")): leaf for name, leaf in safetensors_files.load(path).items()}
    return traverse_util.unflatten_dict(leaves), digest
