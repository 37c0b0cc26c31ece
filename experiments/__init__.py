"""The commands, such as train, sample and evaluate, and their parts."""

from diffusion.package import public

__all__ = ["command_line", "config_flag"]  # what projects outside of this library import, beside the commands

public.moved(
    {
        f"{__name__}.config": "diffusion.recipe",
        # `from diffusion.experiments.config import command_line` looks for it in the present package.
        "diffusion.recipe.command_line": f"{__name__}.command_line",
        f"{__name__}.config.command_line": f"{__name__}.command_line",
        f"{__name__}.config.stored_runs": f"{__name__}.run_folder.stored_runs",
    }
)
