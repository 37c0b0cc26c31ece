"""What a worker measures: a matrix product, a train step of a DiT or a U-Net, sampling with guidance."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import train_step
from diffusion import guidance, objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.models.budget.flops import flops
from diffusion.models.dit import DiT, dit_preset
from diffusion.models.song_unet import song_unet_preset
from diffusion.training import ema, optimizers, parallel, sharding, state
from diffusion.training.step import make_train_step

LATENT = (32, 32, 4)  # of a 256 x 256 picture: 256 tokens
CLASSES = 1000
TINY = {"patch": 2, "width": 32, "depth": 2, "heads": 2}  # in place of any DiT, to rehearse


class Case(NamedTuple):
    """One thing to measure.

    Attributes:
        turn: does it `count` times, and waits for the result.
        count: how often.
        about: {"flops": of one time, "images": that one time makes or takes, ...}.
    """

    turn: Callable[[], Any]
    count: int
    about: dict[str, Any]


def matmul(spec: dict) -> Case:
    """A chain of square matrix products. Spec: "size", "count", "dtype" ("tf32" is float32 at JAX's default)."""
    size = spec["size"]
    count = spec["count"]
    dtype = {"tf32": "float32"}.get(spec["dtype"], spec["dtype"])
    turn, operations = train_step.matmul(size, count, dtype)
    return Case(turn, count, {"flops": operations // count})


def dit(spec: dict, **options: Any) -> DiT:
    """The network of a spec. Spec: "model", a published size or "tiny"; "attention", "remat", "unroll"."""
    options |= {
        "attention": spec["attention"],
        "remat": spec.get("remat", "none"),
        "unroll": spec.get("unroll", 1),
        "dtype": "bfloat16",
    }
    if spec["model"] == "tiny":
        return DiT(**TINY, num_classes=CLASSES, **options)
    return dit_preset(spec["model"], num_classes=CLASSES, **options)


def train(spec: dict) -> Case:
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

    def init(seed):
        params = model.init(jax.random.key(seed), jnp.zeros((1, *shape)), clock, jnp.zeros(1, jnp.int32))
        return state.create(params, optimizer, average)

    make = functools.partial(make_train_step, objective, model.apply, schedule, optimizer, average)
    batch = {
        "x": jax.random.normal(jax.random.key(1), (batch_size, *shape)),
        "condition": jnp.arange(batch_size) % CLASSES,
        "index": jnp.arange(batch_size),
    }
    if spec.get("mesh"):
        mesh = sharding.make_mesh({"data": 1, "fsdp": -1, "sequence": 1, "tensor": 1})
        target = sharding.abstract(init, mesh, sharding.RULES, np.uint32(0))
        step = parallel.jit(make, target, mesh)
        first = sharding.create(init, target, np.uint32(0))
        batch = jax.device_put(batch, sharding.batch_sharding(mesh))
    else:
        step = jax.jit(make(), donate_argnums=0)
        first = jax.jit(init)(0)
    images = {"flops": 3 * batch_size * flops(model, shape), "images": batch_size}
    return _steps(step, first, batch, spec.get("count", 5), images)


def unet(spec: dict) -> Case:
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
    arguments = (jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    params = jax.jit(model.init)(jax.random.key(0), *arguments)
    forward = jax.jit(model.apply).lower(params, *arguments).cost_analysis()["flops"]
    step = jax.jit(make_train_step(objective, model.apply, schedule, optimizer, average), donate_argnums=0)
    batch = {
        "x": jax.random.normal(jax.random.key(1), (batch_size, *shape)),
        "condition": jnp.arange(batch_size) % 10,
        "index": jnp.arange(batch_size),
    }
    about = {"flops": 3 * batch_size * forward, "images": batch_size}
    return _steps(step, state.create(params, optimizer, average), batch, spec.get("count", 5), about)


def _steps(step: Callable, first: state.TrainState, batch: dict, count: int, about: dict) -> Case:
    """A turn of `count` updates, dispatched without waiting in between; the last one's metrics wait for all."""
    carried = [first]
    key = jax.random.key(2)

    def turn():
        for _ in range(count):
            carried[0], metrics = step(carried[0], batch, key)
        jax.block_until_ready(metrics)
        if int(metrics["failed_at"]) >= 0:
            raise FloatingPointError("a loss or gradient is not finite")

    return Case(turn, count, about)


def sample(spec: dict) -> Case:
    """Sampling of a DiT with classifier-free guidance, by Euler's steps. Spec: as `dit`, "batch", "steps", "shape"."""
    shape = tuple(spec.get("shape", LATENT))
    batch_size = spec["batch"]
    model = dit(spec)
    schedule = schedules.rectified_flow()
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32))
    plan = timesteps.plan(timesteps.uniform(schedule, steps=spec["steps"]))
    labels = jnp.arange(batch_size) % CLASSES

    @jax.jit
    def make(params, labels, keys):
        network = lambda x, clock, condition: model.apply(params, x, clock, condition)
        branches = guidance.together(
            network, schedule, parameterizations.velocity(), (labels, jnp.full_like(labels, CLASSES))
        )
        x = samplers.prior(schedule, keys, shape)
        return samplers.sample(samplers.euler(), guidance.classifier_free(branches, 1.5), schedule, x, plan, keys)

    keys = jax.random.split(jax.random.key(1), batch_size)
    about = {"flops": 2 * spec["steps"] * batch_size * flops(model, shape), "images": batch_size}
    return Case(lambda: jax.block_until_ready(make(params, labels, keys)), 1, about)


KINDS = {"matmul": matmul, "train": train, "unet": unet, "sample": sample}
