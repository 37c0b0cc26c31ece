"""Samples from a trained run, with the pictures that show them; or pictures of prompts by a published model.

    python -m experiments.sample --workdir=runs/digits
    python -m experiments.sample --workdir=runs/digits --config.sample.steps=8 --config.sample.guidance.scale=2.0
    python -m experiments.sample --workdir=runs/digits --labels=3,8 --out=runs/digits/threes_and_eights

Reads the run's config and the EMA weights of its latest checkpoint. Writes samples.npz (images uint8 [N, H, W, C],
labels, seeds), samples.json (how they were made), samples.png and trajectory.png into the run folder, or into --out.
Each device of a process makes a part of every batch, and each of several processes (launch/) a share of the batches, in
a folder that all see. The same command goes on with samples that were interrupted. `--model` and `--again` are in
from_prompt.py:

    python -m experiments.sample --model=stable-diffusion-v1-5 --prompt="a cat on a mat" -n 4
"""

from absl import flags

from experiments.config import command_line

if __name__ == "__main__":  # before the imports that take seconds
    CONFIG = command_line.saved_flag(unless=("model", "again", "prompt"))
    flags.DEFINE_string("workdir", None, "the run folder, e.g. runs/digits")
    flags.DEFINE_string("out", None, "where to write; the run folder, or pictures/, by default")
    flags.DEFINE_integer("step", None, "training step of the checkpoint; the latest by default")
    flags.DEFINE_enum("weights", "ema", ["ema", "params"], "which weights: the moving average, or the raw ones")
    flags.DEFINE_float(
        "average",
        None,
        "width, as a share of the run, of a moving average made now from those "
        "of all kept checkpoints; for a run with config.ema.sigma_rel",
    )
    flags.DEFINE_list("labels", None, "classes to sample, in turn, e.g. 3,8; all of them by default")
    if command_line.names("model", "again", "prompt") or command_line.help_is_requested():
        command_line.load()
        from experiments.sampling import from_prompt, model_flags  # define the flags of a request

        flags.adopt_module_key_flags(from_prompt)  # so that --help lists them
        flags.adopt_module_key_flags(model_flags)
    command_line.begin()

import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from diffusion.io import files
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import agreement
from experiments.config import ConfigError, checks, resolve
from experiments.config.values import config_hash, plain
from experiments.evaluation import plots
from experiments.run import progress
from experiments.run_folder import workdir
from experiments.sampling import averages, batches_on_disk, generate


def main(argv: list[str]) -> None:
    """Loads the weights, samples, and writes; each file appears whole or not at all."""
    values = flags.FLAGS
    if command_line.names("model", "again", "prompt"):
        return from_prompt.main(values.out, values.workdir)
    config = CONFIG.value
    sharding.initialize_distributed()
    checks.validate(config)
    out = pathlib.Path(values.out or values.workdir)
    out.mkdir(parents=True, exist_ok=True)
    shape = workdir.example_shape(config)
    about = {"weights": values.weights}
    if values.average is not None:
        params, step, about = averages.post_hoc(values.workdir, config.ema.sigma_rel, values.average, values.step)
    else:
        load = checkpoints.load_ema if values.weights == "ema" else checkpoints.load_params
        params, step = load(values.workdir, values.step)

    number = config.sample.number
    labels = requested_labels(values.labels, number, config.model.get("num_classes", 0))
    seeds = generate.seeds(config, number)
    devices = jax.local_devices()
    mesh = sharding.make_mesh({"data": -1}, devices) if len(devices) > 1 else None
    if mesh is not None:
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    make = generate.generator(config, shape, mesh)
    began = time.perf_counter()
    leaves = checkpoints.read_about(values.workdir, step)["leaves"]
    place = batches_on_disk.folder(out, batches_on_disk.key(config, leaves, json.dumps(about), labels, seeds))
    batch_size = min(config.sample.batch_size, number)
    index = jax.process_index()
    count = jax.process_count()
    with progress.bar("sampling", number, "images", speaks=index == 0) as advance:
        images = batches_on_disk.images(make.images, params, labels, seeds, batch_size, place, advance, (index, count))
    agreement.gather("samples made")  # each process has made its share

    def finish():
        whole = (
            images
            if count == 1
            else batches_on_disk.images(make.images, params, labels, seeds, batch_size, place, lambda done: None)
        )
        seconds = time.perf_counter() - began
        write(out, config, make, params, whole, labels, seeds, {"step": step, **about})
        print(
            f"{number} images in {seconds:.1f} s ({number / seconds:.1f} a second, {make.nfe} network evaluations "
            f"each) from step {step}: {out / 'samples.npz'}, {out / 'samples.png'}, {out / 'trajectory.png'}"
        )

    agreement.first(finish)


def write(
    out: pathlib.Path,
    config: ConfigDict,
    make: generate.Generator,
    params: Any,
    images: np.ndarray,
    labels: np.ndarray,
    seeds: np.ndarray,
    checkpoint: dict,
) -> None:
    """Writes samples.npz, its record and the figures, and removes the batches.

    Args:
        out: folder to write into.
        config: of the run.
        make: that has made the images.
        params: by which.
        images: uint8 `[N, H, W, C]`.
        labels: int `[N]`.
        seeds: uint32 `[N]`.
        checkpoint: the step and the kind of the weights, for the record.
    """
    with files.whole(out / "samples.npz") as file:
        np.savez(file, images=images, labels=labels, seeds=seeds)  # deflate is 20 times as slow, and gains 8 % or so
    record = {
        "checkpoint": checkpoint,
        "sample": plain(config.sample),
        "nfe": make.nfe,
        "config": config_hash(config),
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "device": jax.devices()[0].device_kind,
        "command": workdir.command("experiments.sample"),
    }
    workdir.write_text(out / "samples.json", json.dumps(record, indent=2) + "\n")
    batches_on_disk.clear(out)

    plots.sample_grid(images, labels, out / "samples.png")
    first = np.unique(labels, return_index=True)[1][:10]
    x, x0 = make.trajectory(params, labels[first], seeds[first])
    plan = resolve.plan(config)
    plots.trajectory(x, x0, np.append(plan.t, plan.s[-1]), labels[first], out / "trajectory.png")


def requested_labels(requested: list[str] | None, number: int, num_classes: int) -> np.ndarray:
    """int32 `[number]` labels: the requested classes in turn, or all of them.

    Raises:
        ConfigError: if one is not a class of the model.
    """
    if requested is None:
        return generate.balanced_labels(number, num_classes)
    for label in requested:
        if not label.isdigit() or int(label) >= num_classes:
            valid = f"integers in 0 .. {num_classes - 1}" if num_classes else "none: the model has no classes"
            raise ConfigError(f"--labels: {label!r} is not a class of this model. Valid: {valid}.")
    return np.resize(np.array(requested, np.int32), number)


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
