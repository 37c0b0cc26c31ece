"""IP-Adapter files that we write, opened by diffusers: the same pictures. Live: under `make test-peers` alone."""

import dataclasses
import shutil
import subprocess

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import text_to_image
from diffusion.adapters import ip_adapter, ip_adapter_files
from diffusion.models import interchange
from diffusion.published.flux.redux import Redux
from tests.adapters import test_joint_ip_adapter as joint, test_redux_prompt as redux
from tests.adapters.test_ip_adapter import fixture, latents, theirs
from tests.peers.made_weights import drawn, made
from tests.peers.test_exports import PYTHON, ROOT, live
from tests.text_to_image import made_pipelines


@live
@pytest.mark.parametrize("kind", ["global", "full", "plus"])
def test_diffusers_opens_our_files(kind, tmp_path):
    """An adapter of numbers that no file of theirs has had, written by us, over the same image encoder."""
    model = theirs()
    shapes = fixture()[0]["files"][kind]
    save_file(
        {name: made(f"{kind} {name}", tuple(shape)) for name, shape in shapes.items()}, tmp_path / "made.safetensors"
    )
    module, weights = ip_adapter_files.load(tmp_path / "made.safetensors", model.denoiser)
    keys = iter(jax.random.split(jax.random.key(0), 200))
    weights = jax.tree.map(lambda a: a * jax.random.uniform(next(keys), a.shape, minval=0.5, maxval=1.5), weights)
    one = model.attachments[kind]
    mine = dataclasses.replace(one, params={**one.params, "adapter": weights})
    ip_adapter_files.save(tmp_path / "mine.safetensors", module, weights, model.denoiser)
    to = tmp_path / "latents.safetensors"
    command = [PYTHON, "-m", "tests.peers.ip_adapters", "opened", tmp_path / "mine.safetensors", to]
    subprocess.run(command, cwd=ROOT, check=True)
    expected = load_file(to)["latents"]
    found = latents(dataclasses.replace(model, attachments={kind: mine}), (kind,), (0.7,), ("first",), (None,))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


@live
def test_diffusers_opens_our_file_for_flux(tmp_path):
    """In XLabs' names: the output of the transformer with an image prompt of weight 0.7."""
    model = text_to_image.load(made_pipelines.folder("flux", tmp_path / "flux"))
    module = ip_adapter_files.fresh(model.denoiser, 20)
    features = drawn("flux ip features", 2, 20)
    shapes = jax.eval_shape(module.init, jax.random.key(0), features)["params"]
    keys = iter(jax.random.split(jax.random.key(0), 200))
    weights = jax.tree.map(lambda leaf: 0.3 * jax.random.normal(next(keys), leaf.shape), shapes)
    ip_adapter_files.save(tmp_path / "mine.safetensors", module, weights, model.denoiser, layout="xlabs")
    to = tmp_path / "output.safetensors"
    command = [PYTHON, "-m", "tests.peers.ip_adapters", "opened_flux", tmp_path / "mine.safetensors", to]
    subprocess.run(command, cwd=ROOT, check=True)
    expected = load_file(to)["output"]
    extra = ip_adapter.prompt(module, weights, features, np.full(2, 0.7, np.float32))
    condition = {  # that of tests/peers/ip_adapters.py
        "text": drawn("flux ip text", 2, 5, 32),
        "pooled": drawn("flux ip pooled", 2, 24),
        "strength": np.array([3.5, 3.5], np.float32),
    }
    x, t = drawn("flux ip x", 2, 8, 8, 4), np.array([0.1, 0.7], np.float32)
    output = jax.jit(lambda params, condition: model.denoiser.apply({"params": params}, x, t, condition))
    found = output(model.params["transformer"], {**condition, "extra": (extra,)})
    within = 7e-5 * np.abs(expected).max()  # that of the network alone
    np.testing.assert_allclose(found, expected, rtol=0, atol=within)
    assert np.abs(output(model.params["transformer"], condition) - expected).max() > 100 * within


@live
def test_diffusers_opens_our_file_for_stable_diffusion_3(tmp_path):
    """An adapter of numbers that no file of theirs has had, written by us: the latents of the whole pipeline."""
    model = joint.theirs()
    one = model.attachments["style"]
    about = joint.fixture()[0]
    save_file({name: made(name, tuple(shape)) for name, shape in about["file"].items()}, tmp_path / "made.safetensors")
    module, weights = ip_adapter_files.load(tmp_path / "made.safetensors", model.denoiser)
    ip_adapter_files.save(tmp_path / "mine.safetensors", module, weights, model.denoiser)
    to = tmp_path / "latents.safetensors"
    command = [PYTHON, "-m", "tests.peers.joint_ip_adapters", "opened", tmp_path / "mine.safetensors", to]
    subprocess.run(command, cwd=ROOT, check=True)
    expected = load_file(to)["latents"]
    mine = dataclasses.replace(one, params={**one.params, "adapter": weights})
    found = joint.latents(dataclasses.replace(model, attachments={"style": mine}))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


@live
def test_diffusers_opens_our_redux(tmp_path):
    """Layers of numbers that no file of theirs has had, written by us: the latents of both pipelines."""
    model = redux.theirs()
    one = model.attachments["look"]
    weights = jax.tree.map(lambda leaf: 0.7 * leaf, one.params["redux"])
    folder = made_pipelines.folder("redux", tmp_path / "redux")
    shutil.rmtree(folder / "image_embedder")
    interchange.save(folder / "image_embedder", Redux(32, 32), weights)
    to = tmp_path / "latents.safetensors"
    subprocess.run([PYTHON, "-m", "tests.peers.redux", "opened", folder, to], cwd=ROOT, check=True)
    expected = load_file(to)["latents"]
    mine = dataclasses.replace(one, params={**one.params, "redux": weights})
    found, _ = redux.latents(dataclasses.replace(model, attachments={"look": mine}))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())
