"""Unified concept editing: the closed form against least squares and by hand, and a model whose layers it changes."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import text_to_image
from diffusion.adapters import erasure
from diffusion.experiments import erase
from diffusion.io.leaf_names import leaves_of
from diffusion.recipe import ConfigError
from tests.text_to_image import made_pipelines

RNG = np.random.default_rng(0)


def test_the_closed_form_is_the_minimum_of_its_squares():
    """The normal equations of the stacked least squares, by NumPy's own solver."""
    kernel, old, new, kept = (
        RNG.normal(size=(5, 3)),
        RNG.normal(size=(2, 5)),
        RNG.normal(size=(2, 5)),
        RNG.normal(size=(3, 5)),
    )
    preserve, keep = 0.7, 0.2
    rows = np.concatenate([old, np.sqrt(preserve) * kept, np.sqrt(keep) * np.eye(5)])
    wanted = np.concatenate([new, np.sqrt(preserve) * kept, np.sqrt(keep) * np.eye(5)]) @ kernel
    expected, *_ = np.linalg.lstsq(rows, wanted, rcond=None)
    np.testing.assert_allclose(erasure.solved(kernel, old, new, kept, preserve, keep), expected, rtol=1e-9, atol=1e-12)


def test_on_a_linear_layer_the_edit_is_exact():
    """With orthogonal texts and no weight on the distance: the old text maps as the new one, others as before."""
    kernel = RNG.normal(size=(4, 3))
    axis = np.eye(4)
    found = erasure.solved(kernel, axis[:1], axis[1:2], axis[2:], preserve=1.0, keep=1e-12)
    np.testing.assert_allclose(axis[0] @ found, axis[1] @ kernel, atol=1e-9)
    np.testing.assert_allclose(axis[1:] @ found, axis[1:] @ kernel, atol=1e-9)
    without = erasure.solved(kernel, axis[:1], axis[1:2], axis[2:], preserve=0.0, keep=1e-12)  # they weigh nothing
    np.testing.assert_allclose(without, erasure.solved(kernel, axis[:1], axis[1:2], axis[:0], keep=1e-12), atol=1e-9)
    with pytest.raises(ValueError, match=r"keep = 0\. Valid: preserve at least 0, and keep above 0"):
        erasure.solved(kernel, axis[:1], axis[1:2], axis[2:], keep=0)
    with pytest.raises(ValueError, match=r"Valid: kernel \[in, out\], old and new \[n, in\], fixed \[m, in\]"):
        erasure.solved(kernel, axis[:1], axis[1:3], axis[2:])


@pytest.mark.slow
def test_a_model_forgets_by_its_keys_and_values_alone(tmp_path):
    model = text_to_image.load(made_pipelines.folder("sd", tmp_path / "sd"))
    found = erasure.edited(model, [("cat", "dog")], ["a house"], keep=1e-9)
    before, after = (leaves_of(each.params["unet"]) for each in (model, found))
    changed = {name for name in before if np.any(before[name] != after[name])}
    assert changed and all(
        "cross_attention/key/kernel" in name or "cross_attention/value/kernel" in name for name in changed
    )
    assert changed == {
        name for name in before if name.endswith(("cross_attention/key/kernel", "cross_attention/value/kernel"))
    }
    jax.tree.map(np.testing.assert_array_equal, found.params["text_encoder"], model.params["text_encoder"])
    name = min(changed)
    text = np.asarray(model.kind.prompts.condition(["cat", "dog"], *model.encoders)["text"], np.float64)
    tokens = dict(zip(("cat", "dog"), text))
    (old, new), last = erasure.aligned(model, tokens, "cat", "dog"), -1
    kernel = lambda leaves: np.asarray(leaves[name][0], np.float64).reshape(len(old[0]), -1)
    miss = lambda leaves: np.abs(old[last] @ kernel(leaves) - new[last] @ kernel(before)).max()
    assert miss(after) < 0.1 * miss(before)
    with pytest.raises(ValueError, match="does not read a text of 24 features"):
        erasure.edited(model, [("cat", "dog")], pattern=r"attn1\.to_k\.weight$")


@pytest.mark.slow
def test_a_layer_between_encoder_and_attention_is_passed(tmp_path):
    """The attention of PixArt then sees what stands for the erased word: its own keys, with the layer by hand."""
    model = text_to_image.load(made_pipelines.folder("pixart", tmp_path / "pixart"))
    found = erasure.edited(model, [("cat", "dog")], keep=1e-9)
    before, after = (leaves_of(each.params["transformer"]) for each in (model, found))
    name = next(name for name in before if name.endswith("cross_attention/key/kernel"))
    text = np.asarray(model.kind.prompts.condition(["cat", "dog"], *model.encoders)["text"], np.float64)
    hidden, out = ({part: np.asarray(before[f"{layer}/{part}"], np.float64) for part in ("kernel", "bias")}
                   for layer in ("text_hidden", "text_out"))  # fmt: skip
    middle = text @ hidden["kernel"] + hidden["bias"]
    middle = middle / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (middle + 0.044715 * middle**3)))
    tokens = dict(zip(("cat", "dog"), middle @ out["kernel"] + out["bias"]))
    (old, new), last = erasure.aligned(model, tokens, "cat", "dog"), -1
    kernel = lambda leaves: np.asarray(leaves[name][0], np.float64).reshape(len(old[0]), -1)
    miss = lambda leaves: np.abs(old[last] @ kernel(leaves) - new[last] @ kernel(before)).max()
    assert miss(after) < 0.1 * miss(before)


def test_a_network_is_written_in_the_dtype_that_all_its_tensors_have(tmp_path):
    unet = made_pipelines.folder("sd", tmp_path / "sd") / "unet"
    (file,) = unet.glob("*.safetensors")
    tensors = load_file(file)
    assert erase.stored_dtype(unet) == "float32"
    save_file({name: tensor.astype(np.float16) for name, tensor in tensors.items()}, file)
    assert erase.stored_dtype(unet) == "float16"
    name = next(iter(tensors))
    save_file({key: tensor.astype(np.float32 if key == name else np.float16) for key, tensor in tensors.items()}, file)
    assert erase.stored_dtype(unet) == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_command_writes_a_whole_model(dtype, tmp_path):
    folder = made_pipelines.folder("sd", tmp_path / "sd")
    (file,) = (folder / "unet").glob("*.safetensors")
    save_file({name: tensor.astype(dtype) for name, tensor in load_file(file).items()}, file)
    erase.run(folder, [("cat", "dog")], tmp_path / "erased", ["a house"])
    found = text_to_image.load(tmp_path / "erased")
    expected = erasure.edited(text_to_image.load(folder), [("cat", "dog")], ["a house"])
    rtol = 1e-6 if dtype == np.float32 else 1e-3
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol / 10)
    (written,) = (tmp_path / "erased" / "unet").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(written).values()} == {np.dtype(dtype)}
    jax.tree.map(close, found.params, expected.params)
    assert found.side == text_to_image.load(folder).side == 16  # of the U-Net's config
    card = (tmp_path / "erased" / "README.md").read_text()
    assert "cat (now dog)" in card and 'base_model: "sd"' in card and "license:" in card
    with pytest.raises(FileExistsError, match="exists already"):
        erase.run(folder, [("cat", "dog")], tmp_path / "erased")
    with pytest.raises(ConfigError, match=r"near|keep = 0"):
        erase.run(folder, [("cat", "dog")], tmp_path / "other", near=0)


@pytest.mark.parametrize("name", ["old", "new", "kept", "every one"])
def test_embeddings_that_do_not_belong_to_the_kernel_are_refused(name):
    shapes = {"old": (2, 5), "new": (2, 5), "kept": (3, 5)}
    erasure.solved(np.ones((5, 3)), *map(np.ones, shapes.values()))
    wrong = {one: (rows, 4 if name in (one, "every one") else size) for one, (rows, size) in shapes.items()}
    with pytest.raises(ValueError, match=r"Valid: kernel \[in, out\], old and new \[n, in\], fixed \[m, in\]"):
        erasure.solved(np.ones((5, 3)), *map(np.ones, wrong.values()))


@pytest.mark.parametrize("weights", [{"preserve": np.inf}, {"keep": np.inf}, {"preserve": np.nan}, {"keep": 0.0}])
def test_weights_out_of_range_are_refused(weights):
    with pytest.raises(ValueError, match="Valid: preserve at least 0, and keep above 0, both finite"):
        erasure.solved(np.ones((5, 3)), np.ones((2, 5)), np.zeros((2, 5)), np.ones((3, 5)), **weights)
