"""The samples of a run, in its folder: as many and as its recipe says, made anew or gone on with."""

import functools
import json
import pathlib
import time

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from diffusion.experiments.config import ConfigError
from diffusion.experiments.config.recipe import Recipe
from diffusion.experiments.config.values import config_hash, plain
from diffusion.experiments.evaluation import plots
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import averages, batches_on_disk, generate
from diffusion.io import files
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import agreement, progress


def sample(
    recipe: Recipe,
    folder: str | pathlib.Path,
    out: str | pathlib.Path | None = None,
    labels: np.ndarray | None = None,
    step: int | None = None,
    weights: str = "ema",
    average: float | None = None,
) -> np.ndarray:
    """Makes config.sample.number samples of a run, and writes them with the pictures that show them.

    Args:
        recipe: of the run, for a shape of examples.
        folder: the run folder.
        out: where to write; the run folder if None.
        labels: int `[number]`, the classes; all of them in turn if None.
        step: of the checkpoint; the latest if None.
        weights: "ema", the moving average, or "params", the raw ones.
        average: width, as a share of the run, of a moving average made now from those of all kept checkpoints; for a
            run with config.ema.sigma_rel.

    Returns:
        uint8 `[N, H, W, C]`, or float32 `[N, ...]` for a run on data that are no pictures.

    Raises:
        ConfigError: if the run makes no samples of classes.
        WorkdirError, CheckpointError: if there is no checkpoint, or nothing can be written.
    """
    config = recipe.config
    if recipe.shape is None:
        raise ConfigError("the recipe has no shape: sample(recipe.at(shape), folder).")
    out = pathlib.Path(out or folder)
    out.mkdir(parents=True, exist_ok=True)
    about = {"weights": weights}
    if average is not None:
        params, step, about = averages.post_hoc(folder, config.ema.sigma_rel, average, step)
    else:
        load = checkpoints.load_ema if weights == "ema" else checkpoints.load_params
        params, step = load(folder, step)
    number = config.sample.number
    labels = generate.balanced_labels(number, recipe.num_classes) if labels is None else labels
    seeds = generate.seeds(config, number)
    devices = jax.local_devices()
    mesh = sharding.make_mesh({"data": -1}, devices) if len(devices) > 1 else None
    if mesh is not None:
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    make = generate.generator(recipe, mesh)
    began = time.perf_counter()
    leaves = checkpoints.read_about(folder, step)["leaves"]
    place = out / f".samples-{batches_on_disk.key(config, leaves, json.dumps(about), labels, seeds)}"
    batch_size = min(config.sample.batch_size, number)
    share = (jax.process_index(), jax.process_count())
    made = functools.partial(batches_on_disk.images, make.images, params, labels, seeds, batch_size, place)
    with progress.bar("sampling", number, "images", speaks=share[0] == 0) as advance:
        images = made(advance, share)
    agreement.gather("samples made")  # each process has made its share

    def finish():
        whole = images if share[1] == 1 else made(lambda done: None)
        seconds = time.perf_counter() - began
        shown = _write(out, recipe, make, params, whole, labels, seeds, {"step": step, **about})
        print(
            f"{number} {'images' if recipe.makes_pictures else 'samples'} in {seconds:.1f} s ({number / seconds:.1f} a "
            f"second, {make.nfe} network evaluations each) from step {step}: {', '.join(map(str, shown))}"
        )

    agreement.first(finish)
    return images


def _write(out, recipe, make, params, images, labels, seeds, checkpoint) -> list[pathlib.Path]:
    """Writes samples.npz, its record and, of pictures, the figures; removes the batches; returns what to look at."""
    with files.whole(out / "samples.npz") as file:
        np.savez(file, images=images, labels=labels, seeds=seeds)  # deflate is 20 times as slow, and gains 8 % or so
    record = {
        "checkpoint": checkpoint,
        "sample": plain(recipe.config.sample),
        "nfe": make.nfe,
        "config": config_hash(recipe.config),
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "device": jax.devices()[0].device_kind,
        "command": workdir.command("diffusion sample"),
    }
    workdir.write_text(out / "samples.json", json.dumps(record, indent=2) + "\n")
    batches_on_disk.clear(out)
    if not recipe.makes_pictures:
        return [out / "samples.npz"]
    plots.sample_grid(images, labels, out / "samples.png")
    first = np.unique(labels, return_index=True)[1][:10]
    x, x0 = make.trajectory(params, labels[first], seeds[first])
    plots.trajectory(x, x0, recipe.plan.grid, labels[first], out / "trajectory.png")
    return [out / "samples.npz", out / "samples.png", out / "trajectory.png"]
