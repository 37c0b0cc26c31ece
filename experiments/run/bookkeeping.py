"""The records of a run besides its state: metrics, log lines, checkpoints, evaluations and messages."""

import collections
import contextlib
import json
import math
import pathlib
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion.data.stream_batches import StreamBatches
from diffusion.experiments.evaluation import real_images
from diffusion.experiments.run import failure, held_out_loss, networks, tracking, training_evaluation
from diffusion.experiments.run.examples import Examples
from diffusion.experiments.run.program import Program
from diffusion.experiments.run.start import Start
from diffusion.experiments.run_folder import workdir
from diffusion.io import json_lines
from diffusion.recipe.extensions import way_on
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.settings_checks import LOSS
from diffusion.recipe.values import built_in_python, config_hash, plain
from diffusion.training import gradient_norms, sharding, training_means
from diffusion.training.checkpointing import checkpoint_writer, checkpoints
from diffusion.training.runtime import agreement, preemption, process_memory, progress, recompilation
from diffusion.training.state import HEALTHY, TrainState

NO_PROTOCOL = (  # fields of an evaluation during training that change no figure
    *("evaluate.every", "evaluate.failed", "evaluate.overlap", "evaluate.loss", "loss.every"),
    *("sample.number", "sample.batch_size"),
)
STEPS_AHEAD = 2  # the steps that may be dispatched before the metrics of an earlier one have arrived


class EvaluationStopped(RuntimeError):
    """An evaluation failed and config.evaluate.failed is "stop"; the message says how to continue the run."""


class Bookkeeping:
    """Everything that a run does besides its update; every process of the run has one.

    Attributes:
        display: the display for people, a context manager that the training enters.
        stop: the request to stop, a context manager that the training enters.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: pathlib.Path,
        data: Examples,
        program: Program,
        mesh: Mesh,
        saver: checkpoint_writer.Checkpoints,
        start: Start,
        project: str,
        begun: float,
        stack: contextlib.ExitStack,
    ):
        """Continues the records of the run's checkpoint, or begins new ones.

        Args:
            recipe: the recipe of the run.
            folder: the run folder.
            data: the examples of the run.
            program: the program of the run.
            mesh: the mesh of the run.
            saver: the writer of checkpoints.
            start: the point at which the run starts or resumes.
            project: the project of Weights & Biases; "" for none.
            begun: the value of time.perf_counter() at the start of the run.
            stack: the stack that closes what is opened here.
        """
        config = recipe.config
        self._speaks = jax.process_index() == 0
        self.display = progress.Display(
            config.train.steps, start.step, config.train.batch_size, self._speaks, begun=begun, unit=recipe.unit()
        )
        self.stop = preemption.StopRequest()
        self._recipe, self._config, self._folder = recipe, config, folder
        self._data, self._program = data, program
        self._saver, self._start = saver, start
        self._total = config.train.steps
        self._pending: collections.deque = collections.deque()  # (step, metrics) that are still on the devices
        self._ahead = 0 if sharding.one_step_in_flight(mesh) else STEPS_AHEAD
        self._sums = start.sums
        self._stream: StreamBatches | None = None
        self._streams: collections.deque = collections.deque(maxlen=STEPS_AHEAD + 2)  # (step, position of the stream)
        trained = {"": program.target.params}
        trained |= {name: player.params for name, player in (program.target.second_players or {}).items()}
        self._blocks = {name: gradient_norms.names(params) for name, params in trained.items()}
        self._sizes: set[str] = set()  # the sizes of pictures so far, by the names of their steps
        self._best = start.best if start.best and start.best["figure"] == config.checkpoint.best else None
        self._saved = start.step if start.resumed else None  # the last step whose checkpoint has been started
        saver.best = self._best["step"] if self._best else None
        self._protocol = _protocol(config)
        is_comparable = self._best is None or self._best.get("settings", self._protocol) == self._protocol
        if self._best and not is_comparable:
            self.display.say(
                "WARNING: config.evaluate or config.sample has changed since step "
                f"{self._best['step']} had the least {self._best['figure']}, {self._best['value']:.4g}. Later figures "
                "do not compare with it, so that the next one counts as the least."
            )
            self._best = None
        self._metrics_file = folder / "metrics.jsonl"
        self._timing_file = folder / "timing.jsonl"
        if self._speaks:
            json_lines.rewind(self._metrics_file, start.step)
            json_lines.rewind(self._timing_file, start.step)
        # The run may have saved a step and stopped before its evaluation.
        rows = agreement.gather("evaluated", json.dumps(_evaluations(self._metrics_file, start.step)))
        figures, loss = json.loads(rows[0])
        self._evaluated = 0 if figures is None else start.step
        self._measured = 0 if loss is None else start.step
        if self._speaks:
            self._tracker = stack.enter_context(tracking.tracker(folder, start.step, config, project))
        self._evaluate = training_evaluation.evaluation(recipe, folder, mesh) if config.evaluate.every else None
        every = config.evaluate.loss.every
        self._loss = held_out_loss.build(recipe, program, mesh, data.source) if every else None
        self._watch = stack.enter_context(recompilation.Watch())
        if is_comparable:
            self._keep_best(start.step, (figures or {}) | _average_loss(loss))

    # ==== Before the first step ====

    def finished(self) -> bool:
        """Whether the run has nothing left to do; it then prints what the user may do next."""
        step = self._start.step
        if step < self._total or self.owes_evaluation(step):
            return False
        after = f"{way_on('sample', self._folder)}, or " if self._recipe.makes_samples else ""
        further = 2 * max(step, self._total)
        more = f"--config.train.steps={further}"
        if built_in_python(self._config):
            more = f"config={ {'train.steps': further} }"
        self.display.say(
            f"{self._folder} is finished: step {step} of {self._total}. Next: {after}train on with {more}."
        )
        return True

    def announce(self) -> None:
        """Prints the data, the network and the devices of the run, and the step from which it continues."""
        self.display.say(f"training on {self._data}")
        if self._loss:
            self.display.say(str(self._loss))
        recipe = self._recipe
        params = self._program.target.params
        number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        counted = self._speaks and recipe.companions.tuned is None
        flops = networks.flops_of(recipe.network, params, recipe.examples.shape, recipe.examples.null) if counted else 0
        work = f" and {_scaled(flops)}FLOP an example, forward" if flops else ""
        devices = jax.devices()
        self.display.say(f"a network of {number:,} parameters{work}, on {len(devices)} x {devices[0].device_kind}")
        if self._config.teacher.path:
            self.display.say(f"the teacher is the run {self._config.teacher.path}")
        if self._start.resumed:
            self.display.say(f"going on with {self._folder} from step {self._start.step} of {self._total}")
        if self._program.micro_batches > 1:
            self.display.say(
                f"each step in {self._program.micro_batches} micro-batches of "
                f"{self._config.train.batch_size // self._program.micro_batches} (config.train.accumulate)"
            )

    def reads(self, batches: Any) -> None:
        """Prepares to store the position of a stream in each checkpoint, and prints how the stream can be resumed."""
        if not isinstance(batches, StreamBatches):
            return
        self._stream = batches
        self._streams.append((self._start.step, batches.state))
        stream = batches.stream
        self.display.say(f"the data are a stream: {stream.promise}")
        if self._config.evaluate.every:
            self.display.say(f"an evaluation reads at most {real_images.STREAMED:,} records of a pass over each split")
        if batches.read_again:
            self.display.say(f"read again {batches.read_again:,} records of the stream, to continue after them")
        if self._start.resumed and stream.resume == "anew":
            self.display.say(f"WARNING: the stream starts over at step {self._start.step}")
        if self._speaks:
            row = {"step": self._start.step, "stream": stream.name, "resume": stream.resume}
            json_lines.mend(self._folder / "stream.jsonl")
            json_lines.append(self._folder / "stream.jsonl", row | {"read_again": batches.read_again})

    # ==== Around each step ====

    def compiled_once(self, step: int, size: tuple[int, ...]) -> contextlib.AbstractContextManager[None]:
        """Surrounds a step, and warns if it is compiled more than once for a size of pictures.

        Args:
            step: the number of steps before it.
            size: (height, width) of the batch's pictures if the run has several sizes; otherwise ().
        """
        kind = "a step"
        if size:
            kind = "a step of {} x {} pictures".format(*size)
            if kind not in self._sizes:
                self._sizes.add(kind)
                self.display.say(
                    f"step {step}: {kind} is compiled ({len(self._sizes)} of {len(self._data.sizes)} sizes)"
                )
        return self._watch.work(kind, step)

    def note(self, step: int, metrics: dict[str, Any]) -> None:
        """Starts to copy the metrics of a step to the host, and records the metrics that have arrived.

        Raises:
            RunFailed: if metrics have arrived that show a step with a loss or gradient that is not finite.
        """
        jax.tree.map(lambda leaf: leaf.copy_to_host_async(), metrics)
        self._pending.append((step, metrics))
        if self._stream is not None:
            self._streams.append((step, self._stream.state))
        if step == self._start.step + 1:
            jax.block_until_ready(metrics)
            self.display.first_step()
        self._take_in(self._ahead)

    def _take_in(self, ahead: int) -> None:
        """Records the metrics of all but the last `ahead` steps."""
        while len(self._pending) > ahead:
            step, metrics = self._pending.popleft()
            metrics = jax.tree.map(np.asarray, metrics)  # the copy has arrived, or arrives when the step is done
            self.display.step_done(step)
            failed_at = int(metrics.pop("failed_at"))
            if failed_at != HEALTHY:
                raise failure.RunFailed(failed_at)
            self._sums = training_means.add(self._sums, metrics)
            if step % self._config.train.log_every == 0 or step == self._total:
                self._write(training_means.row(step, self._sums, self._blocks))
                self._sums = training_means.empty(self._sums)

    def _write(self, row: dict[str, Any]) -> None:
        """Writes a row to metrics.jsonl, the tracker and the display, and its times to timing.jsonl."""
        rate = self.display.report(row["step"], row.get("loss"), row.get("skipped", 0))
        if not self._speaks:
            return
        workdir.require_there(self._folder)
        json_lines.append(self._metrics_file, row)
        clock = {"steps_per_second": rate, "memory": process_memory.used()[0]}
        timing = {"step": row["step"], "time": time.time(), **clock, "recompilations": self._watch.count}
        json_lines.append(self._timing_file, timing)
        self._tracker.numbers(row["step"], tracking.flat(row | clock))

    # ==== Checkpoints ====

    def owes_save(self, step: int) -> bool:
        """Whether a checkpoint of this step is due."""
        return step % self._config.checkpoint.every == 0 or step == self._total

    def save(self, step: int, train_state: TrainState) -> None:
        """Starts to write a checkpoint, unless this step has one; first, all earlier rows of metrics are written."""
        if step == self._saved:
            return
        self._saved = step
        self._take_in(0)
        began = time.perf_counter()
        json_lines.sync(self._metrics_file)
        description = self._origin(step) | {"config_hash": config_hash(self._config), "data": self._start.fingerprint}
        description |= {"interval": self._sums, "best": self._best}
        if self._stream is not None:
            description["stream"] = self._stream.state
        with self._watch.work("a save", step):
            self._saver.save(train_state, description)
        self.display.pause(time.perf_counter() - began)

    def _origin(self, step: int) -> dict[str, Any]:
        """The inputs of a step besides the state and the config: number and order of the examples, and frozen files."""
        origin = {"examples": step * self._config.train.batch_size, "order": self._start.order}
        files = {"encoder": self._start.encoder, "base": self._start.base}
        return origin | {name: file for name, file in files.items() if file is not None}

    def save_before_data_fails(self, step: int, train_state: TrainState) -> None:
        """Saves a run whose next batch cannot be read, so that it continues here after the data are repaired."""
        if jax.process_count() == 1:
            self.save(step, train_state)
            self._saver.wait()

    def _keep_best(self, step: int, figures: dict[str, float | None]) -> None:
        """Protects the checkpoint of this step from removal if its figure is the least so far."""
        figure = self._config.checkpoint.best
        value = figures.get(figure)
        if value is not None and (self._best is None or value < self._best["value"]):
            self._best = {"figure": figure, "step": step, "value": value, "settings": self._protocol}
            self._saver.keep_best(self._best)
            self.display.say(f"step {step}  the least {figure} so far: its checkpoint is kept")

    # ==== Evaluations ====

    def owes_evaluation(self, step: int) -> bool:
        """Whether an evaluation of samples or of the held-out loss is due at this step and not done."""
        return self._owes_samples(step) or self._owes_loss(step)

    def _owes_samples(self, step: int) -> bool:
        return _due(step, self._config.evaluate.every) and self._evaluated != step

    def _owes_loss(self, step: int) -> bool:
        return _due(step, self._config.evaluate.loss.every) and self._measured != step

    def evaluate(self, step: int, train_state: TrainState) -> int | None:
        """Makes the evaluations that are due at a step.

        Returns:
            The signal that stopped the run, or None.

        Raises:
            EvaluationStopped: if an evaluation of samples failed, where config.evaluate.failed = "stop".
        """
        if self._loss is not None and self._owes_loss(step):
            self._measure_loss(self._loss, step, train_state)
        if self._evaluate is not None and self._owes_samples(step):
            return self._evaluate_samples(self._evaluate, step, train_state)
        return None

    def _measure_loss(self, loss: held_out_loss.HeldOutLoss, step: int, train_state: TrainState) -> None:
        """Measures the loss on held-out records, and writes it to metrics.jsonl."""
        if self._config.checkpoint.best == LOSS:  # this checkpoint may become the best one
            self.save(step, train_state)
            self._saver.wait()
        self._take_in(0)
        began = time.perf_counter()
        with self._watch.work("the held-out loss", step):
            row = loss.measure(train_state)
        self._measured = step
        if self._speaks:
            json_lines.append(self._metrics_file, {"step": step, LOSS: row})
            self._tracker.numbers(step, held_out_loss.numbers(row))
            trained, average = (row[name]["loss"] for name in held_out_loss.WEIGHTS)
            self.display.say(f"step {step}  held-out loss {trained}, of the average {average}")
        self.display.pause(time.perf_counter() - began)
        self._keep_best(step, _average_loss(row))

    def _evaluate_samples(
        self, evaluate: training_evaluation.Evaluation, step: int, train_state: TrainState
    ) -> int | None:
        """Compares samples of the moving average with real images, and writes the figures to metrics.jsonl.

        The state is saved first, so that a failed evaluation costs no step.

        Returns:
            The signal that stopped the run, or None.

        Raises:
            EvaluationStopped: if the evaluation failed, where config.evaluate.failed = "stop".
        """
        self.save(step, train_state)
        self._saver.wait()
        began = time.perf_counter()
        figures: dict[str, float | None] = {}
        failed = None
        try:
            with self._watch.work("the evaluation", step):
                figures = evaluate(train_state.ema, step, self.stop)
        except training_evaluation.EvaluationFailed as error:
            failed = str(error)
        except preemption.Interrupted:
            self.display.say(f"step {step}  the evaluation is left out for now, and made when the run goes on")
            return self.stop.received()
        self._evaluated = step
        if self._speaks:
            row = {"evaluate": figures} if failed is None else {"evaluation_failed": failed}
            json_lines.append(self._metrics_file, {"step": step, **row})
            self._tracker.numbers(step, tracking.flat({"evaluate": figures}))
            self._tracker.pictures(step, training_evaluation.previews(self._folder, step))
            shown = "  ".join(f"{name} {x:.4g}" for name, x in figures.items() if x is not None)
            shown = shown if failed is None else f"WARNING: the evaluation failed: {failed}"
            self.display.say(f"step {step}  {shown}")
        process_memory.release()
        self.display.pause(time.perf_counter() - began)
        if failed is not None and self._config.evaluate.failed == "stop":
            raise EvaluationStopped(
                f"the evaluation failed: {failed}. The run is saved at step {step}; the same "
                f"{'call' if built_in_python(self._config) else 'command'} continues after that evaluation "
                "(config.evaluate.failed = 'stop')."
            )
        self._keep_best(step, figures)
        return self.stop.received()

    # ==== At the end ====

    def ended(self, step: int, signal_number: int | None, command: str) -> int:
        """Prints how the run has ended, and returns the exit status."""
        if signal_number is not None and (step < self._total or self.owes_evaluation(step)):
            again = way_on("train", self._folder) if built_in_python(self._config) else command
            self.display.say(
                f"stopped at step {step} of {self._total}, saved in {checkpoints.folder(self._folder) / str(step)}. "
                f"To go on:\n  {again}"
            )
            return 128 + signal_number
        skipped = f" ({self._sums['skipped']} damaged records skipped)" if self._sums.get("skipped") else ""
        after = f". Next: {way_on('sample', self._folder)}" if self._recipe.makes_samples else ""
        if self._recipe.companions.tuned is not None:
            after = f'. Next: {way_on("sample", self._folder)} --prompt="..."'
        self.display.say(f"finished {self._total} steps{skipped}: {self._folder}{after}")
        return 0

    def failed(self, step: int, frozen: TrainState) -> int:
        """Stores the state before a step that was not finite, prints its folder, and returns the exit status."""
        self._saver.wait()
        self.display.say(failure.message(step, self._folder, self._config))
        description = self._origin(step)
        if self._stream is not None:
            description["stream"] = dict(self._streams).get(step)
        folder = failure.keep(self._folder, frozen, description)
        self.display.say(
            f"The state before that step is stored in {folder}. To repeat the step and see what is not finite:"
            f"\n  {way_on('reproduce', self._folder)}"
        )
        return 1


def _scaled(number: float) -> str:
    """A number with three significant digits and a metric prefix: "1.23 M"."""
    thousands = min(int(math.log10(number)) // 3, 5)
    return f"{number / 1000**thousands:.3g} {' kMGTP'[thousands].strip()}"


def _protocol(config: ConfigDict) -> str:
    """A hash of the settings on which the value of the figure config.checkpoint.best depends."""
    parts = {"evaluate": config.evaluate, "sample": config.sample}
    if config.checkpoint.best == LOSS:
        parts = {"loss": {"split": config.evaluate.split, **config.evaluate.loss}}
    settings = {f"{name}.{field}": value for name, part in parts.items() for field, value in plain(part).items()}
    return config_hash({field: value for field, value in settings.items() if field not in NO_PROTOCOL})


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0 and step > 0


def lacks_evaluation(config: ConfigDict, folder: pathlib.Path, step: int) -> bool:
    """Whether an evaluation was due at a step of a run but has no line in its metrics, as after the run was killed."""
    figures, loss = _evaluations(folder / "metrics.jsonl", step)
    samples = _due(step, config.evaluate.every) and figures is None
    return samples or (_due(step, config.evaluate.loss.every) and loss is None)


def _average_loss(row: dict | None) -> dict[str, float | None]:
    """The figure of a held-out loss by which checkpoints are compared; {} without one."""
    return {LOSS: row["average"]["loss"]} if row else {}


def _evaluations(metrics: pathlib.Path, step: int) -> tuple[dict | None, dict | None]:
    """(figures of a step's samples, its held-out loss): None if not measured; figures {} if the evaluation failed."""
    figures = loss = None
    for row in json_lines.rows(metrics):
        if row.get("step") == step:
            figures = row.get("evaluate", {} if "evaluation_failed" in row else figures)
            loss = row.get(LOSS, loss)
    return figures, loss
