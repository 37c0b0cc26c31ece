"""Estimates the memory and the speed of a run on given devices, without these devices.

    diffusion plan --config=imagenet256_dit
    diffusion plan --config=imagenet256_dit --devices=64 --config.mesh.fsdp=64
    diffusion plan --config=imagenet256_dit:7b --devices=64 --machine=v5p --out=plan.json
    tpu/bin/python -m diffusion plan --config=imagenet256_dit --devices=64 --machine=v5p --compile
    cuda/bin/python -m diffusion plan --config=imagenet256_dit --devices=1 --machine=h100 --compile

The plan of a DiT that its objective evaluates once uses formulas. Every other plan contains the exact bytes of the
state, and the operations and the temporary memory of the traced step. For a run that finetunes a text-to-image model
(config.base.path), the command reads the folder of the base model and the pictures.

    diffusion plan --config=symbols/prose --devices=8 --machine=h100
    diffusion plan --config=tuning/lora --config.base.path=stable-diffusion-v1-5 --config.data.source.path=photos

With --model, the plan states the memory that a text-to-image model needs on one device to generate pictures, and the
shortest possible time. The folder needs only the configs and tokenizers, so you can check what fits before you download
the weights. The flags for the pictures are the same as for diffusion sample; --batch_size is their number.

    diffusion plan --model=FLUX.1-dev --machine=rtx4090
    diffusion plan --model=stable-diffusion-xl --height=768 --width=1344 --steps=20 --batch_size=4

The command reads the config of a run, like diffusion train, and plans any mesh of --devices devices. The bytes of the
state are exact. All other figures are estimates by formulas. Times follow the data sheets of the manufacturers, which
no real program reaches. --compile compiles the step for a TPU or for H100s, and shows XLA's figures
(experiments/planning/ahead_of_time.py explains how to install the compilers).

Exit status: 0 a plan was made, even if the run would not fit; 1 --compile lacks its compiler; 2 a mistake in the
config.
"""

from absl import flags

from diffusion.experiments import command_line, command_words, config_flag, flag_errors
from diffusion.experiments.planning.machines import MACHINES

if __name__ == "__main__":  # before the imports that take seconds
    if command_words.names("model") or command_words.help_is_requested():
        from diffusion.experiments.sampling import prompt_flags

        flags.adopt_module_key_flags(prompt_flags)  # --help then lists its flags
        flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "type of the denoiser and the text encoders")
    if not command_words.names("model"):
        config_flag.flag()
        flags.mark_flags_as_required(["config"])
    flags.DEFINE_string(
        "model",
        None,
        "folder of a text-to-image model, with model_index.json, whose sampling is planned, or a name such as drawings",
    )
    flags.DEFINE_integer(
        "devices", None, "number of devices of the run, e.g. 64; by default the number on this machine"
    )
    flags.DEFINE_enum(
        "machine", "all", [*MACHINES, "all"], "kind of device, described by its data sheet; all compares every kind"
    )
    flags.DEFINE_string("out", "", "file for the plan as JSON, e.g. plan.json; by default it is only printed")
    flags.DEFINE_bool("compile", False, "compile the step (h100, v5p, v6e) and show what XLA reports about it")
    command_line.begin()

import collections
import json
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from diffusion.experiments.planning import ahead_of_time, estimate, tables, traced
from diffusion.experiments.planning.estimate import Work
from diffusion.experiments.planning.machines import Machine, machine_of, refusal, topology_name
from diffusion.experiments.run import program as programs, tuned_examples
from diffusion.experiments.run_folder import workdir
from diffusion.io import json_files
from diffusion.models.dit import DiT
from diffusion.recipe import ConfigError, as_config_errors, checks, data, fits
from diffusion.recipe.parts import Resolver
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import config_hash, differences

PROMPT = "a photograph of an astronaut who rides a horse on the moon"  # the default prompt


def plan(config: ConfigDict, devices: int, names: tuple[str, ...], compiled: bool = False) -> dict[str, Any]:
    """Plans a run: its memory, its work and its times on some machines.

    Args:
        config: the complete config of the run.
        devices: the number of devices of the run; this process must have that many, real or simulated.
        names: the machines, keys of `MACHINES`.
        compiled: whether to compile the step for each machine.

    Returns:
        {"config_hash", "devices", "mesh", "parameters", "unit", "images", "flops", "machines": {name: {"platform",
        "attention", "memory", "hbm_bytes", "collectives", "seconds", "fits", "change", "refused", "compiled"}}}. Bytes
        and seconds are of one step on each device, and FLOPs of all devices together. For other networks than a DiT,
        and for objectives that evaluate it more than once, see `planning.traced`.
    """
    recipe = checks.validate(config)
    if config.base.path:
        if compiled:
            raise ConfigError("--compile is not for runs that tune a base. Valid with config.base: no --compile.")
        recipe = checks.with_data(recipe, tuned_examples.pictures(recipe).spec)
        return traced.plan(recipe, traced.step_of(recipe, devices), names)
    recipe = _for_examples(config, recipe)
    shape = recipe.examples.shape
    step = traced.step_of(recipe, devices)
    work = _one_pass(recipe, step)
    if work is None:
        planned = traced.plan(recipe, step, names)
        for name, entry in planned["machines"].items() if compiled else ():
            entry["compiled"] = _compile_for(config, shape, MACHINES[name], devices)
        return planned
    needed = estimate.operations(work)
    return {
        "config_hash": config_hash(config),
        "devices": devices,
        "mesh": dict(work.mesh.shape),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(work.target.params)),
        "unit": recipe.unit(),
        "images": {"step": work.batch_size, "device": work.rows, "micro_batches": work.accumulate},
        "flops": needed,
        "machines": {name: _on_machine(config, shape, work, name, compiled) for name in names},
    }


def _one_pass(recipe: Recipe, step: traced.Step) -> Work | None:
    """The work of a step that evaluates a DiT once, forward and backward, by formulas; None for other steps.

    The step is traced to see whether the formulas hold: a forward-mode derivative, a teacher, an encoder or a second
    evaluation needs more operations than they count. Up to 5 percent more are accepted, for small heads.
    """
    if not isinstance(recipe.network, DiT):
        return None
    work = _work(recipe, step.program, step.mesh)._replace(in_fp8=step.in_fp8 / step.operations)
    return work if step.operations <= 1.05 * sum(estimate.operations(work).values()) else None


def _for_examples(config: ConfigDict, recipe: Recipe) -> Recipe:
    """The recipe for its data, which determine the condition that the network receives.

    If the network receives only classes, or the data are not on this machine, the recipe is for the shape that the
    config states.
    """
    stated = config.data.shape is not None or data.known_shape(config) is not None
    if stated and not fits.conditions_may_follow(config):
        return Recipe.from_config(config, workdir.example_shape(config))
    try:
        return checks.with_data(recipe, data.source(config, config.data.split).spec)
    except ConfigError:
        if not stated:
            raise
    return Recipe.from_config(config, workdir.example_shape(config))


def _on_machine(config: ConfigDict, shape: tuple[int, ...], work: Work, name: str, compiled: bool) -> dict[str, Any]:
    """The entry of a machine in `plan`."""
    machine = MACHINES[name]
    parts = estimate.memory_by_part(work, machine.platform)
    fits = estimate.fits(parts, machine)
    return {
        "platform": machine.platform,
        "attention": estimate.attention_name(work.model, work.shape, machine.platform),
        "memory": parts,
        "hbm_bytes": machine.memory,
        "collectives": [collective._asdict() for collective in estimate.collectives(work, machine)],
        "seconds": estimate.seconds(work, machine),
        "fits": fits,
        "change": None if fits else change(config, shape, work, machine),
        "refused": refusal(machine, config.train.products),
        "compiled": _compile_for(config, shape, machine, work.mesh.size) if compiled else None,
    }


def work_of(config: ConfigDict, shape: tuple[int, ...], mesh: Mesh) -> Work:
    """The network, batch and shardings of a run of a DiT on a mesh, from which its work is counted.

    Args:
        config: the config of the run.
        shape: the shape of one example.
        mesh: the mesh; its devices need not exist.

    Raises:
        ConfigError: if the network is not a DiT.
    """
    recipe = Recipe.from_config(config, shape)
    if not isinstance(recipe.network, DiT):
        raise ConfigError(f'config.model.name = {config.model.name!r}: the formulas are only for "dit".')
    return _work(recipe, programs.build(recipe, mesh), mesh)


def _work(recipe: Recipe, program: programs.Program, mesh: Mesh) -> Work:
    train = recipe.config.train
    height, width, channels = recipe.examples.shape
    shape = (height, width, channels)
    return Work(recipe.network, shape, program.target, mesh, train.batch_size, train.accumulate or 1)


def _compile_for(config: ConfigDict, shape: tuple[int, ...], machine: Machine, devices: int) -> dict[str, Any]:
    """XLA's figures of the step, compiled for this number of devices; see `ahead_of_time.compile_step`."""
    if config.mesh.get("kind", "jit") != "jit":
        raise ConfigError(f'config.mesh.kind = {config.mesh.kind!r}, but --compile supports only "jit".')
    try:
        topology = topology_name(machine, devices)
    except ValueError as error:
        raise ConfigError(f"--compile: {error}") from error
    mesh = programs.mesh_of(config, ahead_of_time.devices(machine, topology))
    recipe = Recipe.from_config(config, shape)
    compiled = ahead_of_time.compile_step(lambda mesh: programs.build(recipe, mesh), mesh, machine)
    return {"topology": topology, **compiled}


def change(config: ConfigDict, shape: tuple[int, ...], work: Work, machine: Machine) -> str:
    """A sentence on what to change so that a run fits into the memory of a machine's devices.

    Args:
        config: the config of the run.
        shape: the shape of one example.
        work: the work of the run, from `work_of`.
        machine: the machine.

    Returns:
        The change that costs the least time among those that suffice; advice to take more devices if none does.
    """
    on_mesh: dict[str, Work] = {}  # shapes and shardings depend only on the mesh
    for changed in _remedies(config, work):
        mesh = changed.mesh.to_json()
        if mesh not in on_mesh:
            on_mesh[mesh] = work_of(changed, shape, programs.mesh_of(changed, list(work.mesh.devices.flat)))
        model = Resolver(changed).model(shape)
        less = on_mesh[mesh]._replace(model=model, accumulate=changed.train.accumulate or 1)
        parts = estimate.memory_by_part(less, machine.platform)
        if estimate.fits(parts, machine):
            flags_changed = " ".join(f"--config.{field}={new}" for field, _, new in differences(config, changed))
            return f"{flags_changed} brings it to {tables.in_bytes(sum(parts.values()))}"
    return "take more devices, or split the network by --config.mesh.tensor"


def _remedies(config: ConfigDict, work: Work) -> Iterator[ConfigDict]:
    """Configs that need less memory; those that cost the least time come first."""
    mesh = work.mesh.shape
    batch_devices = mesh.get("data", 1) * mesh.get("fsdp", 1)

    def changed(fields):
        other = config.copy_and_resolve_references()
        with other.unlocked():
            other.update_from_flattened_dict(fields)
        return other

    split = {"mesh.fsdp": batch_devices, "mesh.data": -1}
    yield changed(split)
    for remat in ("elementwise", "dots", "narrow", "full"):
        yield changed({"model.remat": remat})
        yield changed({"model.remat": remat, **split})
    for parts in range(2, work.rows + 1):
        if work.rows % parts == 0:
            yield changed({"model.remat": "full", "train.accumulate": parts, **split})


def devices_here() -> dict[str, int]:
    """{kind: number} of the devices that JAX finds here; another process looks for them, so that they stay free."""
    listing = "import json, jax; print(json.dumps([device.device_kind for device in jax.local_devices()]))"
    listed = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True)
    if listed.returncode:
        raise ConfigError(
            f"--devices is missing, and JAX finds no devices here: {listed.stderr.strip().splitlines()[-1]} Name the "
            "number of devices, e.g. --devices=8."
        )
    return dict(collections.Counter(json.loads(listed.stdout)))


def described(devices: int | None, machine: str) -> tuple[int, tuple[str, ...]]:
    """(the number of devices, the machines as keys of `MACHINES`) to plan for.

    Args:
        devices: the number of devices on the command line; None for the devices that JAX finds here.
        machine: the machine on the command line; "all" if no machine is named.

    Raises:
        ConfigError: if the number is not positive, or JAX finds no devices of the machine here.
    """
    if devices is not None:
        if devices < 1:
            raise ConfigError(f"--devices = {devices}. Valid: at least 1.")
        return devices, tuple(MACHINES) if machine == "all" else (machine,)
    kinds = devices_here()
    for kind, number in kinds.items():
        if (name := machine_of(kind)) and machine in ("all", name):
            return number, (name,)
    here = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
    needed = "one whose data sheet is known" if machine == "all" else machine
    raise ConfigError(
        f"--devices is missing, and none of the devices that JAX finds here ({here}) is {needed}. Name both, e.g. "
        f"--devices=8 --machine=h100. Valid machines: {', '.join(MACHINES)}."
    )


def main(argv: list[str]) -> None:
    """Runs the command line."""
    out, model = flags.FLAGS.out, flags.FLAGS.model
    planned = plan_run() if model is None else plan_pictures(model)
    if out:
        write(pathlib.Path(out), planned)
        print(f"written: {out}")


def plan_run() -> dict[str, Any]:
    """Prints the plan of a run, and returns it."""
    devices, names = described(flags.FLAGS.devices, flags.FLAGS.machine)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)  # only for descriptions, since nothing is computed on them
    planned = plan(flags.FLAGS.config, devices, names, bool(flags.FLAGS["compile"].value))
    tables.show(planned, _console())
    return planned


def _console() -> Console:
    """The console of a plan, 110 columns wide unless it is a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


def plan_pictures(model: str) -> dict[str, Any]:
    """Prints the plan of a request for pictures, and returns it."""
    from diffusion.experiments.planning import picture_plan
    from diffusion.experiments.sampling import prompt_flags, shipped_models

    values = flags.FLAGS
    if values.devices is not None or values["compile"].value:
        raise ConfigError("--model plans pictures on one device. Leave out --devices and --compile.")
    flag_errors.refuse(
        ["n", "again"], "has no effect on a plan, which is of the pictures made at once. Valid: --batch_size."
    )
    if prompt_flags.PROMPT.value is None:
        values.prompt = PROMPT
    jax.config.update("jax_platforms", "cpu")
    names = tuple(MACHINES) if values.machine == "all" else (values.machine,)
    with warnings.catch_warnings(), as_config_errors():
        warnings.simplefilter("ignore", UserWarning)
        folder = str(shipped_models.folder_of_prompts(model))
        planned = picture_plan.plan(folder, prompt_flags.request(), names, values.dtype)
    picture_plan.show(planned, _console())
    return planned


def write(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes a plan as JSON; the file appears complete or not at all."""
    if path.exists() and not path.is_file():  # it would be replaced by a file, even /dev/stdout
        raise workdir.WorkdirError(f"--out={path} is not a file: choose another.")
    try:
        json_files.write(path, content)
    except OSError as error:
        raise workdir.WorkdirError(f"--out={path} cannot be written ({error.strerror}): choose another.") from error


if __name__ == "__main__":
    command_line.run(main, (*workdir.FAILURES, ahead_of_time.AheadError))
