"""What a run does beside its steps: TensorBoard's events, and the evaluation in the loop."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion.data import sources
from experiments import examples, figures, generate
from experiments.measures import evaluate_samples


@contextlib.contextmanager
def event_writer(folder: pathlib.Path, step: int):
    """TensorBoard's event file; what an interrupted run wrote beyond `step` is marked as void."""
    from tensorboardX.event_file_writer import EventsWriter  # SummaryWriter's thread hangs when the clock is set back
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    writer = EventsWriter(str(folder / "events"))
    try:
        if step:
            writer.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        yield writer
    finally:
        writer.close()


def add_events(writer, row: dict, rate: float | None) -> None:
    """Adds the numbers of a line of metrics to TensorBoard."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    for name, value in {**row, "steps_per_second": rate}.items():
        if isinstance(value, (int, float)) and name != "step":
            writer.write_event(Event(summary=scalar(name, value), step=row["step"], wall_time=time.time()))
    writer.flush()


def evaluation(
    config: ConfigDict, spec: sources.DataSpec, folder: pathlib.Path, mesh: Mesh
) -> Callable[[Any, int], dict[str, float | None]]:
    """What happens every config.evaluate.every steps: (params, step) -> {figure: number}, and previews/<step>.png.

    All processes call it: the samples are made on the mesh, from the parameters as they lie there. Process 0 alone
    then compares them with real images; the others get no figures.

    Samples are compared with the dataset's validation split, so that choices made while training leave the test split
    alone; a dataset that has none is read at config.evaluate.split.
    """
    split = "validation"
    try:
        sources.describe(config.data.name, split, config.data.dir, examples.varied(config))
    except ValueError:
        split = config.evaluate.split
    make = generate.generator(config, spec.shape, mesh)
    labels = generate.balanced_labels(config.evaluate.number, config.model.get("num_classes", 0))
    seeds = generate.seeds(config, config.evaluate.number)

    def evaluate(params, step):
        images = make.images(params, labels, seeds)
        if jax.process_index():
            return {}
        (folder / "previews").mkdir(exist_ok=True)
        figures.sample_grid(images, labels, folder / "previews" / f"{step}.png")
        found = evaluate_samples(images, labels, config, split)
        return {name: float(f"{x:.8g}") if np.isfinite(x) else None for name, x in found.items()}

    return evaluate
