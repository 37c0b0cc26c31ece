"""Writes the folder of a model that ships with the project from the run that trained it, and prints its digest.

    make demo
    python -m tools.weights digits runs/demo "make demo"    # weights/digits
    python -m tools.weights drawings runs/counting/drawings_spelling "COMMAND"    # weights/drawings
    python -m tools.weights moving runs/pairs/denoiser "COMMAND"    # weights/moving, in 8 bits

The printed line "NAME": "DIGEST" belongs into `SHIPPED` of diffusion/recipe/class_folders.py. The card of the model
states COMMAND, the command that trained the run. A run that tuned a text-to-image model, or a folder of examples.text,
is stored in 16 bits, and the card then has the figures of the run's report.
"""

import hashlib
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy

from diffusion import text_to_image
from diffusion.experiments.evaluation import model_card, report
from diffusion.experiments.run import tuned_files
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling.shipped_models import FILE, SCALE
from diffusion.io import files
from diffusion.io.files import write_text
from diffusion.io.leaf_names import leaves_of
from diffusion.recipe import versions
from diffusion.text_to_image import model_folder, model_index
from diffusion.training.checkpointing import checkpoints
from examples.text import template_report
from examples.video import pairs_report

FOLDER = pathlib.Path(__file__).parents[1] / "weights"
NUMBER = 100  # default number of samples
LICENSE = "apache-2.0"
LARGE = 2_000_000  # number of parameters from which a model is stored in 8 bits


def write(run: str | pathlib.Path, folder: str | pathlib.Path, made_by: str) -> str:
    """Writes the folder of a model from its run: the latest moving average of the parameters, the config and a card.

    The average is stored in float32, or as `in_eight_bits` if it has more than `LARGE` parameters.

    Args:
        run: the run folder; the card of a run of examples.video has the figures of RUN/../report.
        folder: the folder of the model, made if missing.
        made_by: the command that trained the run, for the card.

    Returns:
        The digest of the weights.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    params, step = checkpoints.load_ema(run)
    arrays = {name.replace("/", "."): np.asarray(leaf, np.float32) for name, leaf in sorted(leaves_of(params).items())}
    if sum(array.size for array in arrays.values()) > LARGE:
        arrays = in_eight_bits(arrays)
    with files.atomic(folder / FILE) as file:
        file.write(safetensors.numpy.save(arrays, {"step": str(step)}))
    config = workdir.read_config(run)
    config.data.update({"shape": tuple(workdir.example_shape(config)), "dir": ""})
    config.sample.update({"number": NUMBER, "batch_size": NUMBER})
    write_text(folder / "config.json", versions.write(config) + "\n")
    card = model_card.build_run_card(run, config.model.name, LICENSE, step=step)
    pairs = config.data.source.to_dict().get("name") == "moving_pairs"  # examples.video writes a report beside the run
    figures = _figures(pathlib.Path(run).parent / "report" / "report.json", pairs_report.rows) if pairs else {}
    card = card._replace(title=folder.name, recipe=f"Trained by `{made_by}`. {card.recipe}", **figures)
    model_card.write(folder, card)
    return hashlib.sha256((folder / FILE).read_bytes()).hexdigest()


def in_eight_bits(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rounds kernels to int8 with a scale for each column of each layer; other arrays stay as they are.

        kernel = round(kernel / scale) scale,   scale = max |kernel| / 127

    Args:
        arrays: {name: float32 array}; the kernels of a stack of layers, below "blocks", begin with the axis of layers.

    Returns:
        The arrays by their names; kernels are int8, and each has its scales, float32, as name + SCALE.
    """
    stored: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if not name.endswith(".kernel"):
            stored[name] = array
            continue
        scale = np.maximum(np.abs(array).max(axis=1 if ".blocks." in name else 0, keepdims=True), 1e-30) / 127
        stored[name] = np.round(array / scale).astype(np.int8)
        stored[name + SCALE] = scale.astype(np.float32)
    return stored


def write_text_model(trained: str | pathlib.Path, folder: str | pathlib.Path, made_by: str) -> str:
    """Writes the folder of a text-to-image model from the run that tuned it, or the folder of examples.text.

    Every network is stored in float16, whose rounding is 8 times finer than that of bfloat16. The card has the figures
    of TRAINED/report, if there is one.

    Args:
        trained: the run folder, whose folder "tuning" holds the model; or the folder of examples.text.
        folder: the folder of the model, which must not exist.
        made_by: the command that trained the model, for the card.

    Returns:
        The fingerprint of the model's files.
    """
    trained, folder = pathlib.Path(trained), pathlib.Path(folder)
    tuned = (trained / tuned_files.FOLDER).is_dir()
    base = trained / (tuned_files.FOLDER if tuned else "model")
    model = text_to_image.load(base)
    for part, module in model.modules.items():
        model_folder.save(folder, base, part, module, model.params[part], dtype="float16")
    model_folder.complete(folder, base)
    run = trained if tuned else trained / "denoiser"
    card = model_card.build_run_card(run, "pixart", LICENSE, {"pipeline_tag": "text-to-image"})
    recipe = f"Trained by `{made_by}`. {card.recipe}"
    figures = _figures(trained / "report" / "report.json", template_report.rows)
    card = card._replace(title=folder.name, recipe=recipe, **figures)
    model_card.write(folder, card)
    return model_index.fingerprint(folder)


def _figures(path: pathlib.Path, rows: Callable[[Any], list[report.Row]]) -> dict[str, str]:
    """The section "Figures" of a card, from the rows of an example's report; {} if there is no report."""
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text())
    return {"figures": report.beside_table(rows(content["figures"]))}


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m tools.weights NAME RUN COMMAND")
    name, run, command = sys.argv[1:]
    text_to_image_run = any((pathlib.Path(run) / part).is_dir() for part in (tuned_files.FOLDER, "model"))
    write_model = write_text_model if text_to_image_run else write
    print(f'    "{name}": "{write_model(run, FOLDER / name, command)}",')
