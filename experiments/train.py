"""Trains a model as a config describes it; the same command goes on with a run that was stopped.

    python -m experiments.train --config=configs/digits.py --workdir=runs/digits
    python -m experiments.train --config=configs/digits.py --workdir=runs/digits --config.train.steps=4000
    python -m experiments.train --config=configs/cifar10_dit.py:tiny --workdir=runs/c10 --config.data.dir=DIR

Ctrl-C or SIGTERM (also to one process of several) finishes the step, saves, and says how to go on; once more, it ends
at once. SIGUSR1 and SIGHUP stand for SIGTERM. A run that goes on computes what it would have computed undisturbed, bit
for bit, wherever it was ended.

Exit status: 0 finished; 1 failed (a non-finite loss, a full disk, ...); 2 a mistake in the config; 130 stopped and
saved after Ctrl-C, 143 after SIGTERM.
"""

import collections
import contextlib
import json
import pathlib
import shlex
import signal
import sys
import time

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from diffusion.data import sources
from diffusion.training import gradient_norms, sharding, state, warm_start
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import agreement, compilation_cache, preemption, recompilation
from experiments import config as configs
from experiments import reproduce
from experiments.config import ConfigError, checks, fields
from experiments.run import examples, hooks, noise_pairs, process_memory, progress, tracking, training_means
from experiments.run import program as programs
from experiments.run_folder import workdir
from experiments.sampling import generate

STEPS_AHEAD = 2  # whose metrics may still be on their way when the next step is dispatched


def run(config: ConfigDict, folder: str | pathlib.Path, command: str = "the same command", project: str = "") -> int:
    """Trains until config.train.steps, or until it is asked to stop.

    Args:
        config: the config, complete.
        folder: the run folder, made if missing.
        command: how a user goes on with the run, for messages.
        project: of Weights & Biases, to log to beside TensorBoard's events; "" is none.

    Returns:
        The exit status; see the module's docstring.

    Raises:
        ConfigError: for a mistake in the config, or a folder that holds another config's run.
        WorkdirError: if the folder is in use or cannot be written.
        CheckpointError: if a checkpoint cannot be written, none is sound, or the latest is of another architecture.
    """
    with contextlib.ExitStack() as stack:
        # ==== Processes, and the config ====
        begun = time.perf_counter()
        sharding.initialize_distributed()
        stack.enter_context(agreement.together())  # process 0 may have more to do at the end than the others
        speaks = jax.process_index() == 0
        checks.validate(config)
        tracking.check(project)
        compilation_cache.enable()
        folder = pathlib.Path(folder)

        # ==== Mesh ====
        batch_size = config.train.batch_size
        mesh = programs.mesh_of(config)

        # ==== Data ====
        config = fields.absolute(config)
        given = examples.open_examples(config)
        spec = given.spec
        content = given.source.fingerprint()
        checks.validate(config, spec)

        # ==== Run folder ====
        if speaks:  # process 0 keeps the folder; the others only read checkpoints there
            stack.enter_context(workdir.lock(folder))
            workdir.settle_config(folder, config)
        workdir.require_shared(folder)
        metrics_file = folder / "metrics.jsonl"
        timing_file = folder / "timing.jsonl"

        # ==== Model, objective, optimizer; the state's shapes first ====
        program = programs.build(config, spec.shape, mesh)
        target = program.target
        seed = program.seed
        blocks = gradient_norms.names(program.target.params)

        # ==== Checkpoint, and where the run starts from: ====
        # 1. the latest sound checkpoint of this run folder, else
        # 2. the parameters of config.init_from, as far as they fit, else
        # 3. random parameters.
        saver = checkpoints.Checkpoints(folder, config.checkpoint.keep, config.checkpoint.keep_every)
        stack.callback(saver.close)
        restored = checkpoints.restore_latest(folder, target)
        examples.require_same(config, restored[1].get("data") if restored else None, content)
        if restored:
            train_state, about = restored
        else:
            train_state = sharding.create(program.init, target, seed)
            about = {"examples": 0, "interval": training_means.empty()}
            if config.init_from.path:
                train_state = start_from(config.init_from, train_state, program.average, speaks)
            if config.teacher.path:
                train_state = taught_by(config, train_state)
        step, sums = int(train_state.step), about["interval"]
        best = about.get("best") if config.checkpoint.best else None  # {"figure", "step", "value"}
        if best and best["figure"] == config.checkpoint.best:
            saver.best = best["step"]
        else:
            best = None
        if speaks:
            workdir.rewind(metrics_file, step)
            workdir.rewind(timing_file, step)
        found = agreement.gather("evaluated", json.dumps(workdir.evaluation(metrics_file, step)))[0]
        found = json.loads(found)  # of this step: the evaluation comes after the save
        evaluated = step if found is not None else 0

        # ==== Hooks ====
        tracker = stack.enter_context(tracking.tracker(folder, step, config, project)) if speaks else None
        evaluate = hooks.evaluation(config, spec, folder, mesh) if config.evaluate.every else None
        total = config.train.steps
        sampling = configs.printed("sample", f"--workdir={folder}")
        display = progress.Display(total, step, batch_size, speaks, begun=begun)
        watch = stack.enter_context(recompilation.Watch())
        pending: collections.deque = collections.deque()  # (step, metrics) that are still on the devices

        def absorb(ahead):
            """Takes in the metrics of all but the last `ahead` steps; stops the run if one of them failed."""
            nonlocal sums
            while len(pending) > ahead:
                at, metrics = pending.popleft()
                metrics = jax.tree.map(np.asarray, metrics)  # on the host already, or as soon as the step is done
                failed_at = int(metrics.pop("failed_at"))
                if failed_at != state.HEALTHY:
                    raise RunFailed(failed_at)
                sums = training_means.add(sums, metrics)
                if at % config.train.log_every == 0 or at == total:
                    write(training_means.row(at, sums, blocks))
                    sums = training_means.empty(sums)

        def write(row):
            """One line of metrics: to metrics.jsonl, the tracker and the display; the clock's part to timing.jsonl."""
            rate = display.report(row["step"], row.get("loss"), row.get("skipped", 0))
            if speaks:
                workdir.require_there(folder)
                workdir.append(metrics_file, row)
                clock = {"steps_per_second": rate, "memory": process_memory.used()[0]}
                workdir.append(
                    timing_file, {"step": row["step"], "time": time.time(), **clock, "recompilations": watch.count}
                )
                tracker.numbers(row["step"], tracking.flat(row | clock))

        def evaluate_now():
            """Samples from the moving average and compares them with real images; one line of metrics.

            The state is on the disk before, so that whatever becomes of the evaluation costs no step.

            Returns:
                The signal to stop for, or None.
            """
            nonlocal evaluated
            save()
            saver.wait()
            began = time.perf_counter()
            found = {}
            try:
                with watch.work("the evaluation", step):
                    found = evaluate(train_state.ema, step, stop)
                row = {"evaluate": found}
                told = "  ".join(f"{name} {x:.4g}" for name, x in found.items() if x is not None)
            except hooks.EvaluationFailed as failure:
                row = {"evaluation_failed": str(failure)}
                told = f"WARNING: the evaluation failed: {failure}"
            except preemption.Interrupted:
                display.say(f"step {step}  the evaluation is left, and made when the run goes on")
                return stop.received()
            evaluated = step
            if speaks:
                workdir.append(metrics_file, {"step": step, **row})
                tracker.numbers(step, tracking.flat({"evaluate": found}))
                tracker.pictures(step, hooks.previews(folder, step))
                display.say(f"step {step}  {told}")
            process_memory.release()
            display.pause(time.perf_counter() - began)
            if "evaluation_failed" in row and config.evaluate.failed == "stop":
                raise EvaluationStopped(
                    f"{told.removeprefix('WARNING: ')}. The run is saved at step {step}; the same "
                    "command goes on behind that evaluation (config.evaluate.failed = 'stop')."
                )
            keep_best(found)
            return stop.received()

        def keep_best(found):
            """Keeps the checkpoint of this step for good if the figure is the least so far."""
            nonlocal best
            value = found.get(config.checkpoint.best)
            if value is not None and (best is None or value < best["value"]):
                best = {"figure": config.checkpoint.best, "step": step, "value": value}
                saver.keep_best(best)
                display.say(f"step {step}  the least {config.checkpoint.best} so far: its checkpoint is kept")

        def save():
            """Starts a checkpoint; the lines that it relies on are on the disk first."""
            began = time.perf_counter()
            workdir.sync(metrics_file)
            about = {"examples": step * batch_size, "config_hash": configs.digest(config), "data": content}
            with watch.work("a save", step):
                saver.save(train_state, {**about, "interval": sums, "best": best})
            display.pause(time.perf_counter() - began)

        # ==== Loop ====
        def due(every):
            return every and step % every == 0 and step > 0

        keep_best(found or {})
        if step >= total and not (due(config.evaluate.every) and evaluated != step):
            after = f"{sampling}, or " if generate.sampled(config) else ""
            display.say(
                f"{folder} is finished: step {step} of {total}. Next: {after}train on with "
                f"--config.train.steps={2 * total}."
            )
            return 0
        display.say(f"training on {given}")
        if restored:
            display.say(f"going on with {folder} from step {step} of {total}")
        if program.micro_batches > 1:
            display.say(
                f"each step in {program.micro_batches} micro-batches of "
                f"{batch_size // program.micro_batches} (config.train.accumulate)"
            )
        if config.teacher.pairs.number:
            given = noise_pairs.paired(config, folder, given, mesh)
        data = given.batches(config, about["examples"], sharding.positions(batch_size, mesh), config.data.threads)
        stack.callback(data.close)
        stop = stack.enter_context(preemption.StopRequest())
        signal_number = None
        stack.enter_context(display)
        kinds: set[str] = set()  # of steps so far
        started = step
        ahead = 0 if sharding.one_step_in_flight(mesh) else STEPS_AHEAD

        try:
            if due(config.evaluate.every) and evaluated != step:  # stopped between the step and its evaluation
                signal_number = evaluate_now()
            while step < total and signal_number is None:
                try:
                    batch = next(data)
                except (sources.DamagedRecord, OSError):  # whatever is done about it, the run goes on from here
                    if jax.process_count() == 1:
                        absorb(0)
                        save()
                        saver.wait()
                    raise
                if not program.conditional:
                    del batch["label"]
                kind = "a step"
                if given.sizes:  # the step is compiled once for each
                    kind = "a step of {} x {} pictures".format(*batch["image"].shape[1:3])
                    if kind not in kinds:
                        kinds.add(kind)
                        display.say(f"step {step}: {kind} is compiled ({len(kinds)} of {len(given.sizes)} sizes)")
                with watch.work(kind, step):
                    train_state, metrics = program.step(train_state, sharding.to_devices(batch, mesh, batch_size), seed)
                step += 1
                jax.tree.map(lambda leaf: leaf.copy_to_host_async(), metrics)
                pending.append((step, metrics))
                if step == started + 1:
                    jax.block_until_ready(metrics)
                    display.first_step()
                absorb(ahead)
                signal_number = stop.received()
                if due(config.checkpoint.every) or step == total or signal_number is not None:
                    absorb(0)
                    save()
                if due(config.evaluate.every) and signal_number is None:
                    absorb(0)
                    signal_number = evaluate_now()
            saver.wait()
        except RunFailed as failure:
            saver.wait()
            display.say(failure_message(failure.step, folder, config.optimizer.get("clip")))
            place = reproduce.keep(folder, train_state, {"examples": failure.step * batch_size})
            display.say(
                f"The state before that step is kept in {place}. To repeat the step and see what is not finite:"
                f"\n  {configs.printed('reproduce', f'--workdir={folder}')}"
            )
            return 1
        owed = due(config.evaluate.every) and evaluated != step
        if signal_number is not None and (step < total or owed):
            display.say(
                f"stopped at step {step} of {total}, saved in {checkpoints.folder(folder) / str(step)}. "
                f"To go on:\n  {command}"
            )
            return 128 + signal_number
        skipped = f" ({sums['skipped']} damaged records skipped)" if sums.get("skipped") else ""
        after = f". Next: {sampling}" if generate.sampled(config) else ""
        display.say(f"finished {total} steps{skipped}: {folder}{after}")
        return 0


class EvaluationStopped(RuntimeError):
    """An evaluation failed, and config.evaluate.failed says to stop; the message says how to go on."""


class RunFailed(Exception):
    """The loss or the gradient of a step was not finite; the state is frozen as it was before that step."""

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


def failure_message(step: int, folder: pathlib.Path, clip: float | None = None) -> str:
    """What a user reads when a step fails.

    Args:
        step: that has failed.
        folder: of the run.
        clip: the largest norm of a gradient that the run's optimizer lets pass; None for any.
    """
    good = checkpoints.latest(folder)
    kept = "There is no checkpoint yet." if good is None else f"The last good checkpoint is step {good}."
    if step == 0:
        advice = "No step has changed the weights yet: look at the data, the network and the objective."
    else:
        less = "--config.optimizer.learning_rate" + ("" if clip else " or --config.optimizer.clip=1.0")
        source = f"--config.init_from.path={checkpoints.folder(folder) / str(good)}"
        advice = f"Try a smaller {less} with a new --workdir{'' if good is None else f' {shlex.quote(source)}'}."
    return (
        f"error: the loss or the gradient was not finite in step {step} (counted from 0). The state was frozen before "
        f"that step. {kept}\nThe same command fails the same way. {advice}"
    )


def start_from(init_from: ConfigDict, train_state: state.TrainState, average, speaks: bool) -> state.TrainState:
    """Takes over the parameters of config.init_from, into the moving average too, and names what it leaves."""
    try:
        source = warm_start.read(init_from.path)
        params, taken, skipped = warm_start.warm_start(train_state.params, source, init_from.include)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"config.init_from: {error}") from error
    if speaks:
        print(f"init_from {init_from.path}: took {len(taken)} leaves, skipped {len(skipped)}")
        print("".join(f"  skipped {line}\n" for line in skipped), end="", flush=True)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, train_state.ema)
    return train_state._replace(params=params, ema=jax.jit(average.init, out_shardings=shardings)(params))


def taught_by(config: ConfigDict, train_state: state.TrainState) -> state.TrainState:
    """Takes the moving average of the run config.teacher.path as the teacher, which this run then keeps itself.

    A rival starts from the same weights.
    """
    path = pathlib.Path(config.teacher.path).expanduser()
    theirs = configs.from_json((path / "config.json").read_text())
    for ours, field in (
        (config.schedule, "schedule"),
        (config.teacher.parameterization, "parameterization"),
        (config.model, "model"),
    ):
        if configs.plain(ours) != configs.plain(theirs[field]):
            raise ConfigError(
                f"config.teacher.path = {config.teacher.path!r}: the teacher's config.{field} is "
                f"{configs.plain(theirs[field])}, and this run has {configs.plain(ours)} for it."
            )
    source = warm_start.read(path)

    def taken(params):
        params, _, skipped = warm_start.warm_start(params, source)
        if skipped:
            raise ConfigError(f"config.teacher.path = {config.teacher.path!r} does not fit: {skipped[0]}.")
        return params

    frozen = {name: taken(params) for name, params in (train_state.frozen or {}).items()}
    rivals = {name: rival._replace(params=taken(rival.params)) for name, rival in (train_state.rivals or {}).items()}
    return train_state._replace(frozen=frozen or None, rivals=rivals or None)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    try:
        status = run(flags.FLAGS.config, flags.FLAGS.workdir, workdir.command("experiments.train"), flags.FLAGS.wandb)
    except KeyboardInterrupt:
        print("ended at once; the same command goes on from the last checkpoint", file=sys.stderr)
        preemption.leave(128 + signal.SIGINT)
    except jax.errors.JaxRuntimeError as error:
        if not jax.distributed.is_initialized():
            raise
        print(
            f"error: {str(error).splitlines()[0]}\nIf another process of this run has ended, its own output says "
            "why. Start them all again: the run goes on from its last checkpoint.",
            file=sys.stderr,
        )
        preemption.leave(1)
    sys.exit(status)


if __name__ == "__main__":
    configs.flag()
    flags.DEFINE_string("workdir", None, "the run folder, made if missing, e.g. runs/digits")
    flags.DEFINE_string("wandb", "", "project of Weights & Biases to log to as well; WANDB_MODE=offline stays local")
    flags.mark_flags_as_required(["config", "workdir"])
    configs.run(main, (*workdir.FAILURES, EvaluationStopped))
