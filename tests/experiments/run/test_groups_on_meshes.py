"""Runs that compare the samples of a group: the advantages and the update are those of one device on any mesh."""

import json

import numpy as np
import pytest

from tests.training.test_meshes import run

TRAIN = """
import json, sys
from diffusion.training import sharding
from tests.experiments.run.started_run import started
from tests.experiments.run.test_post_training import ENTRIES, small

def trained(name, count, axes):
    config = small()
    config.objective = {**ENTRIES[name], "beta" if name == "policy_gradient" else "divergence": 0.0}
    config.train.steps = 3
    program, mesh, state, batches = started(config, count, axes)
    lines = []
    for _ in range(3):
        batch = sharding.to_devices(next(batches), mesh, 16)
        state, metrics = program.step(state, batch, program.seed)
        lines.append([float(metrics[part]) for part in ("loss", "grad_norm", "reward")])
    return lines

print(json.dumps([trained(sys.argv[1], *layout) for layout in json.loads(sys.argv[2])]))
"""
LAYOUTS = [(1, {}), (4, {"data": 4}), (4, {"data": 2, "fsdp": 2}), (4, {"data": 4, "kind": "pmap"})]


@pytest.mark.slow
@pytest.mark.parametrize("name, layouts", [("policy_gradient", LAYOUTS), ("diffusion_nft", LAYOUTS[:2])])
def test_the_statistics_of_groups_do_not_depend_on_the_devices(name, layouts):
    """Groups of four in a batch of sixteen, on one device and on four."""
    one, *others = json.loads(run(TRAIN, 1, 4, name, json.dumps(layouts)).splitlines()[-1])
    assert np.asarray(one)[:, 1].min() > 0
    for other in others:
        np.testing.assert_allclose(other, one, rtol=2e-4, atol=1e-6)
