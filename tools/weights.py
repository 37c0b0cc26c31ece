"""Writes the folder of a model that travels with the project, from the run that trained it, and prints its line.

    make demo
    python -m tools.weights digits runs/demo "make demo"    # weights/digits

The line, with the digest, belongs into experiments/config/class_folders.py; the command stands on the model's card.
"""

import hashlib
import pathlib
import sys

import numpy as np

from diffusion.experiments.config import versions
from diffusion.experiments.evaluation import model_card
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling.shipped_models import FILE
from diffusion.io import safetensors_files
from diffusion.io.leaf_names import leaves_of
from diffusion.training.checkpointing import checkpoints

FOLDER = pathlib.Path(__file__).parents[1] / "weights"
NUMBER = 100  # samples, unless the command says another number


def write(run: str | pathlib.Path, folder: str | pathlib.Path, made_by: str) -> str:
    """Writes the folder of a model from its run: the moving average of the latest checkpoint in float32, and a card.

    Args:
        run: the run folder.
        folder: the folder of the model, made if missing.
        made_by: the command that trained the run, for the card.

    Returns:
        The digest of the weights.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    params, step = checkpoints.load_ema(run)
    arrays = {name.replace("/", "."): np.asarray(leaf, np.float32) for name, leaf in sorted(leaves_of(params).items())}
    shapes = {name: array.shape for name, array in arrays.items()}
    safetensors_files.write(folder / FILE, shapes, "float32", iter(arrays.items()), {"step": str(step)})
    config = workdir.read_config(run)
    config.data.update({"shape": tuple(workdir.example_shape(config)), "dir": ""})
    config.sample.update({"number": NUMBER, "batch_size": NUMBER})
    workdir.write_text(folder / "config.json", versions.write(config) + "\n")
    license = "apache-2.0"
    card = model_card.build_run_card(run, config.model.name, license, step=step)
    card = card._replace(title=folder.name, recipe=f"Trained by `{made_by}`. {card.recipe}")
    model_card.write(folder, card)
    return hashlib.sha256((folder / FILE).read_bytes()).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python -m tools.weights NAME RUN COMMAND")
    name, run, command = sys.argv[1:]
    print(f'    "{name}": "{write(run, FOLDER / name, command)}",')
