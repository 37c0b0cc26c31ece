"""The files at the top of a model's folder, model_index.json and sampling.json, and a checksum of the whole folder."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from diffusion.io import limits, opener, schema
from diffusion.models.interchange.family import Refusal
from diffusion.published.pipeline_kinds import Kind, Usual

PLAIN_GUIDANCE = {  # the fields of a guider in diffusers that leave classifier-free guidance as it is
    "_class_name": "ClassifierFreeGuidance", "guidance_rescale": 0.0, "use_original_formulation": False, "start": 0.0,
    "stop": 1.0,
}  # fmt: skip
SAMPLING = "sampling.json"  # our own; other programs ignore it
CONTENT = (".json", ".txt", ".model", ".safetensors", ".gguf")  # the files of a folder that change its pictures


def fingerprint(folder: str | pathlib.Path) -> str:
    """sha256 of all configs, vocabularies and weights in the folder of a pipeline, with their names."""
    folder = pathlib.Path(folder).expanduser()
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in CONTENT):
        with opener.open_file(path) as file:
            total.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def read_index(folder: pathlib.Path) -> dict[str, Any]:
    """The folder's model_index.json.

    Raises:
        FileNotFoundError: if it has none; says what to do.
        Refusal: for a field that is not supported.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        single = folder.suffix in (".safetensors", ".gguf") and folder.is_file()
        run = f" To sample from this run: --workdir={folder}." if (folder / "checkpoints").is_dir() else ""
        raise FileNotFoundError(
            f"{folder} is a single file; diffusion convert writes a folder for each network in it."
            if single
            else f"{path} does not exist. A text-to-image model is a folder with model_index.json and a subfolder for "
            f"each network, as diffusers' save_pretrained writes it.{run}"
        )
    index = opener.read_table(path)
    stated = {"force_zeros_for_empty_prompt": schema.FLAG, "is_cosxl_edit": schema.FLAG, "is_distilled": schema.FLAG}
    stated |= {"boundary_ratio": schema.optional(schema.number(0, 1)), "expand_timesteps": schema.FLAG}
    schema.check({"_class_name": schema.text(), **stated}, index, str(path))
    if index.get("is_cosxl_edit"):  # its picture's latents have another scale, and its process is EDM's
        raise Refusal(f"{path}: is_cosxl_edit = true is not supported. Valid: false.")
    return index


def check_stated(index: Mapping[str, Any], kind: Kind, folder: pathlib.Path) -> None:
    """Refuses a value in model_index.json that its pipeline does not support. A value of null is accepted.

    Raises:
        Refusal: naming the field and its values.
    """
    for field, valid in kind.files.stated.items():
        value = index.get(field)
        if value is not None and value != valid:
            raise Refusal(f"{folder / 'model_index.json'}: {field} = {value} is not supported. Valid: {valid}.")


def read_usual(folder: pathlib.Path, otherwise: Usual) -> Usual:
    """Steps and guidance that the folder's sampling.json states; `otherwise` for what it leaves out.

    Raises:
        Refusal: for a field that is not known, or a value out of range.
    """
    path = folder / SAMPLING
    if not path.is_file():
        return otherwise
    table = opener.read_json(path)
    if not isinstance(table, dict) or not table.keys() <= set(Usual._fields):
        raise Refusal(f"{path} holds {json.dumps(table)[:200]}. Valid fields: {', '.join(Usual._fields)}.")
    usual = otherwise._replace(**table)
    for field, valid in (("steps", schema.integer(1)), ("guidance", schema.number())):
        if why := schema.objection(field, getattr(usual, field), valid):
            raise Refusal(f"{path}: {why} A guidance of 1 means no guidance.")
    return usual


def read_guidance(folder: pathlib.Path, index: Mapping[str, Any], otherwise: Usual) -> Usual:
    """The steps and guidance `otherwise`, with the guidance scale of the folder's guider if it has one.

    Raises:
        Refusal: if the guider does anything but classifier-free guidance at all steps.
    """
    if not has_part(index, "guider", True):
        return otherwise
    path = folder / "guider" / "guider_config.json"
    table = opener.read_table(path)
    schema.check({"guidance_scale": schema.number(), "enabled": schema.FLAG}, table, str(path))
    for name, value in PLAIN_GUIDANCE.items():
        if (stated := table.get(name, value)) != value:
            raise Refusal(f"{path}: {name} = {limits.short(stated)} is not supported. Valid: {value!r}.")
    scale = float(table.get("guidance_scale", 7.5)) if table.get("enabled", True) else 1.0
    return otherwise._replace(guidance=scale)


def has_part(index: Mapping[str, Any], part: str, optional: bool) -> bool:
    """Whether model_index.json names a class for a part, such as "vae".

    Raises:
        Refusal: if a part that is not optional is missing, or the entry is damaged.
    """
    stated = index.get(part) or [None]
    if not isinstance(stated, list):
        raise limits.Refused(f"model_index.json: {part} = {limits.short(stated)}. Valid: a library and a class.")
    if stated[0] is None and not optional:
        raise Refusal(f"model_index.json has no {part}, which this pipeline needs: {json.dumps(dict(index))[:200]}")
    return stated[0] is not None


def attached_folders(folder: pathlib.Path, part: str) -> dict[str, pathlib.Path]:
    """The folders of the networks that a class attaches to its denoiser, by their names.

    Several ControlNets or T2I-Adapters are PART, PART_1 and so on, as diffusers saves them.

    Args:
        folder: the folder of the model.
        part: the first folder's name, `Files.attaches` of the kind; "" for a class that attaches none.
    """
    if not part:
        return {}
    more = sorted(path for path in folder.glob(f"{part}_*") if path.is_dir())
    return {path.name: path for path in (folder / part, *more)}
