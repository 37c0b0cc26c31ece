"""The logs of a run during training: TensorBoard events, and Weights & Biases on request.

TensorBoard reads the folder of runs; Weights & Biases also keeps a run offline:

    tensorboard --logdir=runs
    WANDB_MODE=offline diffusion train ... --wandb=PROJECT  # pip install wandb; then wandb sync RUN/wandb/*
"""

import contextlib
import importlib.util
import pathlib
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from diffusion.io import pictures as picture_files
from diffusion.recipe import ConfigError
from diffusion.recipe.values import plain


class Tracker(NamedTuple):
    """A tracker, which receives numbers and pictures."""

    numbers: Callable[[int, Mapping[str, float]], None]  # (step, {name: number})
    pictures: Callable[[int, Mapping[str, pathlib.Path]], None]  # (step, {name: PNG file})


def flat(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by name, without the step; the parts of an entry are named "entry/part".

    "loss_by_t", a list over equal bins of t in [0, 1], has a part for each bin. Bins without a value are left out.
    """
    numbers: dict[str, float] = {}
    for name, value in row.items():
        if name == "loss_by_t":
            bins = len(value)
            value = {f"{i / bins:.1f}-{(i + 1) / bins:.1f}": mean for i, mean in enumerate(value)}
        parts = {f"{name}/{part}": x for part, x in value.items()} if isinstance(value, Mapping) else {name: value}
        numbers |= {part: x for part, x in parts.items() if isinstance(x, (int, float)) and part != "step"}
    return numbers


def check(project: str) -> None:
    """Refuses a project of Weights & Biases if the package wandb is not installed.

    Raises:
        ConfigError: says how to install it.
    """
    if project and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            f"--wandb={project} needs the package wandb, which is not installed. Install it by pip install wandb, or "
            "leave the flag out (TensorBoard's events are written without it)."
        )


@contextlib.contextmanager
def tracker(folder: pathlib.Path, step: int, config: Mapping, project: str = "") -> Iterator[Tracker]:
    """Opens TensorBoard's event file in a run folder and, if a project is named, a run of Weights & Biases.

    Weights & Biases reads WANDB_MODE, WANDB_ENTITY and its other variables itself.

    Args:
        folder: the run folder.
        step: the step at which the run starts or continues.
        config: the config of the run.
        project: the project in Weights & Biases; "" for none.
    """
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(weights_and_biases(folder, config, project))] if project else []
        opened.append(stack.enter_context(tensorboard(folder, step)))

        def numbers(step, values):
            for tracker in opened:
                tracker.numbers(step, values)

        def pictures(step, files):
            for tracker in opened:
                tracker.pictures(step, files)

        yield Tracker(numbers, pictures)


@contextlib.contextmanager
def tensorboard(folder: pathlib.Path, step: int) -> Iterator[Tracker]:
    """TensorBoard's event file; events that an interrupted run wrote after `step` are marked as void."""
    from tensorboardX.event_file_writer import EventsWriter  # SummaryWriter's thread hangs when the clock is set back

    # Protobuf creates these names when the modules are imported.
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

    # The name has the time in seconds. The number tells two starts within one second apart, and keeps their order.
    writer = EventsWriter(str(folder / "events"), f".{len(list(folder.glob('events.*'))):05}")

    def write(step, values):
        writer.write_event(Event(summary=Summary(value=values), step=step, wall_time=time.time()))
        writer.flush()

    def numbers(step, values):
        write(step, [Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def pictures(step, files):
        shown = []
        for name, path in files.items():
            with picture_files.opened(path) as image:
                width, height = image.size
            encoded = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes())
            shown.append(Summary.Value(tag=name, image=encoded))
        write(step, shown)

    try:
        if step:
            writer.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))
        yield Tracker(numbers, pictures)
    finally:
        writer.close()


@contextlib.contextmanager
def weights_and_biases(folder: pathlib.Path, config: Mapping, project: str) -> Iterator[Tracker]:
    """A run of Weights & Biases; a run folder that continues uses the same one.

    The step of Weights & Biases cannot decrease, but a run that continues from a checkpoint repeats steps. So the
    training step is logged as a number, and all other numbers are plotted against it.
    """
    import wandb  # pyright: ignore[reportMissingImports]  # optional

    name = folder / "wandb.id"
    if not name.exists():
        name.write_text(uuid.uuid4().hex[:8])
    run = wandb.init(
        project=project,
        name=folder.name,
        id=name.read_text(),
        resume="allow",
        dir=str(folder),
        config=plain(config),
        settings=wandb.Settings(console="off", silent=not sys.stdout.isatty()),
    )
    run.define_metric("step")
    run.define_metric("*", step_metric="step")

    def numbers(step, values):
        run.log({**values, "step": step})

    def pictures(step, files):
        run.log({**{name: wandb.Image(str(path)) for name, path in files.items()}, "step": step})

    failed = 1
    try:
        yield Tracker(numbers, pictures)
        failed = 0
    finally:
        run.finish(exit_code=failed)
