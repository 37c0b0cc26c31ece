"""Runs that tune a model on several devices: the base is split or whole, the loss is the same."""

import json

import numpy as np
import pytest

from tests.training.test_meshes import run

TRAIN = """
import json, pathlib, sys, jax
from diffusion.recipe import checks
from diffusion.experiments.run import program as programs, tuned_base, tuned_examples
from diffusion.training import sharding
from tests.experiments.run.made_tuning import config as config_of

place = pathlib.Path(sys.argv[1])

def trained(count, axes):
    config = config_of(place, {"name": "lora", "rank": 2, "text_targets": "self_attn"}, "mmdit")
    config.train.batch_size = 4
    config.mesh.update({"data": 1, **axes})
    recipe = checks.validate(config)
    found = tuned_examples.pictures(recipe)
    recipe, found = tuned_examples.encoded(checks.with_data(recipe, found.spec), place / "run", found)
    mesh = programs.mesh_of(config, jax.devices()[:count])
    program = programs.build(recipe, mesh)
    state, about = tuned_base.first(program)
    batches = found.batches(config, 0, sharding.positions(4, mesh), 0)
    losses = []
    for k in range(4):
        batch = next(batches)
        del batch["label"]
        state, metrics = program.step(state, sharding.to_devices(batch, mesh, 4), program.seed)
        losses.append([float(metrics[name]) for name in ("loss", "grad_norm")])
    leaves = jax.tree.leaves(state.unsaved["base"]["transformer"])
    split = any(leaf.sharding.shard_shape(leaf.shape) != leaf.shape for leaf in leaves)
    return {"losses": losses, "split": split, "sha256": about["sha256"]}

print(json.dumps([trained(*layout) for layout in json.loads(sys.argv[2])]))
"""
LAYOUTS = [
    (1, {}),
    (4, {"data": 4}),
    (4, {"data": 2, "fsdp": 2}),
    (4, {"data": 2, "tensor": 2}),
    (4, {"data": 4, "kind": "pmap"}),
]


@pytest.mark.slow
def test_a_tuning_is_the_same_on_any_mesh(tmp_path):
    """LoRA of denoiser and text encoders; the hash of the base does not depend on how it is split."""
    one, *others = json.loads(run(TRAIN, 1, 4, tmp_path, json.dumps(LAYOUTS)).splitlines()[-1])
    for other in others:
        np.testing.assert_allclose(other["losses"], one["losses"], rtol=2e-4)
        assert other["sha256"] == one["sha256"]
    assert [each["split"] for each in others] == [False, True, True, False]
