"""The shared settings of students: their teacher's config, its weights, and its guidance."""

import pathlib

from ml_collections import ConfigDict

from diffusion.configs.optimizers import annealed
from diffusion.recipe import ConfigError, class_folders, recipes, versions
from diffusion.recipe.extensions import printed

DEFAULT = "runs/digits"  # a run of the recipe `digits`
TINY = {
    "train.steps": 20,
    "train.batch_size": 32,
    "train.log_every": 10,
    "optimizer.warmup": 5,
    "checkpoint.every": 10,
    "sample.number": 20,
    "sample.batch_size": 10,
    "evaluate.number": 20,
}


def read(arg: str) -> ConfigDict:
    """The config of the run in a folder.

    Args:
        arg: the folder, runs/digits by default, and a preset after a comma.

    Raises:
        ConfigError: if there is no run in that folder.
    """
    named = arg.partition(",")[0]
    folder = named or DEFAULT
    path = pathlib.Path(folder).expanduser()
    try:
        return versions.read((path / "config.json").read_text())
    except OSError as error:
        valid = f"Valid: the folder of a trained run, after the colon, e.g. students/turbo:{DEFAULT}."
        if (path / class_folders.INDEX).is_file():
            train = printed(
                "train", "--config=tuning/lcm_lora", f"--config.base.path={folder}", "--workdir=runs/lcm_lora"
            )
            valid += f" A text-to-image model, such as this folder, is distilled by {train}"
        elif not named:
            train = printed("train", "--config=digits", f"--workdir={DEFAULT}")
            valid += f" The config names none, and {DEFAULT} is the default: {train}"
        raise ConfigError(f"{folder!r} holds no run to learn from ({error.strerror}). {valid}") from error


def student(arg: str) -> ConfigDict:
    """The config of a student before its objective is chosen.

    Args:
        arg: the teacher's run folder, runs/digits by default, and a preset after a comma.

    Returns:
        The teacher's config with: the teacher, guided as it samples itself; a start from its weights; an optimizer and
        an average for short trainings; multistep consistency sampling in four steps, without guidance.

    Raises:
        ConfigError: if there is no run in that folder.
    """
    folder = arg.partition(",")[0] or DEFAULT
    config = read(arg)
    config.init_from.update({"path": folder, "include": ".*"})
    scale = config.sample.guidance.scale
    config.teacher.update({"path": folder, "parameterization": config.parameterization.to_dict(), "scale": scale})
    config.optimizer = annealed(5e-4, warmup=50)
    config.ema.update({"decay": 0.99, "warmup": True, "sigma_rel": 0.0})
    config.checkpoint.update({"every": 500, "keep": 2, "keep_every": 0, "best": ""})
    config.sample.sampler = {"name": "consistency"}
    config.sample.grid = {"name": "uniform"}
    config.sample.steps = 4
    config.sample.guidance = {"name": "classifier_free", "scale": 1.0, "interval": None}
    config.evaluate.every = 0
    return config


def bounded(config: ConfigDict) -> dict:
    """The teacher's parameterization with f(x, 0) = x, for students that predict the end of the flow.

    The boundary of latent consistency models acts only before the first of 1000 steps. There a network of epsilon or v
    gives x0 = x_t, whatever its output. A network of x0 does not, so for it the boundary acts up to about t = 0.05.
    """
    return {
        "name": "latent_consistency",
        "parameterization": config.parameterization.to_dict(),
        "scaling": 0.01 if config.parameterization.name == "x0" else 10.0,
    }


def add_discriminator(config: ConfigDict, adversarial: float) -> None:
    """Adds a discriminator for both players: the middle block of the second network, the network of scores.

    Args:
        config: config of a student with the second player "fake_score", which it changes; a network without a depth is
            judged by its first block.
        adversarial: weight of the generator's term.
    """
    block = max(1, config.model.get("depth", 2) // 2)
    config.objective.update({"block": block, "adversarial": adversarial})
    config.second_player.objective.update({"block": block, "adversarial": 1.0})


def preset(config: ConfigDict, arg: str, tiny: dict) -> ConfigDict:
    """Applies the preset after the comma; the only one is "tiny": TINY and what a recipe changes with it."""
    return recipes.preset(config, arg.partition(",")[2], {"tiny": TINY | tiny})
