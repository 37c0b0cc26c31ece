"""Control and image prompts beside a frozen denoiser: what it receives, what trains, what attaches."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from diffusion import text_to_image
from diffusion.adapters import control, image_prompt, ip_adapter_files
from diffusion.models import interchange
from diffusion.models.image_encoders import prompt_features
from diffusion.models.text_encoders.clip import CLIPVision, CLIPVisionProjection
from diffusion.published.pixart.control_net import PixArtControlNet
from diffusion.published.pixart.network import PixArt
from diffusion.published.stable_diffusion.control_net import ControlNet
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.published.stable_diffusion.t2i_adapter import T2IAdapter
from tests.adapters.received import instead_of, reached, same, wide
from tests.drawn_parameters import drawn as parameters
from tests.peers.made_weights import drawn
from tests.text_to_image import made_pipelines

X, CLOCK = jnp.ones((2, 4, 4, 4)), jnp.zeros(2)
HINT = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)), jnp.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(described, loaded) Stable Diffusion, tiny, with attention in its first level."""
    folder = made_pipelines.attentive(tmp_path_factory.mktemp("sd"))
    return text_to_image.described(folder), text_to_image.load(folder)


def shown(network, monkeypatch, name="residuals"):
    """From now on a network beside the denoiser returns what it receives."""
    monkeypatch.setattr(network, name, lambda module, *arguments: arguments)


def test_a_control_net_reads_pictures_of_zero_to_one_and_the_base_has_no_gradient(models, monkeypatch):
    base, model = models
    tuning = control.control_net(base)
    assert (tuning.networks, tuning.reads, tuning.latents, tuning.copies) == (("unet",), ("control",), (), ())
    instead_of(ConditionalUNet, monkeypatch)
    monkeypatch.setattr(ControlNet, "residuals", lambda module, weights, denoiser, *rest: (weights, *rest))
    params, weights = {"unet": wide(model.params["unet"])}, {"own": jnp.ones(3)}
    condition = {"control": HINT, "text": jnp.ones((2, 3, 24))}
    network, x, clock, entries = tuning.apply(params, weights, X, CLOCK, condition)
    same((network, x, clock), (params["unet"], X, CLOCK))
    own, x, clock, prompt, hint, *more = entries.pop("residuals")
    same((own, x, clock, prompt), (weights, X, CLOCK, {"text": condition["text"]}))
    same(entries, {"text": condition["text"]})
    np.testing.assert_allclose(hint, (HINT + 1) / 2, rtol=1e-6)
    assert not more and condition.keys() == {"control", "text"}
    to_base = reached(lambda unet: tuning.apply({"unet": unet}, weights, X, CLOCK, condition), params["unet"])
    assert not any(jax.tree.leaves(to_base))


def of_unet(**fields):
    """A base whose autoencoder divides a side by 2 and has four channels."""
    return types.SimpleNamespace(
        denoiser=ConditionalUNet((8, 16), (1, 1), (2, 2), 6, layers=1, groups=4, **fields),
        kind=types.SimpleNamespace(denoiser=types.SimpleNamespace(folder="unet")),
        modules={"vae": types.SimpleNamespace(factor=2)},
        channels=4,
    )


@pytest.mark.parametrize("widths", [(), (5, 7)])
def test_a_control_net_of_a_distilled_unet_has_no_layer_for_its_guidance(widths, monkeypatch):
    base = of_unet(strength_width=8)
    instead_of(ConditionalUNet, monkeypatch)
    monkeypatch.setattr(ControlNet, "residuals", lambda module, *arguments: module)
    tuning = control.control_net(base, widths)
    *_, entries = tuning.apply({"unet": {"kernel": jnp.ones(2)}}, {}, X, CLOCK, {"control": HINT})
    assert entries["residuals"] == ControlNet(of_unet().denoiser, widths or (16, 32))


def test_a_control_net_refuses_a_unet_that_inpaints_and_widths_of_another_size():
    with pytest.raises(
        ValueError, match=r"sees only the 4 channels of its latents, .* is a ConditionalUNet of 9 channels$"
    ):
        control.control_net(of_unet(in_channels=9))
    for widths in ((16,), (16, 32, 96)):
        with pytest.raises(ValueError, match=rf"hint_widths = \({widths[0]},.*divides the side by 2\. Valid: 2 widths"):
            control.control_net(of_unet(), widths)
    other = of_unet()
    other.denoiser = CLIPVision(16, 8, 12, 2, 2, 16)
    with pytest.raises(ValueError, match=r"the denoiser of this base is a CLIPVision$"):
        control.control_net(other)


def test_a_transformers_control_net_reads_latents_and_the_bases_layers(monkeypatch):
    denoiser = PixArt((8, 8, 4), width=24, depth=3, heads=2, text_width=8)
    base = types.SimpleNamespace(
        denoiser=denoiser, kind=types.SimpleNamespace(denoiser=types.SimpleNamespace(folder="transformer"))
    )
    tuning = control.control_net(base, depth=1)
    assert (tuning.networks, tuning.reads, tuning.latents) == (("transformer",), ("control",), ("control",))
    instead_of(PixArt, monkeypatch)
    monkeypatch.setattr(PixArtControlNet, "residuals", lambda module, weights, denoiser, *rest: (weights, *rest))
    params = {"transformer": {"kernel": jnp.full(2, 3.0)}}
    network, *_, entries = tuning.apply(params, {"own": jnp.ones(3)}, X, CLOCK, {"control": HINT})
    same(network, params["transformer"])
    *_, hint, of_base = entries["residuals"]
    np.testing.assert_array_equal(hint, HINT)  # latents, as they are
    assert PixArtControlNet.reads_base
    same(of_base, params["transformer"])
    to_base = reached(
        lambda own: tuning.apply({"transformer": own}, {}, X, CLOCK, {"control": HINT}), params["transformer"]
    )
    assert not any(jax.tree.leaves(to_base))


def test_a_t2i_adapter_reads_pictures_alone_and_its_features_go_to_the_levels(models, monkeypatch):
    base, model = models
    tuning = control.t2i_adapter(base, blocks=1)
    assert (tuning.networks, tuning.reads, tuning.latents) == (("unet",), ("control",), ())
    weights = parameters(tuning.init, {})
    instead_of(ConditionalUNet, monkeypatch)
    params = {"unet": wide(model.params["unet"])}
    condition = {"control": HINT, "text": jnp.ones((2, 3, 24))}
    seen = []
    features = lambda module, variables, picture: seen.append((variables, picture)) or (picture.sum((1, 2)),)
    with monkeypatch.context() as patched:
        patched.setattr(T2IAdapter, "apply", features)
        network, x, clock, entries = tuning.apply(params, weights, X, CLOCK, condition)
        to_base = reached(lambda unet: tuning.apply({"unet": unet}, weights, X, CLOCK, condition), params["unet"])
    assert not any(jax.tree.leaves(to_base))
    same((network, x, clock), (params["unet"], X, CLOCK))
    (level,) = entries.pop("level_residuals")
    same(entries, {"text": condition["text"]})
    np.testing.assert_allclose(level, ((HINT + 1) / 2).sum((1, 2)), rtol=1e-5)
    same(seen[0][0], {"params": weights})
    widths = {leaf.shape[-1] for leaf in jax.tree.leaves(weights)}
    assert set(base.denoiser.widths) <= widths
    attached = tuning.attach(model, weights)
    same(attached.attachments["control"].params, weights)
    assert not attached._programs and not model.attachments
    blocks = lambda number: len(
        jax.tree.leaves(jax.eval_shape(control.t2i_adapter(base, number).init, jax.random.key(0), {}))
    )
    assert blocks(3) - blocks(2) == blocks(2) - blocks(1) > 0
    assert len(jax.tree.leaves(jax.eval_shape(control.t2i_adapter(base).init, jax.random.key(0), {}))) == blocks(2)


@pytest.mark.parametrize("depths, squares", [((0, 1, 1), 16), ((1, 1, 1), 8)], ids=["XL", "1.5"])
def test_the_kind_of_a_t2i_adapter_is_that_of_its_unet(depths, squares):
    """XL's first level has no attention, and the adapter's begins with squares of twice the autoencoder's factor."""
    unet = ConditionalUNet((8, 16, 24), depths, (2, 2, 2), 6, layers=1, groups=4)
    base = types.SimpleNamespace(
        denoiser=unet,
        kind=types.SimpleNamespace(denoiser=types.SimpleNamespace(folder="unet")),
        modules={"vae": types.SimpleNamespace(factor=8)},
    )
    weights = jax.eval_shape(control.t2i_adapter(base, blocks=1).init, jax.random.key(0), {})
    inputs = {leaf.shape[-2] for leaf in jax.tree.leaves(weights) if leaf.ndim == 4}
    assert 3 * squares**2 in inputs and max(inputs) == 3 * squares**2


def test_a_t2i_adapter_is_of_a_unet():
    base = types.SimpleNamespace(
        denoiser=PixArt((8, 8, 4), width=24, depth=3, heads=2, text_width=8),
        kind=types.SimpleNamespace(denoiser=types.SimpleNamespace(folder="transformer")),
        modules={"vae": types.SimpleNamespace(factor=8)},
    )
    with pytest.raises(ValueError, match="denoiser is a U-Net; the denoiser of this base is a PixArt"):
        control.t2i_adapter(base)


READER = CLIPVisionProjection(CLIPVision(16, 8, 12, 2, 2, 16), 10)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """(folder, parameters) of a tiny CLIP with projection."""
    shapes = jax.eval_shape(READER.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    leaves, tree = jax.tree.flatten(shapes)
    params = tree.unflatten([drawn(f"encoder {i}", *leaf.shape) * 0.3 for i, leaf in enumerate(leaves)])
    folder = tmp_path_factory.mktemp("encoder")
    interchange.save(folder, READER, params)
    return folder, params


KINDS = {"global": {}, "plus": {"kind": "plus", "tokens": 3, "inner": 16, "depth": 1, "heads": 1}}


@pytest.mark.extended
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_prompt_is_seen_once_and_its_projection_trains_alone(kind, models, reader, monkeypatch, tmp_path):
    base, model = models
    folder, of_reader = reader
    tuning = image_prompt.ip_adapter(base, str(folder), **KINDS[kind], prompt="other")
    whole = kind == "plus"
    shape = (5, 12) if whole else (10,)
    assert tuning.sees == {"image_prompt": shape} and tuning.sees_of == "other"
    assert (tuning.networks, tuning.reads, tuning.encodes) == (("unet",), (), False)
    pictures = [np.random.default_rng(i).integers(0, 256, (20, 16 + i, 3), np.uint8) for i in range(2)]
    rows = tuning.see(pictures)
    assert rows.keys() == {"image_prompt"} and rows["image_prompt"].shape == (2, *shape)
    images = np.stack([prompt_features.fitted(READER, picture) for picture in pictures])
    expected = jax.jit(lambda images: prompt_features.image_features(READER, of_reader, images, whole))(images)
    np.testing.assert_allclose(rows["image_prompt"], expected, rtol=1e-5, atol=1e-6)

    weights = parameters(tuning.init, {})
    instead_of(ConditionalUNet, monkeypatch)
    params = {"unet": wide(model.params["unet"])}
    condition = {"image_prompt": jnp.asarray(rows["image_prompt"]).at[1].set(0), "text": jnp.ones((2, 3, 24))}
    network, x, clock, entries = jax.jit(tuning.apply)(params, weights, X, CLOCK, condition)
    same((network, x, clock), (params["unet"], X, CLOCK))
    assert entries.keys() == {"text", "extra"} and condition.keys() == {"text", "image_prompt"}
    nothing = jax.jit(lambda: prompt_features.absent(READER, of_reader, whole))()
    features = jnp.concatenate([condition["image_prompt"][:1], nothing])  # a dropped one is that of no picture
    sizes = {field: size for field, size in KINDS[kind].items() if field != "kind"}
    module = ip_adapter_files.fresh(base.denoiser, prompt_features.width(READER, whole), kind, **sizes)
    pairs = jax.jit(module.apply)({"params": weights}, features)
    (layers,) = entries["extra"]
    assert len(layers) == len(pairs)
    for (keys, values, weight), (their_keys, their_values) in zip(layers, pairs):
        np.testing.assert_allclose(keys, their_keys, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(values, their_values, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(weight, np.ones((2, 1)))
    to_base = reached(lambda unet: tuning.apply({"unet": unet}, weights, X, CLOCK, condition), params["unet"])
    assert not any(jax.tree.leaves(to_base))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_prompt_is_written_and_attached_with_its_encoder(kind, models, reader, tmp_path):
    base, model = models
    folder, of_reader = reader
    tuning = image_prompt.ip_adapter(base, str(folder), **KINDS[kind], prompt="other")
    assert tuning.sees == {"image_prompt": (5, 12) if kind == "plus" else (10,)} and tuning.sees_of == "other"
    assert (tuning.networks, tuning.reads, tuning.encodes) == (("unet",), (), False)
    weights = parameters(tuning.init, {})
    attached = tuning.attach(model, weights)
    assert attached.attachments.keys() == {"image"} and not attached._programs and not model.attachments
    same(attached.attachments["image"].params, {"adapter": weights, "encoder": of_reader})
    (path,) = tuning.write(tmp_path, weights, {"base_model": "made"})
    assert path == tmp_path / "ip_adapter.safetensors"
    with safetensors.safe_open(path, "np") as file:
        about = file.metadata()
    assert about["base_model"] == "made" and about["image_encoder"] == str(folder)
    module, read = ip_adapter_files.load(path, base.denoiser)
    sizes = {field: size for field, size in KINDS[kind].items() if field != "kind"}
    features = prompt_features.width(READER, kind == "plus")
    assert module == ip_adapter_files.fresh(base.denoiser, features, kind, **sizes)
    same(read, weights)


def test_an_image_prompt_begins_without_an_effect(models, reader):
    base, _ = models
    tuning = image_prompt.ip_adapter(base, str(reader[0]))
    weights = jax.jit(tuning.init)(jax.random.key(0), {})
    values = {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(weights) if "value" in str(path)
    }
    assert values and not any(np.any(leaf) for leaf in values.values())
    assert tuning.sees_of == ""
    with pytest.raises(ValueError, match=r"kind.*global"):
        image_prompt.ip_adapter(base, str(reader[0]), kind="square")
