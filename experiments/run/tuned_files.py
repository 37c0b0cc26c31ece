"""The tuned weights of a run as files that other programs read, in WORKDIR/tuning."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

from diffusion import text_to_image
from diffusion.experiments.evaluation import model_card
from diffusion.experiments.sampling import tuned_run
from diffusion.io import files, opener
from diffusion.recipe import ConfigError
from diffusion.recipe.parts import Resolver
from diffusion.recipe.values import canonical, plain
from diffusion.text_to_image import model_folder
from diffusion.training.checkpointing import checkpoints

FOLDER = "tuning"
STEP = "tuning.step"  # the file beside it that holds the step of its weights


def require_new(workdir: str | pathlib.Path, out: str | pathlib.Path) -> None:
    """Refuses a folder that exists, unless it is WORKDIR/tuning.

    Raises:
        FileExistsError: names the folder.
    """
    folder = pathlib.Path(out).expanduser()
    if folder.exists() and folder.resolve() != (pathlib.Path(workdir) / FOLDER).resolve():
        raise FileExistsError(f"{out} exists already; choose another name, or remove it first.")


def is_written(workdir: str | pathlib.Path, step: int) -> bool:
    """Whether WORKDIR/tuning holds the weights of this step, and not those of an earlier end of the run."""
    note = pathlib.Path(workdir) / STEP
    return (pathlib.Path(workdir) / FOLDER).is_dir() and note.is_file() and opener.read_text(note) == str(step)


def write(
    config: Mapping, workdir: str | pathlib.Path, weights: Any, step: int, out: str | pathlib.Path | None = None
) -> list[pathlib.Path]:
    """Writes the weights that a run has trained beside its base; only one process may call it.

    Args:
        config: the config of the run.
        workdir: the run folder.
        weights: the moving average, as `checkpoints.load_ema` returns it.
        step: the step of its checkpoint.
        out: a new folder for the files; None for WORKDIR/tuning, whose files are replaced.

    Returns:
        The files that were written; [the folder] if it is a complete model.

    Raises:
        ConfigError: for a run without a base.
        FileExistsError: if `out` exists.
        WorkdirError: if a whole model is written and the base's folder holds other weights than the run has tuned.
        CheckpointError: if the checkpoint's description is damaged.
    """
    if out is not None:
        require_new(workdir, out)
    tuned = Resolver(config).tuned
    if tuned is None:
        raise ConfigError(f"{workdir} is not a run that tunes a base (config.base.path). Valid: a run that does.")
    base = {"path": tuned.base.path, "sha256": checkpoints.read_about(workdir, step)["base"]["sha256"]}
    words = (*tuned.tuning.words, *filter(None, [config["data"]["text"]["prompt"]]))
    metadata = {
        "base_model": f"{pathlib.Path(base['path']).name} ({tuned.base.model.name})",
        "base_sha256": base["sha256"],
        "trigger_words": ", ".join(words),
        "config_sha256": hashlib.sha256(canonical(plain(config)).encode()).hexdigest(),
    }
    folder = pathlib.Path(workdir) / FOLDER if out is None else pathlib.Path(out).expanduser()
    with files.whole_folder(folder) as new:
        front = {"base_model": pathlib.Path(base["path"]).name, "library_name": "diffusers"}
        what = f"{config['tuning']['name']} of {front['base_model']}"
        card = model_card.build_run_card(workdir, what, front=front, step=step)
        model_card.write(new, card, before=folder)
        written = tuned.tuning.write(new, weights, metadata)
        if tuned.tuning.replaces:
            loaded = text_to_image.load(base["path"])
            tuned_run.require_same_base(loaded, base["path"], workdir, step)
            model = tuned.tuning.attach(loaded, weights)
            base_folder = pathlib.Path(base["path"]).expanduser()
            for part in tuned.tuning.replaces:
                network = model.modules[part], model.params[part]
                model_folder.save(new, base_folder, part, *network, metadata=metadata)
            model_folder.complete(new, base_folder, model.name, metadata)
    if out is None:
        files.write_text(pathlib.Path(workdir) / STEP, str(step))
    return [folder] if tuned.tuning.replaces else [folder / path.relative_to(new) for path in written]
