"""The U-Nets without text in training and sampling, their adapter entries, their published sizes, and what they refuse.

What they compute is compared with other libraries in tests/models/interchange/test_families.py, and what they have in
common with all other backbones is in tests/models/test_conformance.py.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.models.edm2_unet import EDM2UNet, edm2_preset
from diffusion.models.layers import magnitude
from diffusion.models.song_unet import SongUNet, song_unet_preset
from diffusion.models.unet import UNet, unet_preset
from diffusion.training import ema, optimizers, state, step

SMALL = {"widths": (16, 32), "blocks": 1, "attention_levels": (1,), "groups": 8}
NETWORKS = {
    "ddpm": UNet(**SMALL, padding="end", frequency_shift=1, sines_first=True),
    "adm": UNet(**SMALL, num_classes=3, scale_shift=True, resample="block", heads=None, head_size=8, out_channels=6),
    "song": SongUNet(
        8, 16, (1, 2), 1, (4,), 3, 9, clock="fourier", encoder="residual", decoder="skip", taps=(1, 3, 3, 1)
    ),
    "edm2": EDM2UNet(8, 16, (1, 2), 1, (4,), num_classes=3, head_size=16),
}
FIXED = "frequencies|phases"  # drawn once and kept
LABELS = jnp.array([2, 3])  # the null class is 3
each = pytest.mark.parametrize("name", NETWORKS)


def inputs(model):
    """An image that is not square, two times, and labels for a conditional network."""
    x = jax.random.normal(jax.random.key(1), (2, 8, 4, 3))
    return x, jnp.array([-0.9, 0.4]), LABELS if model.num_classes else None


@functools.cache
def build(name):
    """A network with parameters that are nowhere zero, as some are at the start."""
    model = NETWORKS[name]
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs(model))["params"]
    rng = np.random.default_rng(0)
    fan_in = lambda shape: np.prod(shape[:-1]) if len(shape) > 1 else 4
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(fan_in(leaf.shape)), leaf.dtype)
    return model, jax.tree.map(draw, shapes)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(model, params, x, t, condition, **options):
    return model.apply({"params": params}, x, t, condition, **options)


def recipe(name):
    """(schedule, what the network predicts, objective): EDM's for EDM's networks, DDPM's for the others."""
    if name in ("song", "edm2"):
        schedule = schedules.edm()
        parameterization = parameterizations.edm()
        return (
            schedule,
            parameterization,
            objectives.denoising(parameterization, weightings.edm(), timesteps.log_normal(schedule)),
        )
    schedule = schedules.linear_beta()
    parameterization = parameterizations.epsilon(parameterizations.steps(1000))
    density = timesteps.discrete_density(schedule)
    if name == "adm":
        learned = parameterizations.learned_variance(parameterization)
        return schedule, learned, objectives.hybrid(parameterization, density)
    return schedule, parameterization, objectives.denoising(parameterization, weightings.snr(), density)


@pytest.mark.slow
@each
def test_it_learns_and_samples(name):
    model, params = build(name)
    schedule, parameterization, objective = recipe(name)
    network = lambda params, x, t, condition: model.apply({"params": params}, x, t, condition)
    keys = jax.random.split(jax.random.key(2), 2)
    x, _, labels = inputs(model)
    condition = {"label": labels, "augment": 0.1 * jnp.ones((2, 9))} if name == "song" else labels
    batch = {"x": jnp.tanh(x), "condition": condition, "index": jnp.arange(2)}

    optimizer = optimizers.adamw(1e-3)
    if name == "edm2":
        optimizer = magnitude.forcing(optimizer)
    average = ema.exponential_moving_average(0.9)
    update = jax.jit(step.make_train_step(objective, network, schedule, optimizer, average))
    trained = state.create(params, optimizer, average)
    losses = []
    for _ in range(30):
        trained, metrics = update(trained, batch, jax.random.key(3))
        losses.append(float(metrics["loss"]))
        trained = trained._replace(step=jnp.zeros_like(trained.step))  # the same draws again
    assert trained.failed_at == -1
    assert losses[-1] < losses[0], losses
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.tree.map(jnp.subtract, trained.params, params)):
        path = jax.tree_util.keystr(path)
        assert (np.abs(leaf).max() > 0) != bool(re.search(FIXED, path)), path

    denoise = parameterizations.denoiser(
        functools.partial(network, trained.params), schedule, parameterization, condition=condition
    )
    grid = timesteps.karras(schedule, 3) if name in ("song", "edm2") else timesteps.uniform(schedule, 3)
    noise = jax.random.normal(jax.random.key(4), x.shape)
    start = noise * schedule.sigma(schedule.t_max)
    plan = timesteps.plan(grid)
    samples = jax.jit(lambda x: samplers.sample(samplers.ddim(), denoise, schedule, x, plan, keys))(start)
    assert samples.shape == x.shape
    assert np.isfinite(samples).all()
    assert np.abs(samples - start).max() > 0.1


@pytest.mark.slow
@each
def test_remat_keeps_less(name):
    """Traced alone: what the backward pass finds kept."""
    model, params = build(name)
    kept = {}
    for remat in ("none", "dots", "full"):
        other = model.clone(remat=remat)
        call = lambda params, other=other: other.apply({"params": params}, *inputs(other))
        _, pullback = jax.eval_shape(lambda params, call=call: jax.vjp(call, params), params)
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(pullback))
    assert kept["full"] < kept["dots"] < kept["none"]


@pytest.mark.slow
def test_remat_changes_nothing():
    model, params = build("adm")
    gradient = jax.jit(
        jax.grad(lambda params, model: jnp.mean(model.apply({"params": params}, *inputs(model)) ** 2)), static_argnums=1
    )
    plain = gradient(params, model)
    again = gradient(params, model.clone(remat="full"))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * jnp.abs(a).max() + 1e-9)


@pytest.mark.slow
@each
def test_residuals_dropout_and_the_null_class(name):
    """Residuals are added to the skips and the middle; dropout is drawn in training alone; other labels give NaN."""
    model, params = build(name)
    x, t, labels = inputs(model)
    # [conv_in, block, resample, block], middle
    sides = [(8, 4, 16), (8, 4, 16), (4, 2, 16), (4, 2, 32), (4, 2, 32)]
    zeros = [jnp.zeros((2, *side)) for side in sides]
    entries = lambda residuals, labels=labels: (
        {"residuals": tuple(residuals)} | ({} if labels is None else {"label": labels})
    )
    plain = apply(model, params, x, t, entries(zeros))
    for i, place in enumerate(zeros):
        output = apply(model, params, x, t, entries([*zeros[:i], place.at[0].set(1), *zeros[i + 1 :]]))
        assert np.abs(output[0] - plain[0]).max() > 1e-3
        np.testing.assert_allclose(output[1], plain[1], rtol=1e-4, atol=1e-5)
    if labels is not None:
        assert np.isnan(apply(model, params, x, t, entries(zeros, jnp.array([-1, 4])))).all()
    model = model.clone(dropout=0.5)
    np.testing.assert_array_equal(apply(model, params, x, t, entries(zeros)), plain)  # without keys nothing is drawn
    draw = lambda keys: apply(model, params, x, t, labels, dropout_keys=keys)
    keys = jax.random.split(jax.random.key(0), 4)
    drawn, other = draw(keys[:2]), draw(keys[jnp.array([0, 3])])
    np.testing.assert_allclose(drawn[0], other[0], rtol=1e-4, atol=1e-5)  # each example by its own key
    assert np.abs(drawn[1] - other[1]).max() > 0.01 < np.abs(drawn - plain).max()


def parameters(model):
    """Number of a network's parameters."""
    side = 2 ** (len(model.widths) - 1)
    x = jax.ShapeDtypeStruct((1, side, side, getattr(model, "in_channels", 0) or model.channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, t, label if model.num_classes else None)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "millions"),
    [
        # Ho et al. 2020, appendix B
        (unet_preset("ddpm-cifar10"), 35.7), (unet_preset("ddpm-256"), 114),
        # Dhariwal & Nichol 2021, table 12
        (unet_preset("adm-64", 1000), 296), (unet_preset("adm-128", 1000), 422), (unet_preset("adm-256", 1000), 554),
        (unet_preset("adm-512", 1000), 559),
        # Karras et al. 2022, table 7 (CIFAR-10 and FFHQ)
        (song_unet_preset("ddpmpp-cifar10"), 56), (song_unet_preset("ncsnpp-cifar10"), 56),
        (song_unet_preset("ddpmpp-64"), 62), (song_unet_preset("ncsnpp-64"), 63),
        # Karras et al. 2024, table 2
        (edm2_preset("XS/512"), 124.7), (edm2_preset("S/512"), 280.2), (edm2_preset("M/512"), 497.8),
        (edm2_preset("L/512"), 777.5), (edm2_preset("XL/512"), 1119.3), (edm2_preset("XXL/512"), 1523.2),
    ],
)  # fmt: skip
def test_published_sizes(model, millions):
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.06 if millions % 1 else 0.5)


@pytest.mark.parametrize(
    ("network", "fields", "message"),
    [
        (UNet, {"widths": (16, 20)}, "groups=8 must divide every width"),
        (UNet, {"widths": ()}, r"widths=\(\) must be one width for each level"),
        (UNet, {"attention_levels": (2,)}, "there is no level 2. Valid: 0 .. 1"),
        (UNet, {"head_size": 8}, "heads=1 and head_size=8: set one"),
        (UNet, {"heads": 3}, "heads=3 does not divide the width 32 of level 1"),
        (UNet, {"resample": "pool"}, "resample='pool' is not known. Valid: 'conv', 'block'"),
        (UNet, {"dropout": 1.0}, "dropout=1.0"),
        (UNet, {"middle_groups": 5}, "middle_groups=5 must be 0, or divide the width 32"),
        (UNet, {"vector_embedding": "time"}, "vector_width=0 must be 1 with vector_embedding='time'"),
        (UNet, {"vector_width": 8, "vector_embedding": "identity"}, "vector_width=8 must be 64"),
        (SongUNet, {"clock": "fourrier"}, "clock='fourrier'.*mean 'fourier'"),
        (SongUNet, {"taps": (1, 2, 1)}, r"taps=\(1, 2, 1\).*even number"),
        (SongUNet, {"resolution": 9}, "resolution=9 cannot be halved 1 times"),
        (EDM2UNet, {"head_size": 24}, "head_size=24 does not divide the 32 channels of level 1"),
        (EDM2UNet, {"concat_balance": 1.5}, "concat_balance=1.5"),
        (EDM2UNet, {"resolution": 9}, "resolution=9 cannot be halved 1 times"),
    ],
)
def test_bad_fields_are_refused_where_they_are_written(network, fields, message):
    good = {
        UNet: SMALL,
        SongUNet: {"resolution": 8, "width": 16, "multipliers": (1, 2)},
        EDM2UNet: {"resolution": 8, "width": 16, "multipliers": (1, 2), "head_size": 16, "attention_resolutions": (4,)},
    }[network]
    with pytest.raises(ValueError, match=message):
        network(**{**good, **fields})


@pytest.mark.extended
def test_residuals_that_do_not_fit_are_refused():
    x = jnp.zeros((2, 8, 4, 3))
    t = jnp.zeros(2)
    wide = jnp.zeros((2, 8, 4, 8))
    for residuals, message in [
        ((wide,), "'residuals' must have 5 arrays in this U-Net, for 4 skips"),
        ((wide,) * 5, r"'residuals'\[0\] must have the shape \(2, 8, 4, 16"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(NETWORKS["ddpm"].init, jax.random.key(0), x, t, {"residuals": residuals})


def test_presets():
    assert unet_preset("adm-512", 1000).widths == (128, 256, 256, 512, 512, 1024, 1024)
    assert song_unet_preset("ncsnpp-64", dropout=0.25).dropout == 0.25
    assert edm2_preset("XXL/512").width == 448
    with pytest.raises(ValueError, match=r"name='adm-46' is not known.*mean 'adm-64'"):
        unet_preset("adm-46")
    with pytest.raises(ValueError, match="'XXS/64' is not known"):
        edm2_preset("XXS/64")


class Clock(SongUNet):
    """The embedding of the time alone."""

    @nn.compact
    def __call__(self, t):
        return self._embedding(t, {})


@pytest.mark.parametrize("clock", ["positional", "fourier"])
def test_song_unet_has_the_sines_of_its_clock_first(clock):
    """Karras et al.'s networks swap the halves [cos, sin] of both kinds of features; layers of ones show them."""
    model = Clock(8, 8, (1,), 1, (), clock=clock)
    t = np.array([0.7, -1.3])
    identity = {"kernel": jnp.eye(8, 32), "bias": jnp.zeros(32)}
    params = {"time_hidden": identity, "time_out": {"kernel": jnp.eye(32), "bias": jnp.zeros(32)}}
    if clock == "fourier":
        frequencies = np.array([0.3, 1.1, -0.4, 2.0])
        params["frequencies"] = jnp.asarray(frequencies, jnp.float32)
        frequencies = 2 * np.pi * frequencies
    else:
        frequencies = 10_000.0 ** (-np.arange(4) / 3)
    found = model.apply({"params": params}, jnp.asarray(t, jnp.float32))
    features = np.concatenate([np.sin(np.outer(t, frequencies)), np.cos(np.outer(t, frequencies))], 1)
    np.testing.assert_allclose(found[:, :8], features / (1 + np.exp(-features)), rtol=1e-5, atol=1e-6)  # its silu


TINY = {"widths": (8,), "blocks": 1, "groups": 4, "in_channels": 1, "out_channels": 1}


@pytest.mark.extended
def test_song_unets_random_frequencies_have_a_deviation_of_16():
    """128 of them: within five standard errors."""

    class Embedding(SongUNet):
        @nn.compact
        def __call__(self, t):
            return self._embedding(t, {"label": None, "augment": None})

    drawn = Embedding(8, 128, (1,), 1, clock="fourier").init(jax.random.key(0), jnp.ones(1))["params"]["frequencies"]
    assert np.std(drawn) == pytest.approx(16, rel=5 / np.sqrt(2 * drawn.size))


@pytest.mark.extended
def test_a_vector_is_added_as_it_is_or_embedded_as_the_time_is():
    """A number embedded by layers of its own is the same as its embedding, made in numpy, as a vector."""
    by_number = UNet(**TINY, vector_width=1, vector_embedding="time")
    as_it_is = UNet(**TINY, vector_width=32, vector_embedding="identity")
    x = jax.random.normal(jax.random.key(1), (2, 2, 2, 1))
    t, numbers = jnp.array([3.0, 700.0]), np.array([[5.0], [20.0]])
    shapes = jax.eval_shape(by_number.init, jax.random.key(0), x, t, jnp.array(numbers, jnp.float32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    angles = numbers * 1e4 ** -(np.arange(4) / 4)
    h = np.concatenate([np.cos(angles), np.sin(angles)], 1) @ params["vector_hidden"]["kernel"]
    h += params["vector_hidden"]["bias"]
    h = h / (1 + np.exp(-h)) @ params["vector_out"]["kernel"] + params["vector_out"]["bias"]
    output = apply(by_number, params, x, t, jnp.array(numbers, jnp.float32))
    others = {name: leaf for name, leaf in params.items() if not name.startswith("vector")}
    expected = apply(as_it_is, others, x, t, jnp.array(h, jnp.float32))
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    swapped = apply(as_it_is, others, x, t, jnp.array(h[::-1], jnp.float32))
    assert np.abs(output - swapped).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.extended
def test_the_middle_has_its_own_gain_and_norm():
    """At the start its three sums add zeros, so that it multiplies with the third power of its gain."""
    x, t = jax.random.normal(jax.random.key(1), (1, 2, 2, 1)), jnp.array([3.0])
    network = UNet(**TINY)
    params = jax.jit(network.init)(jax.random.key(0), x, t)["params"]
    middle = jax.jit(lambda network, p: network.apply({"params": p}, x, t, features=(2,))[1][0], static_argnums=0)
    half = network.clone(middle_gain=0.5)
    np.testing.assert_allclose(middle(half, params), middle(network, params) / 8, rtol=1e-6)
    bare = network.clone(middle_groups=0)
    attention = {name: leaf for name, leaf in params["middle_attention"].items() if name != "norm"}
    kernel = jnp.ones((1, 8, 8)) / 8  # the mean of all channels of the values, in each
    attention |= {"out": {"kernel": kernel, "bias": jnp.zeros(8)}, "qkv": dict(attention["qkv"])}
    attention["qkv"]["kernel"] = jnp.zeros((8, 3, 1, 8)).at[:, 2, 0].set(jnp.eye(8))
    attention["qkv"]["bias"] = jnp.zeros((3, 1, 8))
    plain = middle(network, params)
    np.testing.assert_allclose(
        middle(bare, params | {"middle_attention": attention}), plain + plain.mean(), rtol=1e-5, atol=1e-6
    )
