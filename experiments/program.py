"""What a run computes, from its config: the birth of its state and one step, the same for a run and for its plan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffusion.training import ema, parallel, sharding, state
from diffusion.training.step import make_train_step
from experiments import resolve


class Program(NamedTuple):
    """What a run computes.

    Attributes:
      seed: of the parameters and of every draw, uint32.
      conditional: whether the network takes labels.
      average: the exponential moving average.
      init: seed -> TrainState; not jitted, see ``sharding.create``.
      target: what ``init(seed)`` will be: TrainState of jax.ShapeDtypeStruct with shardings.
      batch: what a step takes, as the devices get it: dict of jax.ShapeDtypeStruct [B, ...] with shardings.
      step: (TrainState, batch on the devices, seed) -> (TrainState, metrics); jitted, donates the state.
    """

    seed: np.uint32
    conditional: bool
    average: ema.ExponentialMovingAverage
    init: Callable[[Any], state.TrainState]
    target: state.TrainState
    batch: dict[str, jax.ShapeDtypeStruct]
    step: Any


def build(config: ConfigDict, shape: tuple[int, ...], mesh: Mesh) -> Program:
    """Returns what a run of that config computes on a mesh; computes nothing itself.

    Args:
      config: the config, valid.
      shape: of one example, (H, W, C).
      mesh: of real devices, or of the described ones of a plan.

    Returns:
      Program.

    Raises:
      ValueError: if the model does not divide over the mesh.
    """
    model = resolve.model(config, shape)
    density, optimizer = resolve.density(config), resolve.optimizer(config)
    average = resolve.average(config)
    conditional = config.model.get("num_classes", 0) > 0
    teacher = model.clone(times=1) if hasattr(model, "times") else model
    teachers = {"teacher": teacher} if config.teacher.path else {}

    def init(seed):
        init_key, _ = jax.random.split(jax.random.key(seed))
        labels = jnp.zeros([1], jnp.int32) if conditional else None

        def born(network):
            times = getattr(network, "times", 1)
            clock = jnp.zeros([1]) if times == 1 else (jnp.zeros([1]),) * times
            return network.init(init_key, jnp.zeros((1, *shape)), clock, labels)

        frozen = {name: born(network) for name, network in teachers.items()}
        return state.create(born(model), optimizer, average, density, frozen)

    seed = np.uint32(config.seed)
    whole = sharding.WHOLE[config.mesh.split]
    target = sharding.abstract(init, mesh, sharding.RULES, seed, whole=whole)

    def make(**engine):
        step = make_train_step(
            resolve.objective(config), model.apply, resolve.schedule(config), optimizer, average, density,
            accumulate=config.train.accumulate, **engine,
            frozen={name: network.apply for name, network in teachers.items()},
        )  # fmt: skip
        return lambda state, batch, seed: step(state, batch, jax.random.split(jax.random.key(seed))[1])

    step = parallel.KINDS[config.mesh.kind](make, target, mesh)
    example = {"x": (np.float32, shape)} if config.data.latents.dir else {"image": (np.uint8, shape)}
    parts = example | {"index": (np.int32, ())} | ({"label": (np.int32, ())} if conditional else {})
    rows, where = config.train.batch_size, sharding.batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct((rows, *of), kind, sharding=where) for name, (kind, of) in parts.items()}
    if config.mesh.kind == "jit":  # what does not fit the mesh shows before anything is made
        for size in resolve.sizes(config) or (None,):
            image = {"image": jax.ShapeDtypeStruct((rows, *size, shape[-1]), np.uint8, sharding=where)} if size else {}
            jax.eval_shape(step, target, batch | image, seed)
    return Program(seed, conditional, average, init, target, batch, step)
