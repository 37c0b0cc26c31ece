"""Makes a pipeline of a single file and the folder of a pipeline of the same architecture, for experiments.convert.

    diffusion convert --source=finetuned.safetensors --base=stable-diffusion-v1-5 --out=finetuned
    diffusion sample --model=finetuned --prompt="a cat"

The file's networks replace those of the folder. The tokenizers, the scheduler and all other networks are the folder's.
"""

import pathlib
from collections.abc import Iterable
from typing import Any

import flax.linen as nn

from diffusion.experiments.evaluation import model_card
from diffusion.io import files, opener
from diffusion.models.interchange import FAMILIES, families, folders, schedulers, stated_prediction
from diffusion.models.interchange.family import Refusal
from diffusion.models.interchange.rows import Mismatch
from diffusion.text_to_image import model_folder, model_index


def modules_of(base: pathlib.Path) -> dict[str, tuple[str, nn.Module]]:
    """{folder's name: (family's name, module)} of the known networks of a pipeline's folder; reads only configs.

    Raises:
        FileNotFoundError: if the folder holds no known network.
    """
    modules = {}
    for path in sorted(base.glob("*/config.json")):
        config = folders.read_config(path.parent)
        if (name := config.get("_class_name") or (config.get("architectures") or [""])[0]) in FAMILIES:
            modules[path.parent.name] = (name, folders.built(FAMILIES[name], config))
    if not modules:
        raise FileNotFoundError(f"{base} has no folder of a known network. Valid for --base: the folder of a pipeline.")
    return modules


def networks_of(base: pathlib.Path) -> dict[str, nn.Module]:
    """The known networks of a pipeline's folder, named by their folders, for `folders.recognise`."""
    return {f"that of {base / part}": module for part, (_, module) in modules_of(base).items()}


def check_prediction(source: pathlib.Path, base: pathlib.Path) -> str:
    """The prediction of the denoiser, by the scheduler of a pipeline's folder.

    Raises:
        Refusal: if the file states another prediction.
    """
    process = schedulers.read(opener.read_table(base / "scheduler" / "scheduler_config.json"))
    said = stated_prediction.prediction(source)
    if said not in ("", process.prediction):
        raise Refusal(
            f"{source} states that it predicts {said!r}, but the scheduler of {base} has {process.prediction!r}; the "
            "pictures would be noise. Choose a --base that predicts the same, or a copy of this one with "
            f"prediction_type = {said!r} in its scheduler_config.json."
        )
    return process.prediction


def pipeline(
    source: pathlib.Path,
    networks: Iterable[tuple[str, nn.Module, Any]],
    base: pathlib.Path,
    out: pathlib.Path,
    dtype: str = "float32",
    license: str = "",
) -> list[str]:
    """Writes the folder of a pipeline with the networks of a file; returns the names of the parts that these replace.

    Args:
        source: the single file, whose statements about itself are checked, and which messages name.
        networks: (name, module, params) of the networks in the file, from `convert.networks`.
        base: the folder of a pipeline with networks of the same sizes.
        out: the folder to write, which must not exist.
        dtype: the type of the written numbers.
        license: the license for the model card; "" for the license of the source or of the base.

    Raises:
        FileExistsError: if `out` exists.
        Refusal: if the file states another prediction of the denoiser than the base's scheduler.
        Mismatch: if the parameters of a network fit no part of the base.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another folder, or remove it first.")
    model_index.read_index(base)
    check_prediction(source, base)
    parts = modules_of(base)
    shapes = {part: _shapes(folders.shapes_of(FAMILIES[name], module)) for part, (name, module) in parts.items()}
    replaced = []
    with files.whole_folder(out) as new:
        for _, module, params in networks:
            part = next((part for part in parts if part not in replaced and shapes[part] == _shapes(params)), None)
            if part is None:
                has = ", ".join(f"{part} ({name})" for part, (name, _) in parts.items())
                raise Mismatch(
                    f"{source} holds a {families.family_of(module).name} whose parameters fit no part of {base}, "
                    f"which has {has}. Choose a --base of the same architecture."
                )
            name, known = parts[part]
            model_folder.save(new, base, part, known, params, dtype=dtype, family=name)
            replaced.append(part)
        model_folder.complete(new, base)
        model_card.write(new, model_card.build_source_card(source, ", ".join(replaced), license, base))
    return replaced


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in folders.leaves_of(params).items()}
