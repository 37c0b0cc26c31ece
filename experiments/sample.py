"""Samples from a trained run, or from a published model by class or by prompt.

    diffusion sample --workdir=runs/digits -n 4
    diffusion sample --workdir=runs/digits --config.sample.steps=8 --config.sample.guidance.scale=2.0
    diffusion sample --workdir=runs/digits --labels=3,8 --out=runs/digits/threes_and_eights
    diffusion sample --workdir=runs/fields --condition=0.5,-1.2          # for data with vectors as conditions
    diffusion sample --workdir=runs/fields --condition=conditions.npy
    diffusion sample --model=moving --condition="a red star bounces" -n 4
    diffusion sample --workdir=runs/prose --infill="the sum of the ________ of a matrix"

The command reads the run's config and the EMA weights of its latest checkpoint. It writes samples.npz (images uint8 [N,
H, W, C], labels, seeds), samples.json (the settings), samples.png and trajectory.png into the run folder, or into
--out. For text data it writes samples.txt instead of the pictures. The devices of a process share every batch. Several
processes (launch/) share the batches, and need a folder that all of them can access. The same command continues after
an interruption. --watermark=KEYFILE adds an invisible watermark to the samples, and --credentials=FOLDER signs the PNG
files (docs/provenance.md).

--model is a published model, or the name of a model in the package, such as "digits". Class-conditional and
unconditional models (docs/class_models.md) are sampled like a run, into --out:

    diffusion sample --model=digits
    diffusion sample --model=DiT-XL-2-256 --labels=207,360 -n 8
    diffusion sample --model=ddpm-cifar10-32 -n 16 --steps=100 --config.sample.seed=1

Text-to-image and text-to-video models generate pictures or clips from --prompt:

    diffusion sample --model=stable-diffusion-v1-5 --prompt="a cat on a mat" -n 4
    diffusion sample --model=Wan2.1-T2V-1.3B-Diffusers --prompt="a cat runs" --frames=33      # an MP4 film
"""

from typing import Any

from absl import flags

from diffusion.experiments import command_line, command_words, config_flag, flag_errors
from diffusion.recipe import as_config_errors, class_folders
from diffusion.training.runtime import huge_pages

if __name__ == "__main__":  # before the imports that take seconds

    def class_config(folder: str) -> Any:
        """The config of a published model without a text encoder; None for another folder, or a request by a prompt."""
        with as_config_errors():
            if command_words.names("prompt", "again") or not class_folders.is_of_classes(folder):
                return None
            huge_pages.start_anew()  # before this import, which takes seconds and would be repeated
            from diffusion.experiments.sampling import class_models

            return class_models.config_of(folder)

    unread = config_flag.TRAINING_FIELDS
    config_flag.saved_flag(unless=("model", "again", "prompt"), of_model=class_config, unread=unread)
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/digits")
    flags.DEFINE_string(
        "out", None, "folder for the results; by default the run folder, or pictures/ for a published model"
    )
    flags.DEFINE_integer("step", None, "training step of the checkpoint; by default the latest")
    flags.DEFINE_enum(
        "weights", "ema", ["ema", "params"], "weights to use: ema for the moving average, params for the raw parameters"
    )
    flags.DEFINE_float(
        "average",
        None,
        "width of a moving average, as a fraction of the training, computed from all kept checkpoints; "
        "for runs with config.ema.sigma_rel",
    )
    flags.DEFINE_list(
        "labels",
        None,
        "classes to sample, used in turn, by their numbers or names, e.g. 3,8 or cat,dog; all classes by default",
    )
    flags.DEFINE_string(
        "condition",
        None,
        "condition for runs on data with conditions: the numbers of a vector, e.g. 0.5,-1.2, a caption if"
        " the data have captions, or a .npy or .npz file of conditions [K, ...], used in turn; by default"
        " the conditions of the first records",
    )
    flags.DEFINE_string(
        "credentials",
        None,
        "folder with the certificates of a signer; the PNG files then carry signed content credentials (C2PA)",
    )
    flags.DEFINE_string(
        "infill",
        "",
        "text with gaps for runs on characters; each underscore is filled in, and the text is continued after its end",
    )
    if command_words.names("model", "again", "prompt") or command_words.help_is_requested():
        from diffusion.experiments.sampling import model_flags, prompt_flags

        for module in (prompt_flags, model_flags):
            flags.adopt_module_key_flags(module)  # --help then lists their flags
    else:  # for a prompt they are the flags of the request and of its model
        flags.DEFINE_integer("n", None, "number of samples; by default config.sample.number")
        flags.DEFINE_enum(
            "quantised",
            "",
            ["", "int8", "fp8"],
            "store the weights of the network in 8 bits, as int8 or fp8; by default in full precision",
        )
        flags.DEFINE_string("watermark", None, "key file of an invisible watermark, made by diffusion watermark make")
    command_line.begin()


from diffusion.experiments.run_folder import workdir
from diffusion.io import content_credentials
from diffusion.sampling import watermarks
from diffusion.training import sharding


def main(argv: list[str]) -> None:
    """Samples the run, or by a prompt; each file appears whole or not at all."""
    values = flags.FLAGS
    with as_config_errors():
        signer = content_credentials.Signer(values.credentials) if values.credentials else None
    out = workdir.output_folder(values.out) if values.out else None
    if command_words.names("model") and "config" in values:  # a published model of classes
        from diffusion.experiments.sampling import from_class_model

        from_class_model.main(values.config, values.model, values.out, values.labels, values.condition, signer)
        return None
    if command_words.names("model", "again", "prompt"):
        from diffusion.experiments.sampling import from_prompt  # imported here: its flags are for a request alone

        flag_errors.refuse(
            ("weights", "average", "labels", "condition", "infill"),
            "is only for runs that are sampled without a prompt. Leave it out with --model, --prompt or --again.",
        )
        return from_prompt.main(values.out, values.workdir, signer, values.step)
    # Imported here: a prompt needs none of them, and they import every part that a recipe may name.
    from diffusion.experiments.sampling import requested, run_samples
    from diffusion.recipe import checks

    config = values.config
    config.sample.number = config.sample.number if values.n is None else values.n
    with as_config_errors():
        sharding.initialize_distributed()
    recipe = checks.on_its_data(checks.validate(config))
    labels = None if values.labels is None else requested.labels(values.labels, recipe, config.sample.number)
    if values.condition is not None:
        labels = requested.conditions(values.condition, recipe)
    with as_config_errors():
        mark = watermarks.load(values.watermark) if values.watermark else None
    run_samples.sample(
        recipe,
        values.workdir,
        out,
        labels,
        step=values.step,
        weights=values.weights,
        average=values.average,
        watermark=mark,
        signer=signer,
        quantised=values.quantised,
        infill=values.infill,
    )


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
