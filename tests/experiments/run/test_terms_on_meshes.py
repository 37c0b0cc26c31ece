"""Terms on features on several devices: heads and a frozen encoder change no loss, however the state is split."""

import json

import numpy as np
import pytest

from tests.training.test_meshes import run

STEPS = 8
TRAIN = """
import json, sys
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
from configs import digits
from diffusion.data import pipeline, sources
from diffusion.recipe import checks, names
from diffusion.experiments.run import program as programs
from diffusion.training import sharding
from tests.experiments.run.test_features import OneConvolution

names.ENCODERS["one_convolution"] = OneConvolution
mlp = {"name": "mlp", "hidden": 64}

def trained(cached, count, axes):
    config = digits.get_config("tiny")
    config.model.heads, config.train.batch_size, config.optimizer.decay = 4, 16, "constant"
    config.objective.density["strata"] = 16
    config.objective.wrappers = (
        {"name": "alignment", "layer": 1, "projector": mlp},
        {"name": "alignment", "layer": 2, "projector": {"name": "convolution"}},
        {"name": "self_alignment", "layer": 1, "teacher_layer": 2, "projector": mlp},
        {"name": "dispersive", "layer": 1, "block": 4},
        *config.objective.wrappers,
    )
    config.encoder.update({"network": {"name": "one_convolution", "width": 64}, "size": 8})
    config.mesh.update({"data": 1, **axes})
    recipe = checks.validate(config).at((8, 8, 1))
    if cached:
        import dataclasses
        recipe = recipe.with_parts(encoder=dataclasses.replace(recipe.companions.encoder, cached=True))
    mesh = programs.mesh_of(config, jax.devices()[:count])
    program = programs.build(recipe, mesh)
    split = program.target.params["heads"]["term"]["dense_1"]["kernel"].sharding.spec
    state = sharding.create(program.init, program.target, program.seed)
    records, spec = sources.open_source("digits", "train")
    data = pipeline.batches(records, spec, seed=0, batch_size=16, threads=0)
    losses = []
    for k in range(int(sys.argv[1])):
        batch = next(data)
        if cached:
            batch["features"] = np.random.default_rng(k).normal(size=(16, 16, 64)).astype(np.float16)
        state, metrics = program.step(state, sharding.to_devices(batch, mesh, 16), program.seed)
        losses.append([float(metrics[name]) for name in ("loss", "grad_norm", "term", "term_2", "term_3", "term_4")])
    return {"losses": losses, "split": any(split)}

layouts = json.loads(sys.argv[2])
print(json.dumps({
    "computed features": [trained(False, *layout) for layout in layouts],
    "features of the batch": [trained(True, *layout) for layout in (layouts[0], layouts[2])],
}))
"""
LAYOUTS = [
    (1, {}),
    (4, {"data": 4}),
    (4, {"data": 2, "fsdp": 2}),
    (4, {"fsdp": 2, "tensor": 2}),
    (4, {"fsdp": 4, "split": "optimizer"}),
    (4, {"data": 4, "kind": "pmap"}),
]


@pytest.mark.slow
def test_terms_are_the_same_on_any_mesh():
    """8 steps, to the tolerances of `test_a_run_is_the_same_on_any_mesh`; projectors are split as the network is."""
    found = json.loads(run(TRAIN, 1, 4, STEPS, json.dumps(LAYOUTS)).splitlines()[-1])
    for runs in found.values():
        one, *others = (np.array(each["losses"]) for each in runs)
        for losses in others:
            np.testing.assert_allclose(losses[:, 0], one[:, 0], rtol=1e-4)
            np.testing.assert_allclose(losses[:, 1], one[:, 1], rtol=2e-3)
            np.testing.assert_allclose(losses[:, 2:], one[:, 2:], rtol=1e-4, atol=1e-5)
    split = [False, False, True, True, False, False]
    assert [each["split"] for each in found["computed features"]] == split
    assert [each["split"] for each in found["features of the batch"]] == [split[0], split[2]]
