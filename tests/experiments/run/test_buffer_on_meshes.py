"""A run that trains on samples that it keeps: the buffer and the update are those of one device on any mesh."""

import json

import numpy as np
import pytest

from tests.training.test_meshes import run

TRAIN = """
import json, pathlib, sys, numpy as np
from diffusion.training import sharding
from tests.experiments.run.started_run import started
from tests.recipe.test_unnormalised_by_name import config_of

def trained(count, axes):
    config = config_of(pathlib.Path(sys.argv[1]))
    config.objective = {
        "name": "adjoint_sampling", "weighting": {"name": "constant"}, "density": {"name": "uniform_density"},
        "target_density": {"name": "many_well", "wells": 2}, "buffer": 512, "every": 2,
    }
    config.train.steps = 4
    program, mesh, state, batches = started(config, count, axes)
    lines = []
    for _ in range(4):
        batch = next(batches)
        batch = sharding.to_devices({"x": batch["x"], "index": batch["index"]}, mesh, 16)
        state, metrics = program.step(state, batch, program.seed)
        lines.append([float(metrics[part]) for part in ("loss", "grad_norm", "log_density")])
    x = np.asarray(state.buffer["examples"]["x"])
    return {"lines": lines, "x": x[:33].tolist(), "number": int(state.buffer["number"])}

print(json.dumps([trained(*layout) for layout in json.loads(sys.argv[2])]))
"""
LAYOUTS = [(1, {}), (4, {"data": 2, "fsdp": 2}), (4, {"data": 4, "kind": "pmap"})]


@pytest.mark.slow
def test_the_buffer_does_not_depend_on_the_devices(tmp_path):
    """The buffer of 512 samples is large enough for fsdp to split it."""
    one, *others = json.loads(run(TRAIN, 1, 4, str(tmp_path), json.dumps(LAYOUTS)).splitlines()[-1])
    assert one["number"] == 32 and np.abs(one["x"][:32]).min() > 0 and one["x"][32] == [0, 0, 0, 0]
    for other in others:
        assert other["number"] == 32
        np.testing.assert_allclose(other["lines"], one["lines"], rtol=2e-4, atol=1e-6)
        np.testing.assert_allclose(other["x"], one["x"], rtol=2e-4, atol=1e-5)
