"""LoRA files that we write, loaded by diffusers: the same outputs. Live: under `make test-peers` alone."""

import subprocess

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import text_to_image
from diffusion.adapters import lora, lora_files
from diffusion.models import interchange
from diffusion.models.interchange import families, folder_writing
from tests.adapters import test_lora_files as ours, test_lora_spellings as flux
from tests.peers.made_weights import made
from tests.peers.test_exports import PYTHON, ROOT, live
from tests.text_to_image import made_pipelines

# Of each network, the largest difference as a part of the largest number: ten times what is measured on one CPU, for
# another rounds otherwise.
WITHIN = {"unet": 5e-5, "text_encoder": 8e-6}
CLIPS = ("wan", "ltx", "cogvideox", "hunyuan_video")  # of tests/peers/pipelines.py


@live
@pytest.mark.parametrize("layout", lora_files.LAYOUTS)
def test_diffusers_loads_what_we_write(layout, tmp_path):
    modules = ours.modules()
    rng = np.random.default_rng(0)
    loras = lora_files.load(ours.file("peft", tmp_path / "theirs.safetensors"), modules)
    changed = lambda leaf: leaf * rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    loras = {part: one._replace(adapter=jax.tree.map(changed, one.adapter)) for part, one in loras.items()}
    path = tmp_path / "ours.safetensors"
    to = tmp_path / "outputs.safetensors"
    lora_files.save(path, loras, modules, layout)
    subprocess.run([PYTHON, "-m", "tests.peers.loras", "opened", path, to], cwd=ROOT, check=True)
    theirs = load_file(to)
    for part, one in loras.items():
        module, base = ours.params(part, tmp_path / part)
        found = ours.call(part, module, lora.merge(base, one.adapter, one.scale))
        np.testing.assert_allclose(found, theirs[part], rtol=0, atol=WITHIN[part] * np.abs(theirs[part]).max())


@live
def test_diffusers_merges_the_flux_that_we_write_in_kohyas_layout(tmp_path):
    """All but the first layer of a single block, which diffusers reads in the published width alone; see below."""
    module, leaves, _ = flux.networks()["transformer"]
    layers = {
        "transformer_blocks.0.attn.to_q": (32, 32),
        "transformer_blocks.0.attn.to_v": (32, 32),
        "transformer_blocks.0.attn.add_k_proj": (32, 32),
        "transformer_blocks.0.attn.to_out.0": (32, 32),
        "transformer_blocks.0.ff.net.0.proj": (128, 32),
        "transformer_blocks.0.ff_context.net.2": (32, 128),
        "transformer_blocks.0.norm1.linear": (192, 32),
        "single_transformer_blocks.0.norm.linear": (96, 32),
        "single_transformer_blocks.0.proj_out": (32, 160),
    }
    tensors = factors(layers)
    _, expected = flux.merged(tensors, tmp_path, "transformer")
    loras = lora_files.load(tmp_path / "a.safetensors", {"transformer": module})
    path = tmp_path / "ours.safetensors"
    to = tmp_path / "fused.safetensors"
    lora_files.save(path, loras, {"transformer": module}, "kohya")
    subprocess.run([PYTHON, "-m", "tests.peers.loras", "fused_by_diffusers", path, to], cwd=ROOT, check=True)
    theirs = load_file(to)
    before = flux.weights("transformer", leaves, "diffusers")
    assert expected.keys() == {f"{layer}.weight" for layer in layers}
    for name, array in before.items():
        np.testing.assert_allclose(theirs[name], expected.get(name, array), rtol=0, atol=1e-6, err_msg=name)


@live
def test_diffusers_splits_the_single_blocks_of_the_published_flux(tmp_path):
    module = interchange.FAMILIES["FluxTransformer2DModel"].build({"num_layers": 1, "num_single_layers": 1})
    block = "single_transformer_blocks.0"
    layers = {
        f"{block}.attn.to_q": (3072, 3072),
        f"{block}.attn.to_v": (3072, 3072),
        f"{block}.proj_mlp": (12288, 3072),
    }
    tensors = factors(layers)
    save_file(tensors, tmp_path / "theirs.safetensors")
    loras = lora_files.load(tmp_path / "theirs.safetensors", {"transformer": module})
    path = tmp_path / "ours.safetensors"
    to = tmp_path / "converted.safetensors"
    lora_files.save(path, loras, {"transformer": module}, "kohya")
    subprocess.run([PYTHON, "-m", "tests.peers.loras", "converted", path, to], cwd=ROOT, check=True)
    found = load_file(to)
    factor = lambda of, layer, which: of[f"transformer.{layer}.lora_{which}.weight"]
    product = lambda of, layer: factor(of, layer, "B") @ factor(of, layer, "A")[:, :9]
    for layer in layers:
        np.testing.assert_allclose(product(found, layer), product(tensors, layer), atol=1e-6, err_msg=layer)
    assert not product(found, f"{block}.attn.to_k").any()


@live
def test_diffusers_merges_what_we_write_for_transformers(tmp_path):
    """Every matrix but the last modulation and convolutions of each channel alone, which have no LoRA here."""
    files, expected, rng = tmp_path / "files", {}, np.random.default_rng(0)
    files.mkdir()
    for name in (*("fill", "kontext", "chroma", "sana", "lumina2", "flux2", "krea2"), *CLIPS):
        model = text_to_image.load(made_pipelines.folder(name, tmp_path / name))
        module, params = model.denoiser, model.params["transformer"]
        blank = lora_files.blank(module, "^(?!norm_out|.*conv_depth)", rank=2)
        adapter = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 2, blank)
        one = lora_files.Lora(adapter, dict.fromkeys(lora.places_of(adapter), 1.5))
        lora_files.save(files / f"{name}.safetensors", {"transformer": one}, {"transformer": module})
        merged = lora.merge(params, adapter, one.scale)
        family = families.family_of(module)
        for key, array in folder_writing.write(family, module, "diffusers", merged):
            expected[f"{name}/{key}"] = np.asarray(array)
        before = {
            f"{name}/{key}": np.asarray(a) for key, a in folder_writing.write(family, module, "diffusers", params)
        }
        assert sum(np.abs(before[key] - expected[key]).max() > 0.1 for key in before) > 20
    to = tmp_path / "fused.safetensors"
    subprocess.run([PYTHON, "-m", "tests.peers.loras", "fused_in_pipelines", files, to], cwd=ROOT, check=True)
    theirs = load_file(to)
    assert theirs.keys() == expected.keys()
    for key, array in theirs.items():
        np.testing.assert_allclose(expected[key], array, rtol=0, atol=2e-6, err_msg=key)


def factors(layers):
    """A LoRA file of diffusers' Flux, by layers and the shapes of their weights."""
    return {
        f"transformer.{layer}.lora_{factor}.weight": made(f"{layer}{factor}", shape)
        for layer, (outputs, inputs) in layers.items()
        for factor, shape in (("A", (2, inputs)), ("B", (outputs, 2)))
    }
