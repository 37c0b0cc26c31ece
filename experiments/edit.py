"""Edits pictures with a trained run: inverts them to noise and samples them again with another class.

    diffusion edit --workdir=runs/digits --labels=3 --out=edits
    diffusion edit --workdir=runs/digits --labels=3 --out=edits --editor='{"name": "edict", "t_0": 0.6}'
    diffusion edit --workdir=runs/digits --labels=3 --out=edits --editor='{"name": "prompt_to_prompt", "until": 0.6}'
    diffusion edit --workdir=runs/digits --out=edits --editor='{"name": "bdia"}'   # reconstructs the pictures

The command reads config.sample.number pictures of a split with their classes, and the EMA weights of the run's latest
checkpoint. It writes edited.npz (images uint8 [N, H, W, C], originals, labels) and edited.png, which shows the
originals left of the edited pictures. If the examples are not pictures, it writes only the arrays, in the format of
samples.npz. Padding in an example stays zero. The editors are ddim (DDIM inversion), edict and bdia (exact inversions),
sdedit, and prompt_to_prompt, which reuses the attention maps of a picture to keep its layout. config.sample sets the
grid and the steps, and for sdedit the sampler.
"""

from absl import flags

from diffusion.experiments import command_line, config_flag

if __name__ == "__main__":  # before the imports that take seconds
    config_flag.saved_flag(unread=config_flag.TRAINING_FIELDS)
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/digits")
    flags.DEFINE_string("out", None, "folder for the results, created if missing")
    flags.DEFINE_string("pictures", "test", "split of the run's dataset from which to edit pictures")
    flags.DEFINE_string(
        "editor", '{"name": "ddim"}', "editing method and its arguments: ddim, edict, bdia, sdedit or prompt_to_prompt"
    )
    flags.DEFINE_list(
        "labels",
        None,
        "target classes, used in turn, by their numbers or names, e.g. 3,8 or cat,dog; by default each picture keeps "
        "its class",
    )
    flags.mark_flags_as_required(["out"])
    command_line.begin()

import ast
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusion import samplers, sampling
from diffusion.arrays import padding, pytrees
from diffusion.data.transforms import to_uint8
from diffusion.experiments.evaluation import plots
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import editors, generate, requested, run_denoiser, trained_run
from diffusion.io import files
from diffusion.io.leaf_names import leaves_of
from diffusion.recipe import ConfigError, data
from diffusion.recipe.entries import call
from diffusion.training.checkpointing import checkpoints


def edit(run: trained_run.Trained, editor: Any, split: str = "test", labels: list[str] | None = None) -> dict:
    """Edits the first pictures of a split.

    Args:
        run: the trained run; config.sample.number pictures are edited.
        editor: the entry of the editor, e.g. {"name": "edict"}.
        split: the split of the run's data.
        labels: the target classes, used in turn; None if each picture keeps its class.

    Returns:
        {"images": the edits, uint8 `[N, H, W, C]`, "originals": uint8 `[N, H, W, C]`, "labels": the target classes,
        int `[N]`, "own_labels": int `[N]`}. Other examples are float32 or pytrees, and padded examples have conditions
        in place of labels.

    Raises:
        ConfigError: for an invalid entry, a guidance with which the denoiser does not depend on x and t alone, or edits
            of which none is finite.
    """
    change = call(editors.EDITORS, editor, "--editor", "editor")
    editors.RETURNED.check(change, "--editor", editor["name"])
    try:
        x, present = run.real(split, run.config.sample.number)
    except ConfigError as error:
        raise ConfigError(f"--pictures={split}: {error.__cause__ or error}") from error
    if labels is not None and isinstance(present, Mapping):
        raise ConfigError(
            "--labels: the examples are padded, so that their condition is more than a class. Valid: no --labels"
        )
    wanted = present if labels is None else requested.labels(labels, run.recipe, len(present))
    present, wanted = generate.as_condition(present), generate.as_condition(wanted)
    real = run_denoiser.real_of(run.recipe, present)
    shown = to_uint8 if run.recipe.makes_bytes else lambda x: x
    run_denoiser.check_plain(run.recipe, present)
    keys = generate.keys(generate.seeds(run.config, len(x)))[1]

    @jax.jit
    def edited(params, x, present, wanted):
        denoise = run_denoiser.denoiser(run.recipe)
        there, back = (denoise(params, classes) for classes in (present, wanted))
        beside = functools.partial(run_denoiser.side_by_side, run.recipe, params, present, wanted)
        sampler = run.sampler if real is None else samplers.padded(run.sampler, real)
        task = editors.Task(there, back, beside, run.schedule, sampler, padding.zeroed(x, real), run.grid, keys)
        x = padding.zeroed(change(task), real)
        return shown(x), sampling.finite(x)

    try:
        images, finite = edited(run.params, x, present, wanted)
        generate.check_finite(run.config, len(x), int((~finite).sum()))
    except ValueError as error:
        raise ConfigError(f"--editor = {editor!r}: {error}") from error
    results = {"images": images, "originals": shown(x), "labels": wanted, "own_labels": present}
    if (structure := run.recipe.examples.structure) is not None:
        results |= {name: pytrees.unpack(results[name], structure) for name in ("images", "originals")}
    return jax.tree.map(np.asarray, results)


def main(argv: list[str]) -> None:
    """Edits the pictures, and writes the files."""
    values = flags.FLAGS
    try:
        editor = ast.literal_eval(values.editor)
    except (ValueError, SyntaxError):
        editor = values.editor
    out = workdir.output_folder(values.out)
    run = trained_run.from_config(values.config, checkpoints.load_ema(values.workdir)[0])
    edited = edit(run, editor, values.pictures, values.labels)
    out.mkdir(parents=True, exist_ok=True)
    with files.atomic(out / "edited.npz") as file:
        np.savez(file, **leaves_of(edited))
    if run.recipe.makes_pictures:
        how = {"columns": 5, "classes": data.class_names(run.recipe), "originals": edited["originals"]}
        plots.sample_grid(edited["images"], edited["labels"], out / "edited.png", **how)
    written = ", ".join([f"{out}/edited.npz"] + [f"{out}/edited.png"] * run.recipe.makes_pictures)
    examples = [jax.tree.leaves(edited[name]) for name in ("images", "originals")]
    before, after = (np.concatenate([np.float64(leaf).ravel() for leaf in leaves]) for leaves in examples)
    number, unit = len(examples[0][0]), " of 255" if run.recipe.makes_bytes else ""
    print(f"{number} examples, changed by {np.abs(after - before).mean():.3g}{unit} on average: {written}")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
