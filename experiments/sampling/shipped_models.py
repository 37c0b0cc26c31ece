"""The models that ship with the package: the config and the averaged weights of a run, without the run.

    diffusion sample --model=digits
    run = trained_run.load("digits")
    diffusion sample --model=drawings --prompt="a red circle above a blue square"    # a text-to-image model
    diffusion sample --model=drawings-fast --prompt="a red circle above a blue square"    # the same with a LoRA

`python -m tools.weights` writes the folder of such a model. `class_folders.SHIPPED` has its name and its digest.
"""

import hashlib
import pathlib
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict

from diffusion.io import opener, safetensors_files
from diffusion.models.interchange.family import Refusal
from diffusion.package import public
from diffusion.recipe import class_folders, versions
from diffusion.text_to_image import model_index

FILE = "model.safetensors"
SCALE = ".scale_of_int8"
"""The ending by which the name of an int8 array becomes the name of its scale."""


def read_config(folder: str | pathlib.Path) -> ConfigDict:
    """The config of a model, with the sampling of its run.

    Raises:
        ConfigError: for a file that is not a config of this version or an earlier one.
    """
    return versions.read(opener.read_text(class_folders.folder_of(folder) / "config.json"))


def read_params(folder: str | pathlib.Path) -> tuple[Any, str]:
    """The parameters of a model, and the digest of its file.

    An array stored in 8 bits is multiplied by its scale, which makes it float32.

    Raises:
        Refusal: for another file than the one that ships with the package under this name.
    """
    folder = class_folders.folder_of(folder).resolve()
    path = folder / FILE
    digest = hashlib.sha256(opener.read(path)).hexdigest()
    _check(path, folder.name, digest)
    stored = safetensors_files.load(path)
    scales = {name: stored.pop(name + SCALE) for name in [*stored] if name + SCALE in stored}
    leaves = {name: leaf * scales[name] if name in scales else leaf for name, leaf in stored.items()}
    return traverse_util.unflatten_dict({tuple(name.split(".")): leaf for name, leaf in leaves.items()}), digest


def folder_of_prompts(model: str | pathlib.Path) -> pathlib.Path:
    """The folder of a text-to-image model, by its path or the name of one that ships with the package.

    Raises:
        Refusal: for other files than those that ship under this name, a misspelt name, or a model without prompts.
    """
    folder = class_folders.folder_of(model)
    if not folder.exists() and (near := public.nearest(model, class_folders.SHIPPED, 0.7)):
        raise Refusal(
            f"{model}: there is no such folder. Did you mean {near!r}? Valid: the folder of a model, or one of "
            f"{', '.join(class_folders.SHIPPED)}, which ship with the package."
        )
    name = class_folders.shipped_name(folder)
    if class_folders.is_shipped(folder):
        raise Refusal(
            f"The model {name!r} takes no --prompt. Valid: --labels of its classes, or --condition with a "
            "caption of its data."
        )
    if (lora := _lora_of(folder)) is not None:
        _, base, file, settings = lora
        chosen = " ".join(f"--{flag}={value}" for flag, value in settings.items())
        raise Refusal(
            f"The model {name!r} is {base!r} with a LoRA; only diffusion sample --prompt takes it by its name. "
            f"Valid: --model={base} --lora={file} {chosen}."
        )
    if name is not None:
        _check(folder, name, model_index.fingerprint(folder))
    return folder


def with_lora(model: str | pathlib.Path) -> tuple[pathlib.Path, dict[str, float], dict[str, Any]]:
    """The folder of a text-to-image model, the LoRA that belongs to it, and the settings that the LoRA was made for.

    Args:
        model: the path of a folder, or the name of a model that ships with the package.

    Returns:
        The folder; {file of the LoRA: weight}, empty for a model without one; {"steps", "guidance", "sampler"}, or {}.

    Raises:
        Refusal: as `folder_of_prompts`.
    """
    folder = class_folders.folder_of(model)
    if (lora := _lora_of(folder)) is None:
        return folder_of_prompts(model), {}, {}
    name, base, file, settings = lora
    _check(file, name, hashlib.sha256(opener.read(file)).hexdigest())
    return folder_of_prompts(base), {str(file): 1.0}, settings


def _lora_of(folder: pathlib.Path) -> tuple[str, str, pathlib.Path, dict[str, Any]] | None:
    """(name, its base model, the LoRA file, its settings) of a LoRA that ships with the package; None otherwise."""
    file = folder / class_folders.LORA
    if (name := class_folders.shipped_name(folder)) is None or not file.is_file():
        return None
    settings = opener.read_table(folder / model_index.SAMPLING)
    return name, settings.pop("base"), file, settings


def _check(path: pathlib.Path, name: str, digest: str) -> None:
    """Refuses a file or folder whose digest is not the one of the model of this name."""
    if digest != (expected := class_folders.SHIPPED.get(name)):
        raise Refusal(f"{path} has the SHA-256 {digest}, but the model {name!r} has {expected}. Install it again.")
