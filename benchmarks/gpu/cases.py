"""The cases that a worker measures: a matrix product, a train step of a DiT or a U-Net, sampling with guidance."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from benchmarks import train_step
from diffusion import guidance, objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.models.budget.flops import flops
from diffusion.models.dit import DiT, dit_preset
from diffusion.models.song_unet import song_unet_preset
from diffusion.training import ema, optimizers, parallel, sharding, state
from diffusion.training.step import make_train_step

LATENT = (32, 32, 4)  # shape of the latents of a 256 x 256 picture, which have 256 tokens
CLASSES = 1000
TINY = {"patch": 2, "width": 32, "depth": 2, "heads": 2}  # size of the DiT of a rehearsal


class Case(NamedTuple):
    """A program to measure.

    Nothing is computed before `turn`, so that the program can also be compiled for a described device.

    Attributes:
        program: the measured program, under `jit`: arguments -> a result; if `carries`, (the next first argument,
            metrics).
        arguments: a function () -> the program's arguments, which JAX traces.
        shardings: the shardings of the arguments, one for each argument, or a pytree of shardings.
        runs: the number of runs of the program in one turn, which are dispatched without waiting in between.
        carries: whether the first argument of a run is a result of the run before.
        count: the number of times that one turn does the measured work.
        description: {"flops": the operations of the measured work, "images": the images that it takes or makes, ...}.
    """

    program: Any
    arguments: Callable[[], tuple]
    shardings: Any
    runs: int
    carries: bool
    count: int
    description: dict[str, Any]


def turn(case: Case) -> Callable[[], None]:
    """A function that does one turn of a case on its device, which is all of its runs, and waits for the last one."""
    arguments = jax.jit(case.arguments, out_shardings=case.shardings)()

    def once():
        nonlocal arguments
        result = None
        for _ in range(case.runs):
            result = case.program(*arguments)
            if case.carries:
                arguments = (result[0], *arguments[1:])
        jax.block_until_ready(result)
        if case.carries and int(result[1]["failed_at"]) >= 0:
            raise FloatingPointError("a loss or gradient is not finite")

    return once


def lowered(case: Case) -> jax.stages.Lowered:
    """The traced program of a case for its device, which may be a described one."""
    shapes = jax.eval_shape(case.arguments)
    struct = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
    return case.program.lower(*jax.tree.map(struct, shapes, jax.tree.broadcast(case.shardings, shapes)))


def matmul(spec: dict, device: Any) -> Case:
    """A chain of square matrix products. Spec: "size", "count", "dtype" ("tf32" is float32 at JAX's default)."""
    size = spec["size"]
    count = spec["count"]
    dtype = {"tf32": "float32"}.get(spec["dtype"], spec["dtype"])
    first = lambda: ((jax.random.normal(jax.random.key(0), (size, size)) / size**0.5).astype(dtype),)
    return Case(train_step.products(count), first, _on(device), 1, False, count, {"flops": 2 * size**3})


def dit(spec: dict, **options: Any) -> DiT:
    """The network of a spec. Spec: "model", a published size or "tiny"; "attention", "remat", "unroll"."""
    options |= {
        "attention": spec["attention"],
        "remat": spec.get("remat", "none"),
        "unroll": spec.get("unroll", 0),
        "dtype": "bfloat16",
    }
    if spec["model"] == "tiny":
        return DiT(**TINY, num_classes=CLASSES, **options)
    return dit_preset(spec["model"], num_classes=CLASSES, **options)


def train(spec: dict, device: Any) -> Case:
    """One update of a DiT. Spec: as `dit`, "batch", "count", "shape", "objective" and "mesh" (as a run would be)."""
    shape = tuple(spec.get("shape", LATENT))
    batch_size = spec["batch"]
    name = spec.get("objective", "flow_matching")
    schedule = schedules.edm() if name == "continuous_consistency" else schedules.rectified_flow()
    objective = {
        "flow_matching": lambda: objectives.flow_matching(timesteps.uniform_density(schedule)),
        "mean_flow": lambda: objectives.mean_flow(timesteps.logit_normal(schedule, -0.4, 1.0)),
        "continuous_consistency": lambda: objectives.continuous_consistency(
            timesteps.log_normal(schedule, -1.0, 1.4), warmup=0
        ),
    }[name]()
    model = dit(spec, **({"times": 2} if name == "mean_flow" else {}))
    clock = (jnp.zeros(1), jnp.zeros(1)) if name == "mean_flow" else jnp.zeros(1)
    optimizer = optimizers.adamw(1e-4, steps=1000)
    average = ema.exponential_moving_average()

    def init():
        params = model.init(jax.random.key(0), jnp.zeros((1, *shape)), clock, jnp.zeros(1, jnp.int32))
        return state.create(params, optimizer, average)

    make = functools.partial(make_train_step, objective, model.apply, schedule, optimizer, average)
    amounts = {"flops": 3 * batch_size * flops(model, shape), "images": batch_size}
    if not spec.get("mesh"):
        step = jax.jit(make(), donate_argnums=0)
        return _steps(step, init, (batch_size, shape), CLASSES, _on(device), spec, amounts)
    mesh = sharding.make_mesh({"data": 1, "fsdp": -1, "sequence": 1, "tensor": 1}, [device])
    target = sharding.abstract(init, mesh, sharding.RULES)
    where = jax.tree.map(lambda leaf: leaf.sharding, target), sharding.batch_sharding(mesh), _on(device)
    return _steps(parallel.jit(make, target, mesh), init, (batch_size, shape), CLASSES, where, spec, amounts)


def unet(spec: dict, device: Any) -> Case:
    """One update of EDM's DDPM++ on 32 x 32 pictures. Spec: "batch", "count", "width" and "blocks"."""
    schedule = schedules.edm()
    size = {name: spec[name] for name in ("width", "blocks") if name in spec}
    model = song_unet_preset(
        "ddpmpp-cifar10", num_classes=10, dropout=0.0, dtype="bfloat16", attention=spec["attention"], **size
    )
    parameterization = parameterizations.edm()
    objective = objectives.denoising(parameterization, weightings.edm(), timesteps.log_normal(schedule))
    optimizer = optimizers.adamw(1e-3, steps=1000)
    average = ema.exponential_moving_average()
    shape = (32, 32, 3)
    batch_size = spec["batch"]
    received = (jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    init = lambda: model.init(jax.random.key(0), *received)
    forward = counted_flops(model.apply, jax.eval_shape(init), *received)
    step = jax.jit(make_train_step(objective, model.apply, schedule, optimizer, average), donate_argnums=0)
    first = lambda: state.create(init(), optimizer, average)
    amounts = {"flops": 3 * batch_size * forward, "images": batch_size}
    return _steps(step, first, (batch_size, shape), 10, _on(device), spec, amounts)


def _steps(
    step: Any, init: Callable[[], Any], sizes: tuple, classes: int, where: Any, spec: dict, about: dict[str, Any]
) -> Case:
    """The case of successive updates of a state by the same batch."""
    batch_size, shape = sizes

    def arguments():
        batch = {
            "x": jax.random.normal(jax.random.key(1), (batch_size, *shape)),
            "condition": jnp.arange(batch_size) % classes,
            "index": jnp.arange(batch_size),
        }
        return init(), batch, jax.random.key(2)

    count = spec.get("count", 5)
    return Case(step, arguments, where, count, True, count, about)


def sample(spec: dict, device: Any) -> Case:
    """Sampling of a DiT with classifier-free guidance, by Euler's steps. Spec: as `dit`, "batch", "steps", "shape"."""
    shape = tuple(spec.get("shape", LATENT))
    batch_size = spec["batch"]
    model = dit(spec)
    schedule = schedules.rectified_flow()
    plan = timesteps.plan(timesteps.uniform(schedule, steps=spec["steps"]))

    def arguments():
        params = model.init(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
        return params, jnp.arange(batch_size) % CLASSES, jax.random.split(jax.random.key(1), batch_size)

    def make(params, labels, keys):
        network = lambda x, clock, condition: model.apply(params, x, clock, condition)
        branches = guidance.together(
            network, schedule, parameterizations.velocity(), (labels, jnp.full_like(labels, CLASSES))
        )
        x = samplers.prior(schedule, keys, shape)
        return samplers.sample(samplers.euler(), guidance.classifier_free(branches, 1.5), schedule, x, plan, keys)

    amounts = {"flops": 2 * spec["steps"] * batch_size * flops(model, shape), "images": batch_size}
    return Case(jax.jit(make), arguments, _on(device), 1, False, 1, amounts)


def _on(device: Any) -> SingleDeviceSharding:
    return SingleDeviceSharding(device)


KINDS = {"matmul": matmul, "train": train, "unet": unet, "sample": sample}  # (spec, device) -> Case


def first_that_works(spec: dict, device: Any, use: Callable[[Case], Any]) -> tuple[Case, Any, dict[str, Any]]:
    """The case with the first implementation of attention that works.

    Args:
        spec: {"kind": a key of `KINDS`, "attention": the names of implementations in order, and the arguments of the
            case's function}.
        device: the device of the case.
        use: a function of the case, which raises an exception if the implementation does not work.

    Returns:
        (the case, the result of `use`, {"attention": the name, "refused": the errors of the names before it}).
    """
    choices = spec.get("attention", ["auto"])
    refused = []
    for attention in choices:
        try:
            case = KINDS[spec["kind"]]({**spec, "attention": attention}, device)
            return case, use(case), {"attention": attention, "refused": refused}
        except Exception as error:
            if attention == choices[-1]:
                raise
            refused.append(f"{attention}: {reason(error)}")
    raise ValueError('spec["attention"] is empty: name at least one implementation')


def reason(error: Exception) -> str:
    """The kind and the first line of an error, at most 300 letters."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
