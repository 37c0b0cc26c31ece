"""Erases concepts from a text-to-image model without training, by editing its cross-attention weights (UCE).

    diffusion erase --model=stable-diffusion-v1-5 --concept="Van Gogh=art" --keep=Monet --keep=Picasso --out=erased
    diffusion sample --model=erased --prompt="a house by Van Gogh"

--concept is the text to erase and, after "=", the text that replaces it, by default an empty text. --concept and --keep
may be repeated. The command writes the complete model to --out. To erase concepts by training, use the recipe
tuning/erase (docs/tuning.md).
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", None, "folder of a text-to-image model, with model_index.json", required=True)
    flags.DEFINE_multi_string(
        "concept", None, "concept to erase and the text that replaces it, as OLD=NEW; may be repeated", required=True
    )
    flags.DEFINE_multi_string("keep", [], "text whose meaning must not change; may be repeated")
    flags.DEFINE_float("preserve", 1.0, "weight of the --keep texts in the objective", lower_bound=0)
    flags.DEFINE_float("near", 0.1, "weight of the distance to the old weights in the objective, above 0")
    flags.DEFINE_string("out", None, "folder for the new model; it must not exist yet", required=True)
    command_line.begin()

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion import text_to_image
from diffusion.adapters import erasure
from diffusion.experiments.evaluation import model_card
from diffusion.experiments.sampling import shipped_models
from diffusion.io import files, limits
from diffusion.models import interchange
from diffusion.models.interchange import folders
from diffusion.recipe import ConfigError
from diffusion.text_to_image import model_folder, model_index

FAILURES = (interchange.Refusal, interchange.Mismatch, limits.Refused, FileNotFoundError, FileExistsError)


def run(
    folder: str | pathlib.Path,
    pairs: Sequence[tuple[str, str]],
    out: str | pathlib.Path,
    kept: Sequence[str] = (),
    preserve: float = 1.0,
    near: float = 0.1,
) -> None:
    """Writes the model without the concepts; the flags of the command describe the arguments.

    Raises:
        ConfigError: for a model without cross-attention, or weights out of range.
        FileExistsError: if `out` exists.
    """
    out = pathlib.Path(out).expanduser()
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another folder, or remove it first.")
    folder = shipped_models.folder_of_prompts(folder)
    model = text_to_image.load(folder)
    try:
        changed = erasure.edited(model, pairs, kept, preserve=preserve, keep=near)
    except ValueError as error:
        raise ConfigError(f"{folder}: {error}.") from error
    denoiser = model.kind.denoiser.folder
    dtype = stored_dtype(folder / denoiser)
    with files.whole_folder(out) as new:
        description = {"base_model": folder.name, "base_sha256": model_index.fingerprint(folder)}
        description |= {"erased": dict(pairs), "kept": list(kept), "preserve": preserve, "near": near}
        model_folder.save(new, folder, denoiser, model.denoiser, changed.params[denoiser], dtype=dtype)
        model_folder.complete(new, folder, about=description)
        model_card.write(new, card(folder, description))


def stored_dtype(folder: pathlib.Path) -> str:
    """The type of a network's tensors; "float32" if they have several types, or one that cannot be written."""
    tensors = folders.find(folder).tensors
    dtypes = {str(tensors.type_of(name)) for name in tensors.shapes}
    return dtypes.pop() if len(dtypes) == 1 and dtypes <= {*folders.FLOATS} else "float32"


def card(folder: pathlib.Path, description: Mapping[str, Any]) -> model_card.Card:
    """The card of a model whose concepts were erased; its license, data and failures are those of the base."""
    erased = ", ".join(f"{old} (now {new or 'no text'})" for old, new in description["erased"].items())
    source_card = model_card.build_source_card(folder, "Text-to-image model with erased concepts", base=folder)
    return source_card._replace(
        recipe=f"Erased in closed form (UCE) by `diffusion erase`: {erased}. Nothing was trained.\n\n```json\n"
        + json.dumps(dict(description), indent=2)
        + "\n```",
        figures="None were measured after the erasure.",
    )


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    if not values.keep:
        flag_errors.refuse(["preserve"], "has no effect without --keep, whose texts it weights.")
    pairs = [(old.strip(), new.strip()) for old, _, new in (text.partition("=") for text in values.concept)]
    if empty := [text for text, (old, _) in zip(values.concept, pairs) if not old]:
        raise ConfigError(f"--concept={empty[0]} names no concept to erase. Valid: OLD=NEW, e.g. 'Van Gogh=art'.")
    run(values.model, pairs, values.out, values.keep, values.preserve, values.near)
    print(f"{values.out}: {values.model} without {', '.join(old for old, _ in pairs)}")


if __name__ == "__main__":
    command_line.run(main, FAILURES)
