import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from diffusion import models
from diffusion.io import leaf_names
from diffusion.models.autoencoders import deep_compression
from diffusion.models.layers import constants, embeddings, magnitude
from diffusion.training.optimizers import OPTIMIZERS, adamw, adan, hidden_matrices, muon


def test_first_two_updates_by_hand():
    """Loshchilov & Hutter, algorithm 2, in NumPy; the gradient's norm 5 is clipped to 1."""
    optimizer = adamw(learning_rate=0.1, weight_decay=0.01, b1=0.9, b2=0.99, clip=1.0)
    params = {"w": jnp.asarray([1.0, -2.0])}
    state = optimizer.init(params)
    w = np.array([1.0, -2.0])
    m = np.zeros(2)
    v = np.zeros(2)
    for k in (1, 2):
        updates, state = optimizer.update({"w": jnp.asarray([3.0, 4.0])}, state, params)
        params = optax.apply_updates(params, updates)
        g = np.array([3.0, 4.0]) / 5.0
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * g**2
        w = w - 0.1 * (m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.99**k)) + 1e-8) + 0.01 * w)
        np.testing.assert_allclose(params["w"], w, rtol=1e-5)


def test_gradients_are_clipped_and_updates_are_not():
    """A gradient of norm 5 counts as one of norm 1 beside a later one of norm 0.5; steps are as long as the rate."""
    optimizer = adamw(learning_rate=10.0, b1=0.9, b2=0.99, clip=1.0)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    m = np.zeros(2)
    v = np.zeros(2)
    for k, (gradient, clipped) in enumerate([([3.0, 4.0], [0.6, 0.8]), ([-0.3, 0.4], [-0.3, 0.4])], 1):
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        m = 0.9 * m + 0.1 * np.array(clipped)
        v = 0.99 * v + 0.01 * np.array(clipped) ** 2
        np.testing.assert_allclose(updates, -10.0 * (m / (1 - 0.9**k)) / np.sqrt(v / (1 - 0.99**k)), rtol=1e-5)


def test_small_gradients_are_not_clipped():
    for clip in (None, 1.0):
        optimizer = adamw(clip=clip, learning_rate=1.0, b1=0.0, b2=0.0)
        params = jnp.asarray([0.3])
        updates, _ = optimizer.update(jnp.asarray([1e-3]), optimizer.init(params), params)
        np.testing.assert_allclose(updates, [-1.0], rtol=1e-4)


def test_learning_rate_warms_up_then_decays():
    rate = adamw(learning_rate=2.0, warmup=4, decay="cosine", steps=14).learning_rate
    np.testing.assert_allclose([rate(k) for k in range(4)], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    expected = [np.cos(np.pi * (k - 4) / 10) + 1 for k in range(4, 15)]
    np.testing.assert_allclose([rate(k) for k in range(4, 15)], expected, atol=1e-6)


def test_run_that_ends_within_its_warmup():
    rate = adamw(learning_rate=1.0, warmup=10, decay="cosine", steps=5).learning_rate
    np.testing.assert_allclose([rate(k) for k in range(5)], [0.1, 0.2, 0.3, 0.4, 0.5], rtol=1e-6)


def test_a_cooldown_is_constant_and_falls_on_a_line_over_the_last_fifth():
    short, long = (
        adamw(learning_rate=3.0, warmup=2, decay="cooldown", steps=steps).learning_rate for steps in (20, 30)
    )
    expected = [1.5, *[3.0] * 15, 3.0, 2.25, 1.5, 0.75, 0.0]
    np.testing.assert_allclose([short(step) for step in range(21)], expected, rtol=1e-6)
    assert [float(long(step)) for step in range(24)] == [float(short(step)) for step in range(16)] + [3.0] * 8


def test_a_cooldown_that_follows_a_long_warmup_ends_with_the_run():
    """A fifth of the run is 4 steps, of which the warm-up leaves 2: the rate falls in these, to 0 at step 20."""
    rate = adamw(learning_rate=1.0, warmup=18, decay="cooldown", steps=20).learning_rate
    np.testing.assert_allclose([rate(step) for step in (17, 18, 19, 20, 21)], [1, 1, 0.5, 0, 0], atol=1e-6)


def test_rates_if_nothing_is_said():
    np.testing.assert_allclose([adamw().learning_rate(0), muon().learning_rate(0)], [1e-4, 1e-3], rtol=1e-6)


def test_constant_rate_stays():
    rate = adamw(learning_rate=3.0, warmup=1).learning_rate
    np.testing.assert_allclose([rate(k) for k in (0, 1, 1000)], 3.0)


def test_the_reported_learning_rate_is_the_one_in_use():
    """With b1 = b2 = 0 an update is -rate * sign of the gradient."""
    optimizer = adamw(learning_rate=0.5, warmup=3, decay="cosine", steps=9, b1=0.0, b2=0.0)
    params = jnp.asarray([0.0])
    state = optimizer.init(params)
    for k in range(9):
        updates, state = optimizer.update(jnp.asarray([2.0]), state, params)
        np.testing.assert_allclose(-updates[0], optimizer.learning_rate(k), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 0.0}, "learning_rate = 0.0"),
        ({"warmup": -1}, "warmup = -1"),
        ({"decay": "linear"}, r'decay = "linear"\. Valid: "constant", "cosine", "cooldown"'),
        ({"decay": "cooldown"}, "got None"),
        ({"decay": "cosine"}, "got None"),
        ({"decay": "cosine", "steps": 0}, "got 0"),
        ({"b1": 1.0}, "b1 = 1.0"),
        ({"b2": -0.5}, "b2 = -0.5"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"clip": 0.0}, "clip = 0.0"),
    ],
)
def test_values_out_of_range(changes, words):
    with pytest.raises(ValueError, match=words):
        adamw(**changes)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_the_course_of_its_rate(name):
    """Three steps of warm-up, then the peak until the last fifth of ten steps."""
    rate = OPTIMIZERS[name](learning_rate=3.0, warmup=3, decay="cooldown", steps=10).learning_rate
    np.testing.assert_allclose([rate(k) for k in (0, 1, 2, 7, 8, 9)], [1, 2, 3, 3, 3, 1.5], rtol=1e-6)


def test_adan_steps_at_its_rate_along_clipped_gradients():
    """The first step is the rate of the warm-up in each number; the gradient's norm 5 is clipped to 1."""
    optimizer = adan(learning_rate=4.0, warmup=4, b1=0.9, clip=1.0)
    params = jnp.zeros(2)
    updates, state = optimizer.update(jnp.asarray([3.0, -4.0]), optimizer.init(params), params)
    np.testing.assert_allclose(updates, [-1, 1], rtol=1e-5)
    assert any(np.allclose(leaf, [0.06, -0.08]) for leaf in jax.tree.leaves(state))  # (1 - b1) of the clipped one


def test_state_is_float32():
    state = OPTIMIZERS["adamw"]().init({"w": jnp.ones(3)})
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}


def test_three_steps_of_adan_by_hand():
    """Xie et al., 2022, algorithm 1, whose betas are one minus these decays, in NumPy."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(5)
    expected = w
    optimizer = adan(learning_rate=0.1, weight_decay=0.01, b1=0.9, b2=0.7, b3=0.8)
    params = {"w": jnp.float32(w)}
    state = optimizer.init(params)
    m = v = n = before = np.zeros(5)
    for k in (1, 2, 3):
        g = rng.standard_normal(5)
        difference = g - before if k > 1 else 0 * g
        m = (1 - 0.1) * m + 0.1 * g
        v = (1 - 0.3) * v + 0.3 * difference
        n = (1 - 0.2) * n + 0.2 * (g + (1 - 0.3) * difference) ** 2
        moment = m / (1 - 0.9**k) + (1 - 0.3) * v / (1 - 0.7**k)
        expected = expected - 0.1 * (moment / np.sqrt(n / (1 - 0.8**k)) + 0.01 * expected)
        before = g
        updates, state = optimizer.update({"w": jnp.float32(g)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"b3 = 1\.0"):
        adan(b3=1.0)


def orthogonalized(g):
    """Jordan et al., 2024: the Newton-Schulz iteration as published, in NumPy."""
    x = g / np.linalg.norm(g)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x


@pytest.mark.extended
def test_two_steps_of_muon_by_hand():
    """Each layer of a stack by itself; attention's output joins heads and sizes; all else by Nesterov's Adam."""
    rng = np.random.default_rng(0)
    shapes = {
        "blocks": {"qkv": {"kernel": (2, 6, 3, 2, 2), "bias": (2, 3, 2, 2)}, "out": {"kernel": (2, 2, 2, 6)}},
        "final": {"kernel": (6, 4)},
    }
    draw = lambda: jax.tree.map(rng.standard_normal, shapes, is_leaf=lambda x: isinstance(x, tuple))
    params = draw()
    gradients = [draw(), jax.tree.map(lambda leaf: 3 * leaf, draw())]
    matrices = {"qkv": (6, 12), "out": (4, 6)}
    optimizer = muon(learning_rate=0.1, weight_decay=0.01, momentum=0.9, b1=0.8, b2=0.95, clip=3.0)
    plain = optax.nadam(0.1, b1=0.8, b2=0.95)
    state = optimizer.init(params)
    plain_state = plain.init(params)
    moved, plainly = params, params
    moment = {name: np.zeros((2, *shape)) for name, shape in matrices.items()}
    expected = {name: params["blocks"][name]["kernel"].reshape(2, *shape) for name, shape in matrices.items()}
    for k, g in enumerate(gradients, 1):
        updates, state = optimizer.update(jax.tree.map(jnp.float32, g), state, moved)
        moved = optax.apply_updates(moved, updates)
        length = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(g)))
        assert length > 3
        g = jax.tree.map(lambda leaf, length=length: 3 / length * leaf, g)
        updates, plain_state = plain.update(g, plain_state, plainly)
        plainly = optax.apply_updates(plainly, updates)
        for name, (rows, columns) in matrices.items():
            now = g["blocks"][name]["kernel"].reshape(2, rows, columns)
            moment[name] = 0.9 * moment[name] + 0.1 * now
            nesterov = 0.9 * moment[name] / (1 - 0.9 ** (k + 1)) + 0.1 * now / (1 - 0.9**k)
            step = np.stack([orthogonalized(layer) for layer in nesterov]) * 0.2 * np.sqrt(max(rows, columns))
            expected[name] = expected[name] - 0.1 * (step + 0.01 * expected[name])
    for name, shape in matrices.items():
        found = moved["blocks"][name]["kernel"].reshape(2, *shape)
        np.testing.assert_allclose(found, expected[name], rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(moved["final"]["kernel"], plainly["final"]["kernel"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moved["blocks"]["qkv"]["bias"], plainly["blocks"]["qkv"]["bias"], rtol=1e-5, atol=1e-7)


def test_hidden_matrices_of_a_transformer():
    """Rows and columns of DiT's kernels; what touches pixels, classes and times is Adam's."""
    network = models.DiT(patch=2, width=8, depth=2, heads=2, num_classes=3)
    shapes = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), {"label": jnp.zeros(1, int)}),
        jax.random.key(0),
    )
    is_dimensions = lambda x: isinstance(x, contrib.MuonDimensionNumbers)
    found = jax.tree_util.tree_leaves_with_path(hidden_matrices(shapes), is_leaf=is_dimensions)
    assert {leaf_names.leaf_name(path): axes.reduction_axis for path, axes in found} == {
        "params/blocks/attention/out/kernel": (1, 2),
        "params/blocks/attention/qkv/kernel": (1,),
        "params/blocks/mlp/hidden/kernel": (1,),
        "params/blocks/mlp/out/kernel": (1,),
        "params/blocks/modulation/dense/kernel": (1,),
    }


@pytest.mark.parametrize(("changes", "words"), [({"momentum": 1.0}, "momentum = 1.0"), ({"clip": -1.0}, "clip = -1.0")])
def test_values_out_of_range_of_muon(changes, words):
    with pytest.raises(ValueError, match=words):
        muon(**changes)


def test_muon_without_stacked_layers():
    with pytest.raises(ValueError, match=r"no stacked layers .* Use adamw"):
        muon().init({"conv": {"kernel": jnp.zeros((3, 3, 4, 4))}})


def test_constants_have_no_decay_and_the_state_is_that_of_old_checkpoints():
    params = {"clock": {"frequencies": jnp.asarray([3.0]), "out": {"kernel": jnp.asarray([0.7, -2.0])}}}
    gradients = {"clock": {"frequencies": jnp.zeros(1), "out": {"kernel": jnp.asarray([0.3, 0.1])}}}
    plain = optax.adamw(0.1, weight_decay=0.5)
    ours = adamw(learning_rate=0.1, weight_decay=0.5)
    update, _ = ours.update(gradients, ours.init(params), params)
    expected, _ = plain.update(gradients, plain.init(params), params)
    assert update["clock"]["frequencies"] == 0 and expected["clock"]["frequencies"] != 0
    np.testing.assert_array_equal(update["clock"]["out"]["kernel"], expected["clock"]["out"]["kernel"])
    # Before constants had no decay the state was this one.
    before = optax.adamw(ours.learning_rate, weight_decay=0.5).init(params)
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(before)


@pytest.mark.parametrize(
    ("module", "arguments", "held"),
    [
        (embeddings.FourierEmbedding(4), (jnp.ones(2),), {"frequencies"}),
        (magnitude.MPFourier(4), (jnp.ones(2),), {"frequencies", "phases"}),
        (deep_compression.FixedBatchNorm(), (jnp.ones((2, 3)),), {"mean", "var"}),
    ],
    ids=["fourier", "magnitude", "batch norm"],
)
def test_leaves_without_a_gradient_are_the_constants(module, arguments, held):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)["params"]
    assert {name for name in leaf_names.leaves_of(shapes) if name.rpartition("/")[-1] in constants.NAMES} == held


def test_a_constant_under_another_name_is_refused():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self):
            return constants.constant(self, "table", nn.initializers.ones, (2,))

    with pytest.raises(ValueError, match=r"'table' would be changed by weight decay\. Valid names: frequencies"):
        Layer().init(jax.random.key(0))
