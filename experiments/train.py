"""Trains a model from a config; the same command continues an interrupted run.

    diffusion train --config=digits --workdir=runs/digits
    diffusion train --config=digits --workdir=runs/digits --config.train.steps=4000
    diffusion train --config=digits --workdir=s3://bucket/digits        # in an object store: docs/stores.md
    diffusion train --config=cifar10_dit:tiny --workdir=runs/c10 --config.data.dir=DIR
    diffusion train --config=tuning/lora --workdir=runs/lora --config.base.path=stable-diffusion-v1-5 \\
        --config.data.source.path=photos --config.data.text.prompt="a photo of sks dog"

At Ctrl-C or SIGTERM (even if only one of several processes receives it) the run finishes the step, saves, and prints
the command that continues it. At a second signal it ends at once. SIGUSR1 and SIGHUP act like SIGTERM. A resumed run
computes the same as an uninterrupted run, bit for bit, wherever it ended.

Exit status: 0 finished; 1 failed (a non-finite loss, a full disk, ...); 2 a mistake in the config; 130 stopped and
saved after Ctrl-C, 143 after SIGTERM.
"""

from absl import flags

from diffusion.experiments import command_line, config_flag, stored_paths

if __name__ == "__main__":  # before the imports that take seconds
    config_flag.flag()
    stored_paths.take_stored_runs()
    flags.DEFINE_string("workdir", None, "folder of the run, created if missing, e.g. runs/digits")
    flags.DEFINE_string(
        "wandb",
        "",
        "project of Weights & Biases to which the metrics are also sent; WANDB_MODE=offline keeps them local",
    )
    flags.mark_flags_as_required(["config", "workdir"])
    command_line.begin()

import contextlib
import dataclasses
import pathlib
import signal
import sys
import time

import jax
from ml_collections import ConfigDict

from diffusion.data import sources
from diffusion.experiments.evaluation import held_out
from diffusion.experiments.run import (
    bookkeeping,
    examples,
    noise_pairs,
    prior_pictures,
    program as programs,
    tracking,
    tuned_examples,
    tuned_files,
)
from diffusion.experiments.run.failure import RunFailed
from diffusion.experiments.run.start import first_state
from diffusion.experiments.run_folder import mirror as mirrors, user_code, workdir
from diffusion.recipe import as_config_errors, checks, extensions, fields, fits, settings_checks
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import differences
from diffusion.training import sharding
from diffusion.training.checkpointing import checkpoint_writer, checkpoints
from diffusion.training.runtime import agreement, compilation_cache, preemption


def run(config: ConfigDict, folder: str | pathlib.Path, command: str = "the same command", project: str = "") -> int:
    """Trains as a config describes it: `train` of its recipe.

    Raises:
        ConfigError: for a mistake in the config; other errors as `train`.
    """
    with as_config_errors():
        sharding.initialize_distributed()
    recipe = checks.validate(config)
    return train(dataclasses.replace(recipe, config=fields.absolute(recipe.config)), folder, command, project)


def unless_finished(config: ConfigDict, folder: pathlib.Path, command: str = "the same command") -> int:
    """Trains as `run` does, unless the folder holds a finished run of this config; then it returns 0 at once."""
    if (folder / "config.json").is_file() and checkpoints.latest(folder) == config.train.steps:
        is_done = not bookkeeping.lacks_evaluation(config, folder, config.train.steps)
        if is_done and not differences(workdir.read_config(folder), fields.absolute(config)):
            print(f"{folder} is finished: step {config.train.steps}", flush=True)
            return 0
    return run(config, folder, command)


def train(recipe: Recipe, folder: str | pathlib.Path, command: str = "the same call", project: str = "") -> int:
    """Trains until config.train.steps, or until a signal stops it.

    Args:
        recipe: the recipe of the run.
        folder: the run folder, made if missing; or its address in an object store, "s3://bucket/run". A run with an
            address trains in a local folder, which is copied to the store.
        command: the command that continues the run, for messages.
        project: the Weights & Biases project that receives the metrics; "" for none. TensorBoard's events are always
            written.

    Returns:
        The exit status; see the module's docstring.

    Raises:
        ConfigError: if the recipe does not fit its data, or the folder holds another recipe's run.
        WorkdirError: if the folder is in use or cannot be written.
        CheckpointError: if a checkpoint cannot be written, none is sound, or the latest is of another architecture.
    """
    begun = time.perf_counter()
    config = recipe.config
    with contextlib.ExitStack() as stack:
        # ==== Processes, mesh, data ====
        # At the end the other processes wait for process 0, which still writes files then.
        stack.enter_context(agreement.together())
        tracking.check(project)
        compilation_cache.enable()
        mesh = programs.mesh_of(config)
        tunes = recipe.companions.tuned is not None
        data = tuned_examples.pictures(recipe) if tunes else examples.open_examples(recipe)
        source, fingerprint = data.source, data.fingerprint()
        recipe = checks.with_data(recipe, data.spec)
        fits.try_sampling(recipe)
        notices: list[str] = []
        agreement.first(lambda: notices.append(held_out.at_start(recipe, source)))

        # ==== Run folder ====
        mirror = mirrors.mirror_of(folder) if jax.process_index() == 0 else None
        folder = mirrors.folder_of(folder)
        if jax.process_index() == 0:  # process 0 keeps the folder; the others only read checkpoints there
            stack.enter_context(workdir.lock(folder))
            stack.enter_context(mirror.held() if mirror else contextlib.nullcontext())
            if not checkpoints.steps(folder):
                settings_checks.require_sources(config)
            stack.enter_context(workdir.restored_if_refused(folder))
            workdir.settle_config(folder, config)
        workdir.require_shared(folder)

        if tunes:
            recipe, data = tuned_examples.encoded(recipe, folder, data)
            fingerprint |= {"conditions": data.source.fingerprint()["conditions"]}
            data, prior = prior_pictures.beside(recipe, folder, tuned_examples.prompted(recipe, folder, data))
            fingerprint |= prior

        # ==== Program, first state, bookkeeping ====
        program = programs.build(recipe, mesh)
        programs.check_memory(program, f"a step of {config.train.batch_size} examples of {recipe.examples.shape}")
        saver = checkpoint_writer.Checkpoints(folder, config.checkpoint.keep, config.checkpoint.keep_every)
        stack.callback(saver.close)
        train_state, start = first_state(config, folder, program, fingerprint)
        if jax.process_index() == 0:
            for change in user_code.note(folder, start.step, extensions.loaded.values()):
                print(change, file=sys.stderr)
        books = bookkeeping.Bookkeeping(recipe, folder, data, program, mesh, saver, start, project, begun, stack)
        if books.finished():
            # A killed run may lack these files, or have them from an earlier end.
            if tunes and not agreement.gather("tuning", "yes" * tuned_files.is_written(folder, start.step))[0]:
                _write_tuning(config, folder, books)
            return 0
        if mirror:
            mirror.begin(saver.superfluous)
        books.announce()
        for notice in filter(None, notices):
            books.display.say(notice)

        # ==== Batches ====
        if recipe.companions.teacher and recipe.companions.teacher.pairs:
            data = noise_pairs.paired(recipe, folder, data, mesh)
        batch_size = config.train.batch_size
        positions = sharding.positions(batch_size, mesh)
        batches = data.batches(config, start.examples, positions, config.data.threads, start.stream, start.order)
        books.reads(batches)
        stack.callback(batches.close)

        # ==== Loop ====
        stop = stack.enter_context(books.stop)
        stack.enter_context(books.display)
        seed = program.seed
        step = start.step
        signal_number = None
        try:
            if books.owes_evaluation(step):  # the run was stopped between the step and its evaluation
                signal_number = books.evaluate(step, train_state)
            while step < config.train.steps and signal_number is None:
                try:
                    batch = next(batches)
                except (sources.DamagedRecord, OSError):
                    books.save_before_data_fails(step, train_state)
                    raise
                if not program.conditional:
                    del batch["label"]
                size = batch["image"].shape[1:3] if data.sizes else ()
                with books.compiled_once(step, size):
                    train_state, metrics = program.step(train_state, sharding.to_devices(batch, mesh, batch_size), seed)
                step += 1
                books.note(step, metrics)
                signal_number = stop.received()
                if books.owes_save(step) or signal_number is not None:
                    books.save(step, train_state)
                if books.owes_evaluation(step) and signal_number is None:
                    signal_number = books.evaluate(step, train_state)
            saver.wait()
            if tunes and step == config.train.steps:
                _write_tuning(config, folder, books)
        except RunFailed as failure:
            return books.failed(failure.step, train_state)
        return books.ended(step, signal_number, command)


def _write_tuning(config: ConfigDict, folder: pathlib.Path, books: bookkeeping.Bookkeeping) -> None:
    """Writes the tuned weights as files. Every process calls it, since all of them read the checkpoint."""
    weights, step = checkpoints.load_ema(folder)
    write = lambda: tuned_files.write(config, folder, weights, step)
    agreement.first(lambda: books.display.say(f"written: {', '.join(map(str, write()))}"))


def main(argv: list[str]) -> None:
    """Runs the command line."""
    try:
        status = run(flags.FLAGS.config, flags.FLAGS.workdir, workdir.command("diffusion train"), flags.FLAGS.wandb)
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
    command_line.run(main, (*workdir.FAILURES, bookkeeping.EvaluationStopped), compiles=True)
