"""Converts networks between the file formats of other libraries and of this one.

    diffusion convert --source=stable-diffusion/unet --out=unet_half --dtype=float16
    diffusion convert --source=v1-5-pruned.safetensors --out=sd15
    diffusion convert --source=flux1-dev.safetensors --out=flux --dtype=bfloat16
    diffusion convert --source=DiT-XL-2-256x256.pt --out=dit
    diffusion convert --source=runs/imagenet --out=exported
    diffusion convert --source=finetuned.safetensors --base=stable-diffusion --out=finetuned
    diffusion convert --source=style.safetensors --base=stable-diffusion --out=style.peft.safetensors

--source is one of these:

    a folder of diffusers or transformers    config.json beside safetensors, in one file or with an index
    a single file of an original repository  safetensors, or .pt and .pth of torch.save; recognized by the
                                             names and shapes of its tensors. A training state gives its average;
                                             --prefix=ema_params.500.net. chooses one of several averages
    a run folder of this library             its moving average; for the decoder of a representation autoencoder also
                                             the encoder, and statistics of the training pictures
    a finetuning run                         (docs/tuning.md) the finetuned weights: the moving average of the latest
                                             checkpoint; --out is a new folder, or the run's `tuning`, which is replaced
    a published class-conditional model      (docs/class_models.md) a folder with model_index.json, or the name of a
                                             model that ships with the package, digits or moving; --out is then a run
                                             folder, for evaluation, distillation or further training

--out is a folder that the original library of the architecture opens with `from_pretrained`. A file with several
networks becomes one folder per network. --layout selects the naming of the tensors: the original repository's, or our
own ("ours", which config.init_from.path of a run can read).

--base is the folder of a pipeline of the same architecture. --out is then also the folder of a pipeline, for diffusion
sample --model: it contains the networks of the file, and the tokenizers, the scheduler and all other parts of the base.
For a LoRA file in kohya's or peft's layout, --base is the pipeline to which it belongs, and --out is a file in the
layout "peft" (the default) or "kohya".

--pipeline writes a class-conditional run as a folder that diffusers can open. These commands convert a pipeline to a
run, and a run to a pipeline:

    diffusion convert --source=ddpm-cifar10-32 --out=runs/ddpm
    diffusion convert --source=runs/tuned --pipeline --out=tuned

The command accounts for every tensor of the source, and executes no code from it. docs/models.md lists the known
networks.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("source", None, "folder, .safetensors, .pt or .pth file, or run folder to read", required=True)
    flags.DEFINE_string("out", None, "folder to write, which must not hold a network yet", required=True)
    flags.DEFINE_string(
        "architecture",
        "",
        "name of the architecture, as in docs/models.md; by default the architecture that the source states",
    )
    flags.DEFINE_string(
        "layout", "", "naming of the tensors in the output; by default that of the architecture's own library"
    )
    flags.DEFINE_string("prefix", "", "prefix of the tensors to read, if a file holds several averages")
    flags.DEFINE_string(
        "base", "", "folder of a pipeline to which a LoRA file belongs, or which completes a single file"
    )
    flags.DEFINE_bool("pipeline", False, "write a class-conditional run as a pipeline that diffusers can open")
    flags.DEFINE_string(
        "license",
        "",
        "license to state in the model card; by default the license in the card of the source, or unknown",
    )
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16", "float16"], "data type of the written tensors")
    command_line.begin()

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn

from diffusion.adapters import lora_files, lora_names
from diffusion.experiments.evaluation import model_card
from diffusion.experiments.run import tuned_files
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import class_model_folders, representation_autoencoders, tuned_run
from diffusion.experiments.text import assemble, model
from diffusion.models import interchange
from diffusion.models.autoencoders.rae_decoder import RAEDecoder
from diffusion.models.interchange import FAMILIES, folders, stated_prediction
from diffusion.recipe import ConfigError, class_folders
from diffusion.recipe.parts import Resolver
from diffusion.training.checkpointing import checkpoints

FAILURES = (interchange.Mismatch, interchange.Refusal, FileNotFoundError, FileExistsError, ValueError,
            *workdir.FAILURES)  # fmt: skip
READING = ("architecture", "prefix")  # flags that describe the tensors of a source
# Tensors in single files that belong to no network: tables of the schedule, and tensors that only training uses.
NOT_NETWORKS = (
    r"(alphas|betas|sqrt|log|posterior|logvar|lvlb).*",
    r"model_ema\..*",
    r"scale_factor",
    r"loss\..*",
    r"cond_stage_model\.logit_scale",
    r"conditioner\.embedders\..*\.logit_scale",
    stated_prediction.MARKS,
)


def networks(
    path: pathlib.Path,
    architecture: str = "",
    prefix: str = "",
    dtype: str = "float32",
    others: Mapping[str, nn.Module] | None = None,
) -> Iterator[tuple[str, nn.Module, Any]]:
    """Yields every network in a source.

    Args:
        path: a run folder, a folder of a network, or a single file.
        architecture: a name in FAMILIES; "" to recognize the architecture.
        prefix: the prefix of the tensors that are read from a file; "" for all tensors.
        dtype: the type of the parameters; parameters of a run keep their type.
        others: networks of further sizes, see `folders.recognise`.

    Yields:
        (name of a folder, module, params); the name is "" if the network is the only one.

    Raises:
        Mismatch: if no known network has a tensor of the file, or no tensor has the prefix.
    """
    if (path / "checkpoints").is_dir():
        module, params, config = model.trained(path)
        if isinstance(module, RAEDecoder):
            step = max(checkpoints.steps(path))  # the parameters belong to this step
            encoder = checkpoints.read_about(path, step).get("encoder") or {"sha256": ""}
            module, params = representation_autoencoders.build_autoencoder(module, params, config, encoder["sha256"])
        autoencoder = Resolver(config).autoencoder
        if autoencoder is None:
            yield "", module, params
            return
        yield "model", module, params
        yield "autoencoder", *autoencoder.trained(checkpoints.load_ema(path)[0])
        return
    several = [] if path.is_dir() or architecture or prefix else _under_prefixes(path, others)
    if not several:
        only = folders.find(path, architecture, prefix=prefix or None)
        yield "", only.module, folders.read(only, dtype)
    for one in several:
        yield one.family.name, one.module, folders.read(one, dtype)


def _under_prefixes(path: pathlib.Path, others: Mapping[str, nn.Module] | None = None) -> list[folders.Found]:
    """The networks of a single file that holds several, each under its own prefix; [] for another file.

    The state of a training is also such another file: it holds the same network several times, with its averages.
    """
    tensors = interchange.open_tensors(path)
    left = {name for name in tensors.shapes if not any(re.fullmatch(pattern, name) for pattern in NOT_NETWORKS)}
    several = []
    for family in FAMILIES.values():
        for prefix in filter(None, family.prefixes):
            if not any(name.startswith(prefix) for name in left):
                continue
            try:
                several.append(folders.recognise(tensors, family.name, prefix, others))
            except interchange.Mismatch:
                continue  # another architecture may have this prefix; the error below names tensors that none has
            left -= {name for name in left if name.startswith(prefix)}
    names = {name for one in several for name in one.tensors.shapes}
    copy = lambda name: any(name[i + 1 :] in names for i, letter in enumerate(name) if letter == ".")
    alike = all((one.family.name, one.module) == (several[0].family.name, several[0].module) for one in several)
    if (len(several) > 1 or left) and alike and all(map(copy, left)):
        return []
    if several and left:
        raise interchange.Mismatch(
            f"{path}: {len(left)} tensors belong to no known network, such as {', '.join(sorted(left)[:5])}. To read "
            "only some tensors, name their --prefix."
        )
    return several


def convert_lora(
    source: pathlib.Path, base: pathlib.Path, out: pathlib.Path, layout: str = "peft", license: str = ""
) -> list[str]:
    """Writes a LoRA file in another layout, and a model card beside it.

    The metadata of the file (base, trigger words, training) are kept, except peft's config, which describes the layout.

    Args:
        source: the LoRA file.
        base: the folder of the pipeline for which the LoRA was trained; only its configs are read.
        out: the file to write, whose name ends in .safetensors.
        layout: the new layout, "peft" or "kohya".
        license: the license for the model card; "" for the license that the source states.

    Returns:
        The names of the networks that the LoRA changes.

    Raises:
        ConfigError: if `out` has another ending than .safetensors.
        FileExistsError: if `out` exists.
        Mismatch: as `lora_files.load`.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out={out}: a LoRA is written as one file. Valid: a name that ends in .safetensors.")
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another name, or remove it first.")
    modules = {part: module for part, (_, module) in assemble.modules_of(base).items()}
    loras = lora_files.load(source, modules)
    said = lora_names.said(source)
    lora_files.save(out, loras, modules, layout, said)
    model_card.write_beside(out, model_card.build_lora_card(source, said, license, base))
    return list(loras)


def card(source: pathlib.Path, network: str, license: str = "") -> model_card.Card:
    """The model card of a network from a source, which is a run or a published model."""
    if (source / "checkpoints").is_dir():
        return model_card.build_run_card(source, network, license or model_card.UNKNOWN)
    return model_card.build_source_card(source, network, license)


def main(argv: list[str]) -> None:
    """Converts the source, and writes a folder for each network; each file appears complete or not at all."""
    values = flags.FLAGS
    source = pathlib.Path(values.source)
    out = pathlib.Path(values.out)
    named = values.base or source.suffix == ".safetensors"  # other files are read whole to see what they hold
    if named and source.is_file() and lora_names.is_lora(interchange.open_tensors(source).shapes):
        if not values.base:
            raise ConfigError(
                f"--source={source} is a LoRA file. Valid: --base=FOLDER, the pipeline that it belongs to."
            )
        flag_errors.refuse([*READING, "dtype"], f"has no effect: {source} is a LoRA file.")
        changed = convert_lora(source, pathlib.Path(values.base), out, values.layout or "peft", values.license)
        print(f"LoRA of {', '.join(changed)}: {out}")
        return
    workdir.output_folder(out)
    if class_folders.is_of_classes(source):
        flag_errors.refuse(
            [*READING, "layout", "base", "pipeline", "license", "dtype"], f"has no effect: {source} becomes a run."
        )
        class_model_folders.as_run(source, out)
        print(f"{source} as a run: {out}")
        return
    if values.pipeline:
        flag_errors.refuse([*READING, "layout", "base", "dtype"], "has no effect with --pipeline, the folder of a run.")
        config = workdir.read_config(source)
        name = class_model_folders.write(config, checkpoints.load_ema(source)[0], out)
        model_card.write(out, card(source, name, values.license))
        print(f"{name}: {out}")
        return
    if tuned_run.base_of(source):
        flag_errors.refuse(
            [*READING, "layout", "base", "license", "dtype"],
            f"has no effect: {source} is a run that tunes a model, and its config determines the form of its files.",
        )
        tuned_files.require_new(source, out)
        config = workdir.read_config(source)
        written = tuned_files.write(config, source, *checkpoints.load_ema(source), out)
        print(f"the tuned weights of {source} for {tuned_run.base_of(source)}: {', '.join(map(str, written))}")
        return
    if values.base:
        flag_errors.refuse(["layout"], "has no effect with --base, whose folders have the layout of diffusers.")
        base = pathlib.Path(values.base)
        known = networks(source, values.architecture, values.prefix, values.dtype, assemble.networks_of(base))
        parts = assemble.pipeline(source, known, base, out, values.dtype, values.license)
        print(f"{out}: {', '.join(parts)} of {source}, the rest of {base}")
        return
    if (source / "checkpoints").is_dir():
        flag_errors.refuse(READING, f"has no effect: {source} is a run, whose config describes its weights.")
    for name, module, params in networks(source, values.architecture, values.prefix, values.dtype):
        folder = out / name if name else out
        interchange.save(folder, module, params, layout=values.layout, dtype=values.dtype)
        model_card.write(folder, card(source, type(module).__name__, values.license))
        count = sum(leaf.size for leaf in folders.leaves_of(params).values())
        print(f"{type(module).__name__}, {count:,} parameters: {folder}")


if __name__ == "__main__":
    command_line.run(main, FAILURES)
