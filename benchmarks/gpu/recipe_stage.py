"""Runs one stage of `recipe`: statistics of the data, the rate, a stretch of training, FIDs, or a small checkpoint.

    python -m benchmarks.gpu.recipe_stage train --home=HOME --data_dir=DIR --inception=FILE --out=train.json

The stages write into HOME, a folder on the machine's disk: reference.safetensors, steps.json, run/ (an ordinary run
folder), measured.json and weights/. A stage that runs out of time ends with status 75; its results so far stay in HOME.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from absl import flags, logging

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    HOME = flags.DEFINE_string("home", None, "folder for the files of the stages", required=True)
    DATA = flags.DEFINE_string("data_dir", None, "folder of the prepared dataset", required=True)
    INCEPTION = flags.DEFINE_string("inception", None, "file of FID's Inception-v3", required=True)
    OUT = flags.DEFINE_string("out", None, "file for the result, as JSON", required=True)
    TINY = flags.DEFINE_bool("tiny", False, "use small sizes, for a rehearsal of minutes on a CPU")
    command_line.begin(takes_words=True)

import numpy as np

from benchmarks.gpu import recipe_figures
from benchmarks.gpu.stages import SECONDS, UNFINISHED

CONFIG = "configs/cifar10_edm.py"
KEPT = 30  # number of checkpoints of a run, all of which are kept
STOP = 25.0  # seconds that training may take to save and end
SMALL = 15.0  # MB of a piece of the small checkpoint


def train_words(workdir: pathlib.Path, steps: int, every: int) -> list[str]:
    """The command of a run of `steps` steps."""
    preset = f":{size().preset}" if size().preset else ""
    return [
        sys.executable,
        "-m",
        "diffusion",
        "train",
        f"--config={CONFIG}{preset}",
        f"--workdir={workdir}",
        f"--config.data.dir={DATA.value}",
        f"--config.train.steps={steps}",
        f"--config.checkpoint.every={every}",
        f"--config.checkpoint.keep_every={every}",
    ]


def size() -> recipe_figures.Size:
    """The sizes of this call's stages."""
    return recipe_figures.TINY if TINY.value else recipe_figures.Size()


def home() -> pathlib.Path:
    """The folder HOME."""
    return pathlib.Path(HOME.value)


def reference() -> dict[str, Any]:
    """The statistics of the training images, by the EDM protocol."""
    from diffusion.experiments.evaluation import comparison

    statistics = comparison.make_reference(request(reference=size().reference), home() / "reference.safetensors")
    return {"images": statistics.count, "of": size().reference}


def rate() -> dict[str, Any]:
    """The steps per second of a short run, and the number of steps for the time of training.

    The short run also fills the compilation cache with the step.
    """
    folder = home() / "rate"
    trial = size().trial
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(train_words(folder, trial, trial), check=True)
    rates = [json.loads(line)["steps_per_second"] for line in (folder / "timing.jsonl").read_text().splitlines()]
    later = float(np.median(rates[-2:]))  # the first lines include the decoding of images in the first epoch
    steps = max(KEPT, int(later * size().seconds) // KEPT * KEPT)
    (home() / "steps.json").write_text(json.dumps(steps))
    shutil.rmtree(folder)
    return {"steps_per_second": later, "images_per_second": later * batch_size(), "steps": steps}


def train() -> dict[str, Any]:
    """Trains until the last step, or until the time of the stage is up."""
    steps = json.loads((home() / "steps.json").read_text())
    began = time.monotonic()
    run = subprocess.Popen(train_words(home() / "run", steps, steps // KEPT))
    try:
        status = run.wait(max(float(os.environ[SECONDS]) - STOP, 1))
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGTERM)
        status = run.wait()
    if status not in (0, 128 + signal.SIGTERM):
        raise SystemExit(f"training ended with status {status}")
    lines = [json.loads(line) for line in (home() / "run" / "timing.jsonl").read_text().splitlines()]
    progress = {"step": lines[-1]["step"], "of": steps, "seconds_of_this_stretch": time.monotonic() - began}
    if status:
        return progress | {"finished": False}
    (home() / "trained").touch()
    losses = [json.loads(line) for line in (home() / "run" / "metrics.jsonl").read_text().splitlines()]
    every = max(1, len(losses) // 100)
    return progress | {"finished": True, "loss": [[line["step"], line["loss"]] for line in losses[::every]]}


def measure() -> dict[str, Any]:
    """Measures the FIDs that select the width of the average and the guidance, the published FID, and the curve."""
    measured = recipe_figures.Measured(home(), DATA.value, INCEPTION.value)
    finished = recipe_figures.measure_all(measured, size(), stop=time.monotonic() + float(os.environ[SECONDS]))
    return measured.found | {"finished": finished}


def keep() -> dict[str, Any]:
    """Writes the best weights in bfloat16, in pieces that are small enough to be transferred back."""
    from benchmarks.gpu import carry

    file = home() / "weights.safetensors"
    leaves = recipe_figures.Measured(home(), DATA.value, INCEPTION.value).write_best(file)
    parts = carry.cut({"weights.safetensors": file}, home() / "weights", int(SMALL * carry.MEGABYTE))
    return {"leaves": leaves, "bytes": file.stat().st_size, "pieces": len(parts)}


def request(**fields):
    """The request to `diffusion.experiments.evaluation.comparison`."""
    from diffusion.experiments.evaluation import comparison

    return comparison.Request(protocol="edm", inception=INCEPTION.value, data_dir=DATA.value, **fields)


def batch_size() -> int:
    """The batch size of the recipe."""
    from diffusion.recipe import recipes

    return recipes.load(f"{CONFIG}:{size().preset}").train.batch_size


STAGES = {"reference": reference, "rate": rate, "train": train, "measure": measure, "keep": keep}


def main(argv: list[str]) -> None:
    """Runs the stage, writes its result, and ends with status 75 if it is not finished."""
    logging.set_verbosity(logging.WARNING)  # Orbax would log every file
    home().mkdir(parents=True, exist_ok=True)
    result = STAGES[argv[1]]()
    pathlib.Path(OUT.value).write_text(json.dumps(result))
    sys.exit(0 if result.get("finished", True) else UNFINISHED)


if __name__ == "__main__":
    command_line.run(main)
