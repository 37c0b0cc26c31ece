"""IP-Adapters: their files, the pictures that diffusers' pipeline makes with them, and what is refused."""

import dataclasses
import functools
import gzip
import json
import pathlib
import tempfile
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import samplers, text_to_image
from diffusion.adapters import ip_adapter, ip_adapter_files
from diffusion.models import interchange
from diffusion.models.image_encoders import prompt_features
from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.models.interchange import schedulers
from diffusion.models.layers import conditions
from diffusion.models.layers.extra_attention import ExtraLayer
from diffusion.published.flux.network import Flux
from diffusion.published.pixart.network import PixArt
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.published.stable_diffusion.table import FAMILY, PUBLISHED
from diffusion.text_to_image import attached, canvas
from diffusion.text_to_image.picture_controls import Control
from tests.drawn_parameters import drawn as parameters
from tests.peers.made_weights import drawn, made
from tests.text_to_image import made_pipelines

TINY = PixArt((4, 4, 2), 2, 12, 1, 2, 6, learn_sigma=False)
UNET = ConditionalUNet((8, 16), (1, 1), (2, 2), 6, layers=1, groups=4)
NORMS = ("weight", "bias")


def adapter(kind="global", features=10, **sizes):
    return ip_adapter_files.fresh(UNET, features, kind, **sizes)


def features_for(module, batch=2):
    shape = (batch, 5, 10) if module.projection.reads_tokens else (batch, 10)
    return jnp.asarray(drawn("features", *shape))


@functools.cache
def fixture():
    arrays = load_file(made_pipelines.FIXTURES / "ip_adapter.safetensors")
    return json.loads(gzip.decompress(arrays.pop("about").tobytes())), arrays


@pytest.mark.extended
def test_a_new_adapter_changes_nothing_and_learns():
    """Step 0 is the base to the bit; gradients reach the values first, as they are what is zero."""
    module = ip_adapter_files.fresh(TINY, 10)
    x = drawn("x", 2, 4, 4, 2)
    text = drawn("text", 2, 3, 6)
    shapes = jax.eval_shape(TINY.init, jax.random.key(0), x, jnp.zeros(2), {"text": text})["params"]
    params = jax.tree.map(lambda leaf: drawn(str(leaf.shape), *leaf.shape), shapes)
    weights = jax.jit(module.init)(jax.random.key(1), features_for(module))["params"]

    def output(weights):
        extra = ip_adapter.prompt(module, weights, features_for(module), jnp.ones(2))
        return TINY.apply({"params": params}, x, jnp.zeros(2), {"text": text, "extra": (extra,)})

    plain = lambda: TINY.apply({"params": params}, x, jnp.zeros(2), {"text": text})
    both, gradient = jax.jit(lambda w: ((output(w), plain()), jax.grad(lambda w: jnp.square(output(w)).sum())(w)))(
        weights
    )
    np.testing.assert_array_equal(*both)
    moved = {name for name, tree in gradient.items() if any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(tree))}
    assert moved == {f"value_{i}" for i in range(len(module.widths))}


@pytest.mark.extended
@pytest.mark.parametrize("kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("global", "full")), "plus"])
def test_files_are_read_and_written(kind, tmp_path):
    sizes = {"plus": {"tokens": 3, "inner": 12, "depth": 2, "heads": 2}, "global": {"tokens": 3}}.get(kind, {})
    module = adapter(kind, **sizes)
    params = parameters(module.init, features_for(module))["params"]
    ip_adapter_files.save(tmp_path / "a.safetensors", module, params, UNET, metadata={"base_model": "tiny"})
    read, again = ip_adapter_files.load(tmp_path / "a.safetensors", UNET)
    assert read == module
    jax.tree.map(np.testing.assert_array_equal, again, params)
    names = set(load_file(tmp_path / "a.safetensors"))
    assert {f"ip_adapter.{n}.to_{part}_ip.weight" for n in (1, 3, 5, 7, 9, 11, 13) for part in "kv"} < names


def test_heads_that_no_file_names_are_refused(tmp_path):
    sizes = {"tokens": 3, "inner": 12, "depth": 1, "heads": 2}
    with pytest.raises(ValueError, match=r"head_size = 32 cannot.*, and every reader assumes 64"):
        adapter("plus", head_size=32, **sizes)
    made = adapter("plus", **sizes)
    other = made.clone(projection=made.projection.clone(head_size=32))
    with pytest.raises(ValueError, match="head_size = 32"):
        ip_adapter_files.save(tmp_path / "a.safetensors", other, {}, UNET)


def test_layers_have_the_published_numbers():
    """Of attn_processors in diffusers: down, up, middle, where every second is to the text; 0 .. 18 of Flux."""
    sd_1 = FAMILY.build(PUBLISHED["Stable Diffusion 1.x"])
    assert ip_adapter_files.numbers(sd_1) == (1, 3, 5, 7, 9, 11, 31, *range(13, 31, 2))
    xl = ip_adapter_files.numbers(FAMILY.build(PUBLISHED["Stable Diffusion XL"]))  # of 24, 10 in the middle, and 36
    assert xl == (*range(1, 49, 2), *range(121, 141, 2), *range(49, 121, 2))
    assert ip_adapter_files.numbers(PixArt(depth=3)) == (1, 3, 5)
    assert ip_adapter_files.numbers(Flux(depth=4, singles=1)) == (0, 1, 2, 3)


def test_xlabs_names_for_flux(tmp_path):
    flux = Flux(
        channels=16, depth=2, singles=1, width=32, heads=2, axes=(4, 6, 6), text_width=12, pooled_width=8, strength=True
    )
    module = ip_adapter_files.fresh(flux, 10)
    assert module.bias and len(module.widths) == 2
    params = parameters(module.init, jnp.zeros((1, 10)))["params"]
    ip_adapter_files.save(tmp_path / "a.safetensors", module, params, flux, layout="xlabs")
    names = set(load_file(tmp_path / "a.safetensors"))
    assert {"ip_adapter_proj_model.proj.weight", "ip_adapter_proj_model.norm.bias"} < names
    assert "double_blocks.1.processor.ip_adapter_double_stream_v_proj.bias" in names
    read, again = ip_adapter_files.load(tmp_path / "a.safetensors", flux)
    assert read == module
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_file_for_another_base_is_refused_by_its_first_layer(tmp_path):
    module = adapter()
    params = parameters(module.init, features_for(module))["params"]
    path = tmp_path / "a.safetensors"
    ip_adapter_files.save(path, module, params, UNET)
    first = r"another denoiser;.*: ip_adapter\.1\.to_k_ip\.weight has shape \[8, 6\], not \[12, 6"
    with pytest.raises(interchange.Mismatch, match=first):
        ip_adapter_files.load(path, UNET.clone(widths=(12, 16)))
    with pytest.raises(
        interchange.Mismatch, match=r"this ConditionalUNet has 11 layers .* ip_adapter\.\d+\.to_k_ip\.weight"
    ):
        ip_adapter_files.load(path, UNET.clone(layers=2))
    tensors = load_file(path)
    save_file({"other": tensors["image_proj.norm.bias"]}, tmp_path / "b.safetensors")
    with pytest.raises(interchange.Mismatch, match="is not an IP-Adapter: it has no tensor named image_proj"):
        ip_adapter_files.load(tmp_path / "b.safetensors", UNET)
    face = {name: a for name, a in tensors.items() if not name.startswith("image_proj.")}
    save_file({**face, "image_proj.proj.2.weight": np.zeros((2, 2), np.float32)}, tmp_path / "c.safetensors")
    with pytest.raises(interchange.Mismatch, match="FaceID adapter, which reads the embeddings of a face recogniser"):
        ip_adapter_files.load(tmp_path / "c.safetensors", UNET)


@pytest.mark.parametrize("kind, name, shape, message", [
    ("global", "norm.weight", (), r"norm\.weight has the shape \[\]\. Valid: 1 axes"),
    ("full", "proj.3.weight", (2, 2), r"proj\.3\.weight has the shape \[2, 2\]\. Valid: 1 axes"),
    ("plus", "latents", (3,), r"latents has the shape \[3\]\. Valid: 3 axes"),
    ("global", "norm.weight", (0,), r"norm\.weight has the shape \[0\]\. Valid: 1 axes, each of at least 1"),
    ("full", "proj.0.weight", (4, 0), r"proj\.0\.weight has the shape \[4, 0\]\. Valid: 2 axes, each of at least 1"),
    ("plus", "proj_out.weight", (0, 4), r"proj_out\.weight has the shape \[0, 4\]\. Valid: 2 axes, each of"),
    ("full", "proj.3.bias", (64,), r"ip_adapter\.1\.to_k_ip\.weight is missing"),
    ("plus", "layers.0.0.to_q.weight", (2, 12), r"layers\.0\.0\.to_q\.weight has 2 rows\..*a head"),
])  # fmt: skip
def test_tensors_of_other_axes_are_refused(kind, name, shape, message, tmp_path):
    needed = {
        "global": ("proj.weight", "norm.weight"),
        "full": ("proj.3.weight",),
        "plus": ("latents", "proj_in.weight", "layers.0.0.to_q.weight"),
    }
    sides = {"proj.3.weight": (64,), "latents": (1, 2, 64)}
    tensors = {f"image_proj.{one}": np.zeros(sides.get(one, (64, 2)), np.float32) for one in needed[kind]}
    save_file({**tensors, f"image_proj.{name}": np.zeros(shape, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(interchange.Mismatch, match=message):
        ip_adapter_files.load(tmp_path / "a.safetensors", UNET)


def test_many_names_of_layers_are_refused_before_one_is_traced(tmp_path):
    """A layer takes 0.3 s to trace, and a header of a megabyte has names of 60,000."""
    tensors = {
        f"image_proj.{name}": np.zeros((64, 2), np.float32) for name in ("proj_in.weight", "layers.0.0.to_q.weight")
    }
    tensors["image_proj.latents"] = np.zeros((1, 2, 2), np.float32)
    more = {f"image_proj.layers.{i}": np.zeros(0, np.float32) for i in range(1, 2000)}
    save_file(tensors | more, tmp_path / "a.safetensors")
    with pytest.raises(
        interchange.Mismatch, match=r"a\.safetensors: its image_proj has 2000 layers\. Valid: at most 32"
    ):
        ip_adapter_files.load(tmp_path / "a.safetensors", UNET)


def test_features_of_another_encoder_are_refused():
    module = adapter()
    with pytest.raises(ValueError, match=r"reads features \[B, 10\] of an image encoder; got shape \(2, 12\)"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((2, 12)))
    with pytest.raises(ValueError, match=r"reads features \[B, N, 10\]"):
        jax.eval_shape(adapter("plus").init, jax.random.key(0), jnp.zeros((2, 10)))


class Colours(nn.Module):
    """An encoder of one's own, whose patches are the colours."""

    size = 28
    width = 3

    @nn.compact
    def __call__(self, images):
        return ImageFeatures(images[:, ::14, ::14].reshape(len(images), -1, 3), images.mean((1, 2)))


def test_no_picture_is_zero_or_the_mean_colour():
    encoder = Colours()
    assert not prompt_features.absent(encoder, {}, whole=False).any()
    tokens = prompt_features.absent(encoder, {}, whole=True)
    mean = np.float32([0.485, 0.456, 0.406]) * 2 - 1
    np.testing.assert_allclose(tokens, np.broadcast_to(mean, (1, 4, 3)), atol=1e-6)
    assert prompt_features.fitted(encoder, np.zeros((40, 60, 3), np.uint8)).shape == (28, 28, 3)
    small = prompt_features.resized(encoder, jnp.full((2, 56, 56, 3), 0.25))
    np.testing.assert_allclose(small, np.full((2, 28, 28, 3), 0.25), atol=1e-6)


@functools.cache
def theirs():
    """The model of diffusers' pipeline with all three adapters, and the image encoder beside their files."""
    about, _ = fixture()
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        (place / "image_encoder").mkdir()
        (place / "image_encoder" / "config.json").write_text(json.dumps(about["config"]))
        encoder = {name: made(f"image_encoder.{name}", tuple(shape)) for name, shape in about["shapes"].items()}
        save_file(encoder, place / "image_encoder" / "model.safetensors")
        for kind, shapes in about["files"].items():
            tensors = {name: made(f"{kind} {name}", tuple(shape)) for name, shape in shapes.items()}
            save_file(tensors, place / f"{kind}.safetensors")
        files = {kind: place / f"{kind}.safetensors" for kind in about["files"]}
        return text_to_image.load(made_pipelines.folder("sd", place / "model"), attachments=files)


CASES = {  # adapters, weights, pictures, and whether each has a half of the picture
    "global": ((0.7,), ("first",), False),
    "full": ((0.7,), ("first",), False),
    "plus": ((0.7,), ("first",), False),
    "two": ((0.7, 0.4), ("first", "second"), False),
    "masked": ((0.7, 0.4), ("first", "second"), True),
}


def picture(name):
    """As tests/peers/ip_adapters.py makes it."""
    height, width = {"first": (42, 63), "second": (60, 35)}[name]
    coarse = drawn(f"picture {name}", 6, 7, 3) * 60 + 128
    return np.clip(np.kron(coarse, np.ones((height // 6, width // 7, 1))), 0, 255).astype(np.uint8)


def latents(model, kinds, weights, names, masks):
    """Those of a prompt, a negative prompt and one or two pictures after four steps of DDIM, as in tests/peers."""
    conditional, unconditional = text_to_image.conditions(model, ["a cat"], "bad", 5.0, 16, 16)
    ready = []
    for kind, weight, name, mask in zip(kinds, weights, names, masks):
        (one,) = canvas.opened_controls([Control(kind, picture(name), weight, mask=mask)], model.attachments, (16, 16))
        seen = one.attachment.encode(one.attachment.params, jnp.asarray(one.picture))
        ready.append(attached.Attached(one.attachment, seen, jnp.float32(weight), jnp.array([0.0, 1.0]), one.mask))
    process = schedulers.read(made_pipelines.fixture("sd")[0]["walks"]["ddim"])
    trajectory = schedulers.trajectory(process, "ddim", 4)
    model = dataclasses.replace(model, process=process)
    denoise = jax.jit(text_to_image.denoise(model, model.params["unet"], conditional, unconditional, 5.0, ready))
    x = jnp.asarray(drawn("latents", 1, 8, 8, 4))
    keys = jax.random.split(jax.random.key(0), 1)
    return samplers.sample(trajectory.sampler, denoise, process.schedule, x, trajectory.plan, keys)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_pictures_are_those_of_diffusers_pipeline(case):
    weights, names, halves = CASES[case]
    kinds = ("global", "plus") if len(names) == 2 else (case,)
    left = np.broadcast_to(np.arange(16) < 8, (16, 16))
    found = latents(theirs(), kinds, weights, names, (left, ~left) if halves else (None, None))
    expected = fixture()[1][f"latents/{case}"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_generate_and_watch_take_image_prompts():
    """A weight of zero changes nothing, to the bit; a mask of one half leaves its effect there."""
    model = theirs()
    same = {"steps": 2, "guidance": 2.0, "sampler": "ddim", "height": 16, "width": 16}
    free = text_to_image.generate(model, "a cat", **same)
    make = lambda *controls: text_to_image.generate(model, "a cat", controls=controls, **same)
    np.testing.assert_array_equal(make(("global", picture("first"), 0.0)), free)
    whole = make(("global", picture("first"), 5.0))
    assert (whole != free).mean() > 0.1
    *_, last = text_to_image.watch(model, "a cat", controls=[("global", picture("first"), 5.0)], **same)
    assert np.abs(last.pictures.astype(int) - whole).max() <= 1
    with pytest.raises(ValueError, match=r"mask of the control 'plus' must be Bool .* \[16, 16\]; got bool \[8, 16\]"):
        make({"attachment": "plus", "picture": picture("first"), "mask": np.ones((8, 16), bool)})


def test_another_image_encoder_is_refused():
    module = ip_adapter_files.fresh(TINY, 10)
    with pytest.raises(ValueError, match="pooled vector of 10 features, but the image encoder Colours has 3"):
        ip_adapter.attachment(module, {}, TINY, Colours(), {})
    module = ip_adapter_files.fresh(TINY.clone(depth=2), 3)
    with pytest.raises(ValueError, match=r"keys of the widths \(12, 12\), which are not the widths of this denoiser"):
        ip_adapter.attachment(module, {}, TINY, Colours(), {})


def test_a_file_without_its_image_encoder_is_refused(tmp_path):
    module = ip_adapter_files.fresh(TINY, 3)
    params = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape), jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 3)))
    )
    ip_adapter_files.save(tmp_path / "a.safetensors", module, params["params"], TINY)
    assert ip_adapter_files.recognised(tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="image_encoder does not exist: an IP-Adapter needs the image encoder"):
        ip_adapter.opened(tmp_path / "a.safetensors", TINY)


@pytest.mark.extended
def test_a_mask_is_a_weight_at_the_grid_of_each_layer():
    module = ip_adapter_files.fresh(TINY, 3)
    weights = parameters(module.init, np.zeros((1, 3)))["params"]
    mask = np.zeros((1, 8, 8), np.float32)
    mask[:, :, 4:] = 1
    ((_, _, weight),) = ip_adapter.prompt(
        module, weights, np.ones((1, 3)), np.ones(1) / 2, mask, TINY.extra_layers(4, 4)
    )
    np.testing.assert_allclose(weight, [[0, 0.5] * 2], atol=0.06)  # bicubic, which overshoots at the edge
    ((_, _, weight),) = ip_adapter.prompt(module, weights, np.ones((1, 3)), np.ones(1) / 2)
    np.testing.assert_array_equal(weight, [[0.5]])


def test_masks_of_a_grid_that_is_no_square_are_of_its_rows_and_columns():
    """Halves of 6 rows and quarters of 8 columns: both lie between two pixels, of (-3, 19, 19, -3) / 32 about them."""
    rng = np.random.default_rng(0)
    rows, columns = rng.random((2, 6)), rng.random((2, 8))
    masks = np.float32(rows[:, :, None] * columns[:, None])
    pairs = [("keys", "values")]
    module = types.SimpleNamespace(apply=lambda params, features: pairs)
    layers = (ExtraLayer(4, 3, 2),)
    ((*pair, weight),) = ip_adapter.prompt(module, {}, None, np.array([0.5, 2.0], np.float32), masks, layers)
    taps = np.array([-3, 19, 19, -3]) / 32
    at_rows = [np.take(rows, np.clip(2 * i + np.arange(-1, 3), 0, 5), 1) @ taps for i in range(3)]
    at_columns = [np.take(columns, 4 * j + np.arange(4), 1) @ taps for j in range(2)]
    grid = np.stack(at_rows, 1)[:, :, None] * np.stack(at_columns, 1)[:, None]
    assert pair == ["keys", "values"]
    np.testing.assert_allclose(weight, [[0.5], [2.0]] * grid.reshape(2, 6), rtol=1e-5, atol=1e-6)


def test_keys_and_values_are_computed_once_for_a_request():
    """What is evaluated at each step has no product of matrices; without a mask it is that of `prompt`."""
    module = ip_adapter_files.fresh(TINY, 3)
    weights = parameters(module.init, np.zeros((1, 3)))["params"]
    one = ip_adapter.attachment(module, weights, TINY, Colours(), {})
    params = {"adapter": weights, "encoder": {}}
    picture = jnp.asarray(drawn("picture", 1, 28, 28, 3))
    (seen, _), weight = one.encode(params, picture), jnp.ones(1) / 2
    step = lambda seen, weight: one.entries(params, weight, seen, jnp.zeros((1, 4, 4, 2)))
    assert "dot_general" not in str(jax.make_jaxpr(step)(seen, weight))
    direct = ip_adapter.prompt(module, weights, picture.mean((1, 2)), weight)
    jax.tree.map(np.testing.assert_array_equal, step(seen, weight)["extra"], (direct,))


@pytest.mark.parametrize("reads_tokens", [False, True])
def test_without_a_picture_an_adapter_reads_what_its_encoder_gives_of_none(reads_tokens, monkeypatch):
    monkeypatch.setattr(prompt_features, "width", lambda encoder, whole: 3)
    monkeypatch.setattr(prompt_features, "image_features", lambda encoder, params, images, whole: images + whole)
    monkeypatch.setattr(prompt_features, "absent", lambda encoder, params, whole: params * 7 + whole)
    projection = types.SimpleNamespace(reads_tokens=reads_tokens, features=3)
    apply = lambda variables, features: [(features, variables["params"])]
    module = types.SimpleNamespace(projection=projection, widths=ip_adapter_files.widths(TINY), apply=apply)
    one = ip_adapter.attachment(module, 5, TINY, None, 2)
    assert one.encode(one.params, np.full(3, 4)) == ([(pytest.approx(4 + reads_tokens), 5)], [(14 + reads_tokens, 5)])


def test_two_image_prompts_stand_side_by_side():
    both = conditions.added(conditions.added({"text": 0}, {"extra": (1,)}), {"extra": (2, 3)})
    assert both == {"text": 0, "extra": (1, 2, 3)}
