"""Post-training on one device and on four: the reference and the update are the same, however they are split."""

import json

import numpy as np
import pytest

from tests.experiments.run.test_post_training import made_reference
from tests.training.test_meshes import run

TRAIN = """
import json, pathlib, sys, jax
from diffusion.experiments.run import start
from diffusion.training import sharding
from tests.experiments.run.started_run import started
from tests.experiments.run.test_post_training import post_training

folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]

def trained(number, count, axes):
    config = post_training(name, folder, 3)
    config.optimizer.learning_rate = 1e-2
    program, mesh, _, batches = started(config, count, axes)
    state, _ = start.first_state(config, folder / f"{name}_{number}", program, {})
    lines = []
    for _ in range(3):
        batch = sharding.to_devices(next(batches), mesh, 16)
        state, metrics = program.step(state, batch, program.seed)
        lines.append([float(metrics[part]) for part in ("loss", "grad_norm")])
    return lines

print(json.dumps([trained(*layout) for layout in json.loads(sys.argv[3])]))
"""
LAYOUTS = [(0, 1, {}), (1, 4, {"data": 2, "fsdp": 2}), (2, 4, {"data": 4, "kind": "pmap"})]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return made_reference(tmp_path_factory.mktemp("reference"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layouts",
    [
        ("adjoint_matching", LAYOUTS),
        ("diffusion_dpo", LAYOUTS[:2]),
        ("reward_backpropagation", LAYOUTS[:2]),
        ("reward_weights", LAYOUTS[:2]),
    ],
)
def test_the_update_does_not_depend_on_the_devices(name, layouts, reference):
    one, *others = json.loads(run(TRAIN, 1, 4, reference, name, json.dumps(layouts)).splitlines()[-1])
    losses, norms = np.transpose(one)
    assert norms.min() > 0 and len(set(losses)) == 3
    for other in others:
        np.testing.assert_allclose(other, one, rtol=2e-4, atol=1e-6)
