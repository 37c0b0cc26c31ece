"""What one runs: train, sample, evaluate."""

import pathlib

from diffusion import public

__all__ = ["command_line"]  # what projects outside of this library import, beside the commands

RECIPE = pathlib.Path(public.__file__).parent / "recipe"  # the package that config was


def _places_of_config() -> dict[str, str]:
    """{name of a module when its package was `diffusion.experiments.config`: its present name}."""
    names = {f"{__name__}.config.{path.stem}": f"diffusion.recipe.{path.stem}" for path in RECIPE.glob("[!_]*.py")}
    return names | {
        f"{__name__}.config": "diffusion.recipe",
        # `from diffusion.experiments.config import command_line` looks for it in the present package.
        "diffusion.recipe.command_line": f"{__name__}.command_line",
        f"{__name__}.config.command_line": f"{__name__}.command_line",
        f"{__name__}.config.stored_runs": f"{__name__}.run_folder.stored_runs",
    }


public.moved(_places_of_config())
