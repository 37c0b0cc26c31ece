"""Exports a run on captions as a text-to-image model: one folder, WORKDIR/model, with model_index.json.

    diffusion text_model --workdir=runs/text_students/turbo
    diffusion sample --workdir=runs/text_students/turbo --prompt="a red circle above a blue square"

The run is a few-step student, or a denoiser of another recipe. The command reads the other parts of the model from the
folder of the encoded captions on which the run was trained; `diffusion.experiments.text.model` lists them.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/text_students/turbo")
    flags.DEFINE_string(
        "license",
        "",
        "license to state in the model card, as Hugging Face names it, e.g. apache-2.0; by default unknown",
    )
    flags.mark_flag_as_required("workdir")
    command_line.begin()

from diffusion.data import captions
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders
from diffusion.experiments.text import model
from diffusion.recipe.extensions import printed


def main(argv: list[str]) -> None:
    """Runs the command line."""
    run = flags.FLAGS.workdir
    print(
        f'{model.write_model(run, flags.FLAGS.license)}. Next: {printed("sample", f"--workdir={run}")} --prompt="..."'
    )


if __name__ == "__main__":
    command_line.run(main, (*workdir.FAILURES, *autoencoder_folders.FAILURES, captions.CacheError))
