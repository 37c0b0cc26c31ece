"""The networks of points, series, sets and volumes: what each promises beside what all backbones do."""

import functools
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion import models, objectives, parameterizations, samplers, schedules, timesteps
from diffusion.models import MLP, SequenceTransformer, SetTransformer, UNet
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.models.layers.convolutions import ResnetBlock
from diffusion.models.layers.embeddings import rotate
from diffusion.models.layers.image_attention import ImageAttention
from diffusion.models.layers.resampling import double, halve
from diffusion.models.sequence_transformer import line_angles
from diffusion.recipe import ConfigError, checks
from diffusion.recipe.parts import Resolver
from tests import drawn_parameters, oracles
from tests.conformance import slow_but
from tests.models import backbones
from tests.recipe.test_resolve import changed

NAMES = (
    "mlp",
    "sequence_transformer",
    "set_transformer",
    "set_transformer, summaries",
    "unet, series",
    "unet, volumes",
)


def network(name):
    backbone = backbones.BACKBONES[name]
    params = backbones.parameters(backbone)
    return functools.partial(backbone.module.apply, {"params": params}), *backbones.inputs(backbone)


@pytest.mark.extended
@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_a_new_network_puts_out_zeros(name):
    backbone = backbones.BACKBONES[name]
    inputs = backbones.inputs(backbone)
    output = jax.jit(backbone.module.init_with_output)(jax.random.key(0), *inputs)[0]
    np.testing.assert_array_equal(output, np.zeros_like(inputs[0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_forward_and_reverse_mode_agree(name):
    """<u, J v> = <J^T u, v>, for the derivative by x and t."""
    apply, x, t, condition = network(name)
    f = lambda x, t: apply(x, t, condition)
    u = jax.random.normal(jax.random.key(0), x.shape)
    v = (jax.random.normal(jax.random.key(1), x.shape), jnp.ones_like(t))
    forward = jax.jit(lambda: jnp.vdot(u, jax.jvp(f, (x, t), v)[1]))()
    back = jax.jit(lambda: sum(map(jnp.vdot, jax.vjp(f, x, t)[1](u), v)))()
    assert abs(forward) > 1e-3
    np.testing.assert_allclose(forward, back, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["set_transformer", "set_transformer, summaries"])
def test_a_set_has_no_order(name):
    apply, x, t, condition = network(name)
    order = np.random.default_rng(0).permutation(x.shape[1])
    output = apply(x, t, condition)
    np.testing.assert_allclose(apply(x[:, order], t, condition), output[:, order], rtol=1e-4, atol=1e-5)
    assert np.abs(output - output[:, order]).max() > 1e-2


@pytest.mark.slow
def test_a_sequence_has_an_order():
    apply, x, t, condition = network("sequence_transformer")
    assert np.abs(apply(x[:, ::-1], t, condition)[:, ::-1] - apply(x, t, condition)).max() > 1e-2


def test_the_angles_of_a_line_are_the_positions_times_frequencies_in_two_rows():
    """out[n, j, i] = n w[2 i + j], w[k] = theta^(-k / (head_size / 2))."""
    angles = line_angles(3, 16, theta=256.0)
    for n, j, i in np.ndindex(3, 2, 4):
        np.testing.assert_allclose(angles[n, j, i], n * 256.0 ** (-(2 * i + j) / 8), rtol=1e-6)


@pytest.mark.extended
def test_what_is_not_known_of_a_series_is_not_seen():
    """Given values where the mask is False, of which the data have any, change nothing."""
    module = SequenceTransformer(8, 1, 1, 2, given=True)
    x, given, other = jax.random.normal(jax.random.key(0), (3, 1, 4, 2))
    mask = jnp.asarray([[[True, False], [False, True], [True, True], [False, False]]])
    condition = {"given": given, "mask": mask, "real": jnp.ones_like(mask)}
    params = drawn_parameters.drawn(module.init, x, jnp.full(1, 0.5), condition)
    apply = jax.jit(lambda given: module.apply(params, x, jnp.full(1, 0.5), condition | {"given": given}))
    np.testing.assert_array_equal(apply(jnp.where(mask, given, jnp.nan)), apply(given))
    assert (apply(jnp.where(mask, other, given)) != apply(given)).any()


def test_attention_over_a_sequence_reads_distances():
    q, k = np.random.default_rng(0).normal(size=(2, 8))
    angles = line_angles(40, 8)
    scores = np.einsum(
        "nd,md->nm", *(rotate(jnp.tile(a, (1, 40, 1, 1)).reshape(1, 40, 1, 8), angles)[0, :, 0] for a in (q, k))
    )
    np.testing.assert_allclose(scores[3, 9], scores[27, 33], rtol=1e-4)
    assert abs(scores[3, 9] - scores[3, 10]) > 1e-3
    assert np.linalg.matrix_rank(angles.reshape(40, -1).T @ angles.reshape(40, -1)) == 1  # every frequency on one axis
    assert len(np.unique(angles[1])) == 4  # half a head of pairs, each of its own frequency


@pytest.mark.extended
def test_a_gain_passes_noise_that_a_token_cannot_hold():
    """With constant offsets o and gains g the output is o + g x, though a token of 4 features has 32 values."""
    module = SequenceTransformer(4, 1, 1, 8, input_gain=True)
    x = jax.random.normal(jax.random.key(0), (2, 16, 4))
    t = jnp.array([0.1, 0.7])
    params = module.init(jax.random.key(1), x, t)["params"]
    offset, gain = jnp.arange(32.0), jnp.linspace(0.5, 2, 32)
    params["final"]["bias"] = jnp.concatenate([offset, gain])
    expected = offset.reshape(8, 4) + gain.reshape(8, 4) * x.reshape(2, 2, 8, 4)
    np.testing.assert_allclose(module.apply({"params": params}, x, t), expected.reshape(x.shape), rtol=1e-6)


@pytest.mark.extended
@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_block_of_series_is_a_block_of_images_of_one_column(scale_shift):
    block = ResnetBlock(16, groups=4, scale_shift=scale_shift)
    x = backbones.drawn(2, 6, 8)
    embedding = backbones.drawn(2, 5)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, embedding)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)

    def middle(kernel):  # [3, C, D] -> [3, 3, C, D]: the columns beside it are the zeros of the border
        wide = np.zeros((kernel.shape[0], kernel.shape[0], *kernel.shape[1:]), np.float32)
        wide[:, kernel.shape[0] // 2] = kernel
        return wide

    of_images = jax.tree.map(lambda leaf: middle(leaf) if leaf.ndim == 3 else leaf, params)
    series = block.apply({"params": params}, x, embedding)
    images = block.apply({"params": of_images}, x[:, :, None], embedding)
    np.testing.assert_allclose(series, images[:, :, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_unet_of_volumes_and_its_gradient_are_those_of_pictures_on_equal_slices():
    """With kernels that do not look along the first axis, a volume of equal slices is a picture, layer by layer."""
    fields = {
        "widths": (8, 16),
        "blocks": 1,
        "attention_levels": (1,),
        "in_channels": 2,
        "out_channels": 2,
        "groups": 4,
    }
    of_pictures, of_volumes = UNet(**fields), UNet(**fields, axes=3)
    picture, t = backbones.drawn(2, 4, 4, 2), jnp.array([0.2, 0.7])
    volume = jnp.repeat(picture[:, None], 2, axis=1)
    shapes = jax.eval_shape(of_pictures.init, jax.random.key(0), picture, t)
    wide = jax.eval_shape(of_volumes.init, jax.random.key(0), volume, t)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), shapes)

    def embedded(params):
        """[3, 3, C, D] -> [3, 3, 3, C, D], zero but for the middle of the first axis."""
        middle = lambda leaf, of: (
            jnp.zeros(of.shape).at[of.shape[0] // 2].set(leaf) if leaf.shape != of.shape else jnp.asarray(leaf)
        )
        return jax.tree.map(middle, params, wide)

    weights = backbones.drawn(2, 4, 4, 2)
    picture_loss = lambda params: jnp.sum(weights * of_pictures.apply(params, picture, t) ** 2)
    volume_loss = lambda params: jnp.sum(weights[:, None] * of_volumes.apply(embedded(params), volume, t) ** 2) / 2
    expected, of_picture = jax.jit(jax.value_and_grad(picture_loss))(params)
    found, of_volume = jax.jit(jax.value_and_grad(volume_loss))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(of_picture))
    assert largest > 1e-2
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * largest)
    jax.tree.map(close, of_volume, of_picture)


def test_sides_change_along_every_axis():
    x = backbones.drawn(2, 4, 2, 6, 3)
    cubes = x.reshape(2, 2, 2, 1, 2, 3, 2, 3).mean((2, 4, 6))
    np.testing.assert_allclose(halve(x), cubes, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(halve(double(x)), x, rtol=1e-6)
    assert halve(x[:, :, 0, 0]).shape == (2, 2, 3) and double(x[:, :, 0, 0]).shape == (2, 8, 3)


@pytest.mark.extended
def test_attention_over_a_volume_is_attention_over_its_pixels():
    layer, volume = ImageAttention(heads=2, groups=2), backbones.drawn(2, 2, 3, 2, 4)
    picture = volume.reshape(2, 6, 2, 4)
    variables = layer.init(jax.random.key(0), picture)
    variables["params"]["out"]["kernel"] = backbones.drawn(2, 2, 4)
    output = layer.apply(variables, picture)
    assert np.abs(output - picture).max() > 0.1
    np.testing.assert_allclose(layer.apply(variables, volume), output.reshape(volume.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MLP(width=0), "width=0"),
        (lambda: MLP(norm="batch"), "norm='batch'.*layernorm"),
        (lambda: MLP(vector_width=-1), "vector_width=-1"),
        (lambda: SequenceTransformer(width=20, heads=2, positions="rope"), "width=20.*8"),
        (lambda: SequenceTransformer(width=20, heads=3), "width=20.*heads=3"),
        (lambda: SequenceTransformer(width=21, heads=3), "width=21 must be even"),
        (lambda: SequenceTransformer(positions="learned"), "positions='learned'.*sincos"),
        (lambda: SetTransformer(width=20, heads=3), "heads=3"),
        (lambda: SetTransformer(summaries=-1), "summaries=-1"),
        (lambda: UNet((8,), 1, axes=4, groups=4), "axes=4.*video"),
    ],
)
def test_bad_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.extended
def test_two_times_are_embedded_apart():
    module = MLP(16, 1, times=2)
    x = backbones.drawn(2, 3)
    t, s = jnp.full(2, 0.3), jnp.full(2, 0.6)
    variables = module.init(jax.random.key(0), x, (t, s))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variables)
    assert np.abs(module.apply(params, x, (t, s)) - module.apply(params, x, (s, t))).max() > 1e-3
    with pytest.raises(ValueError, match=r"times=2.*got 1"):
        module.apply(variables, x, t)


POINTS = {"name": "mlp", "width": 32, "depth": 2, "num_classes": 10}
SERIES = {"name": "unet", "widths": (8, 16), "blocks": 1, "groups": 4, "num_classes": 10}


@pytest.mark.extended
@pytest.mark.parametrize(
    "shape, model, field",
    [((2,), POINTS, ("shape", (2,))), ((16, 4), SERIES, ("axes", 1)), ((8, 8, 8, 1), SERIES, ("axes", 3))],
)
def test_a_config_sizes_them_by_the_data(shape, model, field):
    module = Resolver(changed(("model", model))).model(shape)
    assert getattr(module, field[0]) == field[1]
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    output, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), x, jnp.zeros(2), labels)
    assert output.shape == x.shape


@pytest.mark.parametrize("shape", [(16, 4), (8, 8, 8, 1), (2,)])
def test_a_network_of_pictures_refuses_other_ranks_and_names_those_that_do_not(shape):
    of_rank = {
        1: "mlp",
        2: "diffwave, mlp, sequence_transformer, set_transformer, unet",
        4: "autoencoder_kl, autoencoder_kl_video, cogvideox, hunyuan_video, hunyuan_video_15, ltx_video, mlp, "
        "qwen_image, unet, video_dit",
    }[len(shape)]
    config = changed()
    recipe = checks.validate(config)
    with pytest.raises(ConfigError, match=rf"config\.model\.name = 'dit', but digits holds .*Valid: {of_rank}\.$"):
        checks.with_data(recipe, types.SimpleNamespace(name="digits", shape=shape, dtype="float32"))


def wave(length, channels):
    """Means of three kinds of series, [3, length, channels]."""
    steps = np.linspace(0, 2 * np.pi, length)[:, None] + np.arange(channels)
    return np.stack([np.sin(steps), np.cos(2 * steps), 0 * steps + 0.5])


STEPS, BATCH = 400, 64
LEARNERS = {  # the network, and the means of the mixture that it learns
    "mlp": (MLP(64, 2), 1.5 * np.array([[1, 0], [-0.5, 0.87], [-0.5, -0.87]])),
    "sequence_transformer": (SequenceTransformer(64, 2, 4), wave(16, 2)),
    "set_transformer": (SetTransformer(32, 2, 2), np.tile([[[1.0, 0]], [[-1, 1]], [[0, -1]]], (1, 8, 1))),
    "set_transformer, summaries": (
        SetTransformer(32, 2, 2, 4), np.tile([[[1.0, 0]], [[-1, 1]], [[0, -1]]], (1, 8, 1))
    ),
    "unet, series": (UNet((16, 32), 1, in_channels=2, out_channels=2, groups=4, axes=1), wave(16, 2)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_a_mixture_of_gaussians(name):
    """The x0 that it predicts is E[x_0 | x_t], which is known; what is left is a small share of its variance."""
    module, means = LEARNERS[name]
    shape = means.shape[1:]
    flat = means.reshape(3, -1)
    deviation = 0.3
    data = oracles.mixture(np.ones(3) / 3, flat, np.tile(deviation**2 * np.eye(flat.shape[1]), (3, 1, 1)))
    schedule = schedules.rectified_flow()
    clock = parameterizations.velocity(clock=parameterizations.steps())
    objective = objectives.flow_matching(timesteps.uniform_density(schedule), clock=parameterizations.steps())
    draw = lambda key, number: (
        jnp.asarray(means, jnp.float32)[jax.random.randint(key, (number,), 0, 3)]
        + deviation * jax.random.normal(jax.random.fold_in(key, 1), (number, *shape))
    )
    network_of = lambda params: lambda x, t, condition: module.apply(params, x, t)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))

    def step(carry, key):
        params, state = carry

        def loss(params):
            batch = {"x": draw(key, BATCH), "index": jnp.arange(BATCH)}
            keys = jax.random.split(jax.random.fold_in(key, 2), BATCH)
            return objective.loss({"model": network_of(params)}, schedule, keys, batch, 0)[0].mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def train(params):
        carry = (params, optimizer.init(params))
        return jax.lax.scan(step, carry, jax.random.split(jax.random.key(0), STEPS))[0][0]

    params = train(module.init(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1)))
    x0 = draw(jax.random.key(7), 2000)
    t = jnp.linspace(0.1, 0.9, 2000)
    at = (slice(None), *(None,) * len(shape))
    x_t = (1 - t[at]) * x0 + t[at] * jax.random.normal(jax.random.key(8), x0.shape)
    found = parameterizations.denoiser(network_of(params), schedule, clock)(x_t, t).x0.reshape(2000, -1)
    exact = oracles.mean_x0(data, 1 - t, t, x_t.reshape(2000, -1))
    left = jnp.mean((found - exact) ** 2) / jnp.mean((exact - exact.mean(0)) ** 2)
    assert left < 0.05, left


@pytest.mark.slow
def test_the_unet_of_volumes_learns_gaussian_volumes():
    """Its loss is nearly the least that there is, and its samples have the mean and the covariance of the data.

    Of a Gaussian of eigenvalues l, the least loss is the mean over them of
    int_0^1 l / ((1 - t)^2 l + t^2) dt = sqrt(l) pi / 2, the variance that x_t leaves of eps - x_0.
    """
    side, steps, batch = 4, 400, 32
    line = 0.8 ** np.abs(np.subtract.outer(np.arange(side), np.arange(side)))
    covariance = np.kron(line, np.kron(line, line))
    least = np.sqrt(np.linalg.eigvalsh(covariance)).mean() * np.pi / 2
    root, mean = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32), 0.5
    shape = (side, side, side, 1)
    draw = lambda key, number: mean + (jax.random.normal(key, (number, side**3)) @ root.T).reshape(number, *shape)
    module = UNet((8, 16), 1, in_channels=1, out_channels=1, groups=4, axes=3)
    schedule = schedules.rectified_flow()
    velocity = parameterizations.velocity(clock=parameterizations.steps())
    objective = objectives.flow_matching(timesteps.uniform_density(schedule), clock=parameterizations.steps())
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, steps))
    network_of = lambda params: lambda x, t, condition: module.apply(params, x, t)

    def loss(params, key, number):
        x = {"x": draw(key, number), "index": jnp.arange(number)}
        keys = jax.random.split(jax.random.fold_in(key, 2), number)
        return objective({"model": network_of(params)}, schedule, keys, x, 0)[0].mean()

    @jax.jit
    def step(params, state, key):
        updates, state = optimizer.update(jax.grad(loss)(params, key, batch), state)
        return optax.apply_updates(params, updates), state

    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1))
    state = optimizer.init(params)
    for key in jax.random.split(jax.random.key(0), steps):
        params, state = step(params, state, key)
    found = float(jax.jit(loss, static_argnums=2)(params, jax.random.key(7), 1000))
    assert 0.95 * least < found < 1.2 * least, (found, least)

    keys = jax.random.split(jax.random.key(8), 500)
    denoise = parameterizations.denoiser(network_of(params), schedule, velocity)
    plan = timesteps.plan(timesteps.uniform(schedule, steps=12))
    noise = jax.random.normal(jax.random.key(9), (500, *shape))
    made = jax.jit(lambda noise: samplers.sample(samplers.heun(), denoise, schedule, noise, plan, keys))(noise)
    volumes = np.asarray(made)[..., 0] - mean
    assert abs(volumes.mean()) < 0.1
    for axis in (1, 2, 3):
        moved = np.moveaxis(volumes, axis, 1)
        for lag in range(side):
            covered = np.mean(moved[:, : side - lag] * moved[:, lag:])
            np.testing.assert_allclose(covered, 0.8**lag, atol=0.2, err_msg=f"axis {axis}, lag {lag}")


@pytest.mark.slow
def test_the_example_of_the_page_runs():
    page = (pathlib.Path(__file__).parents[2] / "docs/models.md").read_text()
    (code,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "MLP" in text]
    exec(code, {})


@pytest.mark.extended
def test_the_page_states_the_cost_of_each_network():
    page = (pathlib.Path(__file__).parents[2] / "docs/models.md").read_text()
    rows = re.findall(r"^\| `(\w+\(.*\))` \| `(\(.*\))` \| ([\d.]+) M \| ([\d.,]+) \|$", page, re.MULTILINE)
    assert len(rows) == 7
    for code, shape, millions, mega_flops in rows:
        module = eval(code, vars(models))
        inputs = jnp.zeros((1, *eval(shape))), jnp.zeros(1)
        variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
        size = sum(leaf.size for leaf in jax.tree.leaves(variables))
        flops = counted_flops(module.apply, variables, *inputs)
        assert (f"{size / 1e6:.2f}", f"{flops / 1e6:,.{mega_flops.count('.')}f}") == (millions, mega_flops), code


@pytest.mark.extended
@pytest.mark.parametrize(
    "name", slow_but([("set_transformer",)], [("set_transformer",), ("set_transformer, summaries",)])
)
def test_a_padded_set_has_the_output_of_the_set_alone(name):
    """Whatever stands on padding; the output there is zero. A mask that leaves nothing is refused."""
    apply, x, t, condition = network(name)
    named = condition if isinstance(condition, dict) else {"label": condition}
    of = lambda x, real: np.asarray(apply(x, t, named | ({} if real is None else {"real": real})))
    real = np.arange(x.shape[1]) < np.array([2, x.shape[1]] * len(x))[: len(x), None]
    garbage = np.where(real[:, :, None], x, 1e3)
    found = of(garbage, real)
    assert (found[~real] == 0).all() and np.abs(found[0, :2]).max() > 1e-3
    np.testing.assert_allclose(found[0, :2], of(x[:, :2], None)[0], atol=1e-5)
    np.testing.assert_allclose(found[1], of(x, None)[1], atol=1e-5)
    with pytest.raises(ValueError, match="the mask is empty for example 0"):
        of(x, real & (np.arange(len(x)) > 0)[:, None])
    with pytest.raises(ValueError, match=r"'real', must be Bool \[B, N\] = \(2, 10\)"):
        of(x, real[:, :1])


@pytest.mark.extended
@pytest.mark.parametrize("summaries", [0, 2])
def test_a_set_is_computed_again_in_the_backward_pass(summaries):
    """Rematerialisation changes what is kept, not the output: the traced layers take no number as a choice."""
    network = SetTransformer(8, 1, 2, summaries, remat="full")
    x, t = np.ones((1, 3, 2), np.float32), np.ones(1, np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), x, t, None)
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, np.float32), variables)
    kept = network.clone(remat="none").apply(variables, x, t, None)
    np.testing.assert_allclose(network.apply(variables, x, t, None), kept, rtol=1e-5)
    assert np.abs(kept).max() > 0.1
