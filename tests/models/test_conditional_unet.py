"""The U-Net of Stable Diffusion: its adapter entries beside diffusers', its sizes, its errors, and the layers around
it.

Its outputs are compared with diffusers' in tests/models/interchange.
"""

import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.models import interchange
from diffusion.models.interchange import folders, tensor_files
from diffusion.published.stable_diffusion import table as conditional_unet_tables
from diffusion.published.stable_diffusion.control_net import ControlNet
from diffusion.published.stable_diffusion.network import ConditionalUNet, residual_shapes
from diffusion.published.stable_diffusion.table import FAMILY, PUBLISHED
from tests.models.interchange import published
from tests.peers.made_weights import made

TINY = ConditionalUNet(
    widths=(16, 32),
    depths=(2, 0),
    heads=(2, 4),
    text_width=12,
    layers=1,
    groups=4,
    added_width=20,
    size_width=2,
    strength_width=6,
)
slow = pytest.mark.slow


def inputs(batch=2, channels=4, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    condition = {
        "text": draw(batch, 5, 12),
        "pooled": draw(batch, 8),
        "size": 10 + draw(batch, 6),
        "strength": 5 + draw(batch),
    }
    return draw(batch, 8, 4, channels), jnp.linspace(900.0, 10.0, batch), condition


def drawn(module, *arguments):
    """Parameters that are nowhere zero, as those of the last convolutions would be at the start."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(0.2 * rng.normal(size=s.shape), jnp.float32), shapes)


@partial(jax.jit, static_argnums=0)
def apply(module, variables, *arguments):
    return module.apply(variables, *arguments)


@pytest.fixture(scope="module")
def variables():
    return drawn(TINY, *inputs())


def zeros(x):
    """Doors that are open and let nothing in."""
    residuals = tuple(jnp.zeros((x.shape[0], *shape)) for shape in residual_shapes(TINY, *x.shape[1:3]))
    prompt = tuple((jnp.zeros((x.shape[0], 3, layer.width)),) * 2 for layer in TINY.extra_layers(*x.shape[1:3]))
    return {"residuals": residuals, "extra": (prompt,)}


@slow
def test_adapter_entries_are_diffusers(tmp_path):
    """ControlNet's residuals and IP-Adapter's tokens, with the projections that the peer made from the same names."""
    case = published.case("conditional_unet_adapters")
    (module, params), a = interchange.load(case.folder(tmp_path)), case.inputs
    residuals = tuple(a[key] for key in sorted(a) if key.startswith("residual_"))
    assert [r.shape[1:] for r in residuals] == list(residual_shapes(module, 4, 4))
    project = lambda i, which, width: a["image"] @ made(f"ip {i} {which}", (width, a["image"].shape[-1])).T
    widths = [layer.width for layer in module.extra_layers(4, 4)]
    extra = (tuple((project(i, "k", w), project(i, "v", w)) for i, w in enumerate(widths)),)
    text = {"text": a["text"]}
    for key, entry in {"controlled": {"residuals": residuals}, "prompted": {"extra": extra}}.items():
        out = apply(module, {"params": params}, a["x"], a["t"], {**text, **entry})
        plain = apply(module, {"params": params}, a["x"], a["t"], text)
        assert np.abs(out - plain).max() > 0.01
        np.testing.assert_allclose(out, case.outputs[key], atol=1e-4 * np.abs(case.outputs[key]).max())


@slow
def test_adapter_entries_of_zeros_change_nothing(variables):
    x, t, condition = inputs()
    plain = apply(TINY, variables, x, t, condition)
    for name, zero in zeros(x).items():
        np.testing.assert_array_equal(apply(TINY, variables, x, t, {**condition, name: zero}), plain)


def test_residuals_and_pairs_have_the_published_shapes():
    """Of Stable Diffusion 1.5 and XL at their picture sizes: ControlNet's 13 places, IP-Adapter's 16 and 70 pairs."""
    sd_1 = FAMILY.build(PUBLISHED["Stable Diffusion 1.x"])
    xl = FAMILY.build(PUBLISHED["Stable Diffusion XL"])
    assert residual_shapes(sd_1, 64, 64) == (
        (64, 64, 320),
        (64, 64, 320),
        (64, 64, 320),
        (32, 32, 320),
        (32, 32, 640),
        (32, 32, 640),
        (16, 16, 640),
        (16, 16, 1280),
        (16, 16, 1280),
        (8, 8, 1280),
        (8, 8, 1280),
        (8, 8, 1280),
        (8, 8, 1280),
    )
    assert residual_shapes(xl, 128, 96)[3:] == (
        (64, 48, 320),
        (64, 48, 640),
        (64, 48, 640),
        (32, 24, 640),
        (32, 24, 1280),
        (32, 24, 1280),
        (32, 24, 1280),
    )
    widths = tuple(layer.width for layer in sd_1.extra_layers(64, 64))
    assert widths == (320, 320, 640, 640, 1280, 1280, *[1280] * 4, *[640] * 3, *[320] * 3)
    assert sd_1.extra_layers(64, 48)[2] == (640, 32, 24)
    assert len(xl.extra_layers(128, 128)) == 2 * 2 + 2 * 10 + 10 + 3 * 10 + 3 * 2


SEGMIND = pytest.mark.parametrize(
    "down, up, millions",
    [  # published as of 1.3 and 0.74 billion
        ([1, [2, 2], [4, 4]], [[4, 4, 10], [2, 1, 1], 1], 1331),
        ([1, [1, 1], [2, 2]], [[2, 2, 2], [1, 1, 1], 1], 745),
    ],
)


def segmind(down, up):
    """SSD-1B and Segmind-Vega: SDXL with fewer transformers, and one residual block in the middle."""
    return FAMILY.build(
        {
            **PUBLISHED["Stable Diffusion XL"],
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": down,
            "reverse_transformer_layers_per_block": up,
        }
    )


@SEGMIND
def test_uneven_depths_have_a_pair_for_each_cross_attention(down, up, millions):
    small = segmind(down, up)
    assert len(small.extra_layers(64, 64)) == sum(down[1] + down[2] + up[0] + up[1])
    table = conditional_unet_tables.table(small, "diffusers")
    assert len({row.theirs for row in table if row.theirs.endswith("attn2.to_q.weight")}) == len(
        small.extra_layers(64, 64)
    )


@slow
@SEGMIND
def test_segminds_small_xl_has_its_published_size(down, up, millions):
    leaves = folders.leaves_of(folders.shapes_of(conditional_unet_tables.FAMILY, segmind(down, up)))
    assert round(sum(np.prod(leaf.shape) for leaf in leaves.values()) / 1e6) == millions


@pytest.mark.parametrize(
    ("listing", "name"),
    [("sd15", "Stable Diffusion 1.x"), ("sd21", "Stable Diffusion 2.x"), ("sdxl", "Stable Diffusion XL")],
)
def test_published_configs_are_the_peers(listing, name):
    assert FAMILY.build(published.listing(f"conditional_unet_full_{listing}")[0]) == FAMILY.build(PUBLISHED[name])


@slow
@pytest.mark.parametrize(
    ("listing", "channels", "name"),
    [
        ("sd15", 4, "Stable Diffusion 1.x"),
        ("sd21", 4, "Stable Diffusion 2.x"),
        ("sdxl", 4, "Stable Diffusion XL"),
        ("sd15", 9, "Stable Diffusion 1.x inpainting"),
    ],
)
def test_single_files_are_recognised(listing, channels, name):
    """Under the original names, as they stand beside an autoencoder and an averaged copy in one file."""
    _, shapes = published.listing(f"conditional_unet_original_full_{listing}")
    shapes = {f"model.diffusion_model.{key}": shape for key, shape in shapes.items()}
    shapes["model.diffusion_model.input_blocks.0.0.weight"] = (320, channels, 3, 3)
    shapes |= {"first_stage_model.decoder.conv_in.bias": (512,), "model_ema.decay": ()}
    names = dict.fromkeys(shapes, pathlib.Path("file.safetensors")), dict(zip(shapes, shapes))
    found = folders.recognise(tensor_files.Tensors(pathlib.Path("file.safetensors"), *names, shapes))
    assert found.module == FAMILY.build(PUBLISHED[name]) and found.layout == "original"


@slow
def test_the_single_file_of_a_control_net_is_recognised():
    """As the authors' files have it, control_v11p_sd15_canny for example."""
    _, shapes = published.listing("control_net_original_full_sd15")
    shapes = {f"control_model.{key}": shape for key, shape in shapes.items()}
    names = dict.fromkeys(shapes, pathlib.Path("file.safetensors")), dict(zip(shapes, shapes))
    found = folders.recognise(tensor_files.Tensors(pathlib.Path("file.safetensors"), *names, shapes))
    assert found.layout == "original" and found.module.hint_widths == (16, 32, 96, 256)
    assert found.module.unet == FAMILY.build(PUBLISHED["Stable Diffusion 1.x"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (2, 8, 5, 4)}, "height 8 and width 5 must be multiples of 2"),
        ({"x": (2, 8, 4, 9)}, r"images \[B, H, W, 4\]"),
        ({"t": (3,)}, r"one time for each example, t \[B\]"),
        ({"text": (2, 5, 13)}, r"'text' must be \[B, M, E\] = \[2, M, 12\]; got shape \(2, 5, 13"),
        ({"text_mask": (2, 4)}, r"'text_mask' must be \[B, M\] = \(2, 5\); got"),
        ({"pooled": (2, 7)}, r"P \+ 2 n = 20; got shapes \(2, 7\) and \(2, 6\)"),
        ({"strength": (2, 1)}, r"'strength' must be \[B\] = \(2,\); got"),
        ({"strength": None}, "has no 'strength'"),
        ({"txet": (2, 5, 12)}, "'txet', which this network does not know"),
        ({"residuals": [(2, 8, 4, 16)]}, "'residuals' must have 5 entries in this U-Net; got 1"),
        ({"residuals": [(2, 8, 4, 16), (2, 8, 4, 16), (2, 8, 4, 16), (2, 4, 2, 32), (2, 4, 2, 32)]}, "entry 2 must"),
        ({"extra": [[(2, 3, 16)] * 2] * 2}, "'extra' must be a tuple of image prompts"),
    ],
)
def test_wrong_input_is_refused_in_words(change, message):
    x, t, condition = inputs()
    entries = {"x": x, "t": t, **condition}
    entries |= jax.tree.map(jnp.zeros, change, is_leaf=lambda a: isinstance(a, tuple))
    x = entries.pop("x")
    t = entries.pop("t")
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(TINY.init, jax.random.key(0), x, t, {k: v for k, v in entries.items() if v is not None})


@pytest.mark.parametrize(
    ("kind", "entry", "message"),
    [
        ("timestep", None, "has no 'label'"),
        ("timestep", {"label": jnp.zeros((2, 1))}, r"'label' must.*; got shape \(2, 1\)"),
        ("table", {"label": jnp.zeros(2)}, r"'label' must be int \[B\] = \(2,\); got shape \(2,\), dtype float32"),
        ("projection", {"pooled": jnp.zeros((2, 4))}, r"'pooled' must be \[B, P\] = \(2, 3\); got"),
    ],
)
def test_what_is_embedded_like_a_class_is_looked_at(kind, entry, message):
    x, t, condition = inputs()
    module = TINY.clone(added_width=0, class_embedding=kind, class_width=3 * (kind != "timestep"))
    entries = {"text": condition["text"], "strength": condition["strength"], **(entry or {})}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), x, t, entries)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (1,)}, "one number for each level"),
        ({"heads": (3, 4)}, "heads=3 must divide 16, the width"),
        ({"groups": 5}, "groups=5"),
        ({"layers": 0}, "layers=0 must be positive"),
        ({"middle": -1}, "or positive"),
        ({"strength_width": 7}, "strength_width=7 must be even"),
        ({"remat": "some"}, "remat='some' is not known"),
        ({"dtype": "float16"}, "dtype='float16' is not known"),
        ({"up_depths": (2,)}, r"up_depths=\(2,\) has 1 entries, but there are 2 levels"),
        ({"depths": ((2, 1), 0)}, r"must be 0 \(.*a positive number for each of the 1 residual blocks"),
        ({"up_depths": ((2, 0), 0)}, "positive number for each of the 2 residual blocks"),
        ({"up_depths": (2, 1)}, "have attention at the same levels"),
        ({"bare_middle": True}, "transformer in the middle; middle=1 must then be 0"),
        ({"class_embedding": "identity"}, "class_embedding='identity' is not known"),
        ({"class_embedding": "table"}, "class_width=0 must be positive"),
        ({"class_width": 3}, "class_width=3 must be positive for .* and 0 for others"),
        ({"class_embedding": "projection", "class_width": 3}, "both read 'pooled'"),
    ],
)
def test_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        TINY.clone(**fields)


@slow
def test_the_house_around_it(variables):
    """A guided sample of three steps reads the prompt, and a training step moves every parameter."""
    schedule = schedules.scaled_linear()
    parameterization = parameterizations.epsilon(parameterizations.steps())
    x, _, condition = inputs()
    null = {**condition, "text": jnp.zeros_like(condition["text"])}
    network = lambda variables: lambda x, t, c: TINY.apply(variables, x, t, c)
    plan = timesteps.plan(timesteps.trailing(schedule, 3))

    @jax.jit
    def sample(variables, scale):
        branches = guidance.together(network(variables), schedule, parameterization, (condition, null))
        denoise = guidance.classifier_free(branches, scale)
        return samplers.sample(samplers.ddim(), denoise, schedule, x, plan, jax.random.split(jax.random.key(0), 2))

    outputs = [sample(variables, scale) for scale in (1.0, 4.0)]
    assert jnp.isfinite(jnp.stack(outputs)).all()
    assert jnp.abs(outputs[0] - outputs[1]).max() > 1e-3

    objective = objectives.denoising(
        parameterization, weightings.constant(parameterization), timesteps.discrete_density(schedule)
    )

    @jax.jit
    @jax.grad
    def gradient(variables):
        keys = jax.random.split(jax.random.key(1), 2)
        batch = {"x": x, "condition": condition, "index": jnp.arange(2)}
        losses, _ = objective({"model": network(variables)}, schedule, keys, batch, 0)
        return losses.mean()

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables)):
        assert jnp.isfinite(leaf).all() and (leaf != 0).any(), jax.tree_util.keystr(path)


@slow
def test_remat_changes_nothing():
    x, t, condition = inputs()
    condition = {"text": condition["text"]}
    plain = ConditionalUNet(widths=(16,), depths=(1,), heads=(2,), text_width=12, layers=1, middle=0, groups=4)
    variables = drawn(plain, x, t, condition)
    loss = lambda module: jax.jit(jax.grad(lambda v: jnp.mean(module.apply(v, x, t, condition) ** 2)))
    gradients = [jax.tree.leaves(loss(plain.clone(remat=remat))(variables)) for remat in ("none", "full")]
    for a, b in zip(*gradients):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * jnp.abs(a).max())


@slow
def test_the_residuals_of_a_control_net_fit_the_unet():
    """Its residuals go where the U-Net takes them, and add nothing at the start; a hint of another size is refused."""
    x, t, condition = inputs()
    control = ControlNet(TINY, (4, 6))
    hint = jnp.ones((2, 16, 8, 3))
    variables = jax.jit(control.init)(jax.random.key(0), x, t, condition, hint)
    residuals = apply(control, variables, x, t, condition, hint)
    assert all((residual == 0).all() for residual in residuals)
    entries = {**condition, "residuals": residuals}
    assert jax.eval_shape(TINY.init_with_output, jax.random.key(0), x, t, entries)[0].shape == x.shape
    with pytest.raises(ValueError, match=r"2 times the height and width of x, \(2, 16, 8, 3\); got \(2, 8, 4, 3\)"):
        control.init(jax.random.key(0), x, t, condition, hint[:, :8, :4])
