"""LoRA files that we write, loaded by diffusers: the same outputs. Live: under `make test-peers` alone."""

import subprocess

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffusion.adapters import lora, lora_files
from tests.adapters import test_lora_files as ours
from tests.peers.test_exports import PYTHON, ROOT, live


@live
@pytest.mark.parametrize("layout", lora_files.LAYOUTS)
def test_diffusers_loads_what_we_write(layout, tmp_path):
    modules, rng = ours.modules(), np.random.default_rng(0)
    loras = lora_files.load(ours.file("peft", tmp_path / "theirs.safetensors"), modules)
    changed = lambda leaf: leaf * rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    loras = {part: one._replace(adapter=jax.tree.map(changed, one.adapter)) for part, one in loras.items()}
    path, to = tmp_path / "ours.safetensors", tmp_path / "outputs.safetensors"
    lora_files.save(path, loras, modules, layout)
    subprocess.run([PYTHON, "-m", "tests.peers.loras", "opened", path, to], cwd=ROOT, check=True)
    theirs = load_file(to)
    for part, one in loras.items():
        module, base = ours.params(part, tmp_path / part)
        found = ours.call(part, module, lora.merge(base, one.adapter, one.scale))
        np.testing.assert_allclose(found, theirs[part], rtol=0, atol=1e-4 * np.abs(theirs[part]).max())
