"""Folders of attachments: Redux by its index and its two networks, IP-Adapters with the encoder beside them."""

import collections
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.adapters import ip_adapter, ip_adapter_files
from diffusion.models import interchange
from diffusion.models.image_encoders import prompt_features
from diffusion.models.image_encoders.siglip import SigLIP
from diffusion.published.flux import redux_prompt
from diffusion.published.flux.network import Flux
from diffusion.published.flux.redux import Redux
from diffusion.text_to_image import pipelines
from tests.text_to_image import made_pipelines

TINY = Flux(4, 4, 24, 1, 1, 2, 8, 6, (4, 4, 4), strength=True)


def test_a_folder_of_redux_is_recognised_by_its_index_alone(tmp_path):
    index = tmp_path / "model_index.json"
    assert not pipelines.attachable(tmp_path)
    index.write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert not pipelines.attachable(tmp_path)
    index.write_text(json.dumps({"other": 1}))
    assert not pipelines.attachable(tmp_path)
    index.write_text(json.dumps({"_class_name": "FluxPriorReduxPipeline"}))
    assert pipelines.attachable(tmp_path) and pipelines.attachable(str(tmp_path))


def test_redux_is_opened_in_float32_with_its_encoder(tmp_path, monkeypatch):
    """Of each folder its own network; the sharding that is asked for goes to both."""
    folder = made_pipelines.folder("redux", tmp_path)
    asked = []
    load = interchange.load
    monkeypatch.setattr(interchange, "load", lambda path, **how: asked.append((path.name, how)) or load(path))
    module, params = load(folder / "image_embedder")
    encoder, of = load(folder / "image_encoder")
    flux = Flux(4, 4, 24, 1, 1, 2, module.text_width, 6, (4, 4, 4), strength=True)
    one = redux_prompt.opened(str(folder), flux, shardings="these")
    how = {"shardings": "these", "dtype": "float32"}
    assert asked == [("image_embedder", how), ("image_encoder", how)]
    for found, expected in ((one.params["redux"], params), (one.params["encoder"], of)):
        np.testing.assert_array_equal(
            *(np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (found, expected))
        )
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(one.read(picture, (16, 16)), prompt_features.fitted(encoder, picture))
    with pytest.raises(interchange.Mismatch, match=r"redux|: Redux makes tokens of a text with 9 features .*\.$"):
        redux_prompt.opened(folder, Flux(4, 4, 24, 1, 1, 2, 9, 6, (4, 4, 4), strength=True))


Grid = collections.namedtuple("Grid", "rows, columns")


class Projection:
    """Two pairs of keys and values of a picture's features."""

    projection = types.SimpleNamespace(reads_tokens=False, features=3)
    widths = (2, 2)

    def apply(self, variables, features):
        scaled = variables["params"]["scale"] * features
        return ((scaled[:, None, :2], scaled[:, None, 1:]), (-scaled[:, None, :2], scaled[:, None, :2]))


class Denoiser:
    """A denoiser with two layers for image prompts, on grids of half and a quarter of the latents."""

    @staticmethod
    def extra_layers(height, width):
        layer = lambda by: Grid(height // by, width // by)
        return (layer(2), layer(4))


class Encoder:
    """An encoder whose pooled vector is the mean colour."""

    size, width = 8, 3

    def apply(self, variables, images, **how):
        return types.SimpleNamespace(pooled=images.mean((1, 2)) + variables["params"]["shift"], patches=None)


def test_an_image_prompt_attaches_its_keys_and_values_with_a_weight_or_a_mask(monkeypatch):
    monkeypatch.setattr(ip_adapter_files, "widths", lambda denoiser: (2, 2))
    module = Projection()
    one = ip_adapter.attachment(module, {"scale": jnp.float32(2)}, Denoiser(), Encoder(), {"shift": jnp.float32(0.5)})
    assert one.params == {"adapter": {"scale": 2}, "encoder": {"shift": 0.5}} and one.masked
    images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)), jnp.float32)
    seen, nothing = one.encode(one.params, images)
    features = 2 * (np.asarray(images).mean((1, 2)) + 0.5)
    np.testing.assert_allclose(seen[0][0][:, 0], features[:, :2], rtol=1e-5)
    np.testing.assert_allclose(seen[1][0][:, 0], -features[:, :2], rtol=1e-5)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(nothing))  # the pooled vector of no picture is zero
    x = jnp.zeros((1, 8, 8, 4))
    (layers,) = one.entries(one.params, jnp.array([0.25]), seen, x, 0.5, 500.0)["extra"]
    for (keys, values, weight), pair in zip(layers, seen):
        np.testing.assert_array_equal(keys, pair[0])
        np.testing.assert_array_equal(values, pair[1])
        np.testing.assert_array_equal(weight, [[0.25]])
    mask = np.zeros((1, 32, 32), np.float32)
    mask[:, :, 16:] = 0.25
    (layers,) = one.entries(one.params, jnp.asarray(mask), seen, x, 0.5, 500.0)["extra"]
    for (_, _, weight), side in zip(layers, (4, 2)):
        grid = np.asarray(weight).reshape(side, side)
        np.testing.assert_allclose(grid[:, 0], 0, atol=0.03)
        np.testing.assert_allclose(grid[:, -1], 0.25, atol=0.03)
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(one.read(picture, (16, 16)), prompt_features.fitted(Encoder(), picture))


def test_parts_that_do_not_belong_together_are_refused(monkeypatch):
    monkeypatch.setattr(ip_adapter_files, "widths", lambda denoiser: (2, 3))
    with pytest.raises(ValueError, match=r"keys of the widths \(2, 2\), which are not the widths of this denoiser"):
        ip_adapter.attachment(Projection(), {}, Denoiser(), Encoder(), {})
    siglip = SigLIP(width=12, depth=1, heads=2, hidden=8, size=14, patch=7)
    with pytest.raises(ValueError, match="reads a pooled vector of 3 features, but the image encoder SigLIP has 12"):
        ip_adapter.attachment(Projection(), {}, Denoiser(), siglip, {})
    with pytest.raises(ValueError, match="this denoiser needs tokens of a text with 8 features, but Redux"):
        redux_prompt.attachment(Redux(12, 9), {}, TINY, siglip, {})


def test_an_image_prompt_is_opened_with_the_encoder_in_the_folder_beside_it(tmp_path, monkeypatch):
    """By the path of its file, or of the folder that holds both; what does not fit is said with the path."""
    (tmp_path / "image_encoder").mkdir()
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(b"")
    asked = []
    monkeypatch.setattr(ip_adapter_files, "widths", lambda denoiser: (2, 2))
    monkeypatch.setattr(ip_adapter_files, "load", lambda path, denoiser: (Projection(), {"scale": jnp.float32(3)}))
    shift = {"shift": jnp.float32(0.5)}
    monkeypatch.setattr(interchange, "load", lambda path, **how: asked.append((path, how)) or (Encoder(), shift))
    for place in (path, tmp_path, str(path)):
        one = ip_adapter.opened(place, Denoiser(), shardings="these")
        assert one.params == {"adapter": {"scale": 3}, "encoder": shift}
    assert asked == [(tmp_path / "image_encoder", {"shardings": "these", "dtype": "float32"})] * 3
    monkeypatch.setattr(ip_adapter_files, "widths", lambda denoiser: (2, 3))
    with pytest.raises(interchange.Mismatch, match=r"adapter\.safetensors: the IP-Adapter has keys of the widths"):
        ip_adapter.opened(path, Denoiser())
    (tmp_path / "image_encoder").rmdir()
    with pytest.raises(FileNotFoundError, match="image_encoder does not exist"):
        ip_adapter.opened(path, Denoiser())
