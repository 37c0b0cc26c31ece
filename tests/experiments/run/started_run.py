"""The start of a run on some of the simulated devices, for tests that compare meshes."""

from typing import Any

import jax

from diffusion.experiments.run import examples, program as programs
from diffusion.recipe import checks
from diffusion.training import sharding


def started(config: Any, devices: int, axes: dict[str, Any], batch_size: int = 16) -> tuple[Any, ...]:
    """The program, the mesh, the first state, and the batches on the host, of a config with other axes of its mesh."""
    config.train.batch_size = batch_size
    config.mesh.update({"data": 1, **axes})
    recipe = checks.validate(config)
    opened = examples.open_examples(recipe)
    recipe = checks.with_data(recipe, opened.spec)
    mesh = programs.mesh_of(config, jax.devices()[:devices])
    program = programs.build(recipe, mesh)
    state = sharding.create(program.init, program.target, program.seed)
    return program, mesh, state, opened.batches(config, 0, sharding.positions(batch_size, mesh), 0)
