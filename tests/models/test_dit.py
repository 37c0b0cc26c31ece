"""DiT against an independent numpy forward pass, the published sizes, and what its options must not change."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.dit import PRESETS, DiT, check_labels, dit_preset
from diffusion.models.layers import blocks
from tests.models import dit_oracle

SMALL = {"patch": 2, "width": 16, "depth": 2, "heads": 2, "num_classes": 3}


def inputs(batch=2, shape=(4, 6, 1)):
    """Images (not square), times and labels, the null class among them."""
    x = jax.random.normal(jax.random.key(1), (batch, *shape))
    return x, jnp.linspace(0.1, 0.9, batch), jnp.arange(3, 3 - batch, -1)


@partial(jax.jit, static_argnums=0)
def apply(model, variables, x, t, labels):
    """Jitted once for each set of fields, over all the tests."""
    return model.apply(variables, x, t, labels)


@partial(jax.jit, static_argnums=0)
def gradient(model, variables):
    """Of the mean square of the output in the parameters."""
    return jax.grad(lambda v: jnp.mean(model.apply(v, *inputs()) ** 2))(variables)


def build(**fields):
    """A small DiT with parameters that are nowhere zero, as adaLN-Zero's would be at the start."""
    model = DiT(**{**SMALL, **fields})
    x, t, labels = inputs()
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, t, labels if model.num_classes else None)
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), jnp.float32), shapes)


@pytest.mark.extended
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"norm": "rmsnorm", "mlp": "swiglu", "positions": "rope", "qk_norm": True, "learn_sigma": True},
        {"num_classes": 0, "patch": 1, "mlp_ratio": 2.5},
    ],
)
def test_forward_pass_is_the_papers(fields):
    model, variables = build(**fields)
    x, t, labels = inputs()
    out = apply(model, variables, x, t, labels if model.num_classes else None)
    assert out.dtype == jnp.float32
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    options = {k: fields[k] for k in ("norm", "mlp", "positions") if k in fields}
    for i in range(2):
        expected = dit_oracle.forward(
            wide,
            np.asarray(x[i], np.float64),
            float(t[i]),
            int(labels[i]) if model.num_classes else None,
            patch=model.patch,
            heads=model.heads,
            depth=model.depth,
            **options,
        )
        np.testing.assert_allclose(out[i], expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.extended
def test_output_is_zero_at_the_start():
    model = DiT(**SMALL)
    x, t, labels = inputs()
    variables = jax.jit(model.init)(jax.random.key(0), x, t, labels)
    np.testing.assert_array_equal(apply(model, variables, x, t, labels), 0)
    # ... though the layers differ from each other and none but modulations, biases and the final layer is zero.
    kernel = variables["params"]["blocks"]["attention"]["qkv"]["kernel"]
    assert (kernel[0] != kernel[1]).all()
    assert jnp.abs(kernel).max() <= np.sqrt(6 / (16 + 48))  # Glorot's bound for the 16 -> 48 matrix
    assert jnp.abs(kernel).max() > 0.95 * np.sqrt(6 / (16 + 48))


def published_parameters(width, depth, patch, channels=4, classes=1000):
    """Parameters of the DiT of the paper, term by term; weights and biases of every linear layer."""
    linear = lambda fan_in, fan_out: fan_in * fan_out + fan_out
    block = (
        linear(width, 3 * width)  # q, k, v
        + linear(width, width)  # attention's output
        + linear(width, 4 * width)
        + linear(4 * width, width)  # the MLP
        + linear(width, 6 * width)  # adaLN: shift, scale, gate, twice; its norms have no parameters
    )
    return (
        linear(patch**2 * channels, width)  # the patch embedding
        + linear(256, width)
        + linear(width, width)  # the timestep's MLP
        + (classes + 1) * width  # labels and the null class
        + depth * block
        + linear(width, 2 * width)  # the final layer's adaLN
        + linear(width, patch**2 * 2 * channels)  # epsilon and sigma
    )


@pytest.mark.extended
@pytest.mark.parametrize(
    ("size", "width", "depth", "millions"),
    [
        ("S", 384, 12, (33, 33, 33)),
        ("B", 768, 12, (130, 130, 131)),
        ("L", 1024, 24, (458, 458, 459)),
        ("XL", 1152, 28, (675, 675, 676)),
    ],
)
def test_published_sizes(size, width, depth, millions):
    # The paper's table 4 counts what is trained: with the fixed positions that its code stores beside the weights,
    # (32 / patch)^2 * width numbers, B/2 would round to 131 M. Ours are no parameters.
    for patch, expected in zip((2, 4, 8), millions):
        model = dit_preset(f"{size}/{patch}", num_classes=1000, learn_sigma=True)
        x = jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32)
        t = jax.ShapeDtypeStruct((1,), jnp.float32)
        labels = jax.ShapeDtypeStruct((1,), jnp.int32)
        variables = jax.eval_shape(model.init, jax.random.key(0), x, t, labels)
        assert jax.eval_shape(model.apply, variables, x, t, labels).shape == (1, 32, 32, 8)
        leaves = jax.tree.leaves(variables)
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
        count = sum(leaf.size for leaf in leaves)
        assert count == published_parameters(width, depth, patch)
        assert round(count / 1e6) == expected


@pytest.mark.extended
@pytest.mark.parametrize("attention", ["xla", "matmul"])
def test_forward_mode(attention):
    model, variables = build(attention=attention)
    x, t, labels = inputs()
    dx = jax.random.normal(jax.random.key(2), x.shape)
    dt = jnp.ones_like(t)
    _, out = jax.jit(lambda: jax.jvp(lambda x, t: model.apply(variables, x, t, labels), (x, t), (dx, dt)))()

    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    ends = [
        dit_oracle.forward(
            wide,
            np.asarray(x[0], np.float64) + h * np.asarray(dx[0], np.float64),
            float(t[0]) + h,
            int(labels[0]),
            patch=model.patch,
            heads=model.heads,
            depth=model.depth,
        )
        for h in (1e-6, -1e-6)
    ]
    expected = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(out[0], expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [*({"remat": remat} for remat in ("full", "narrow", "dots", "elementwise")), {"unroll": 99}]
)
def test_remat_and_unrolling_change_nothing(options):
    model, variables = build()
    plain = gradient(model, variables)
    other = gradient(model.clone(**options), variables)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * jnp.abs(a).max())


@pytest.mark.extended
def test_remat_keeps_less():
    x, t, labels = inputs()
    kept = {}
    for remat in ("none", "dots", "narrow", "full"):
        model, variables = build(remat=remat)
        _, pullback = jax.eval_shape(lambda v, m=model: jax.vjp(lambda v: m.apply(v, x, t, labels), v), variables)
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(pullback))
    assert kept["full"] < kept["narrow"] < kept["dots"] < kept["none"]


@pytest.mark.extended
@pytest.mark.parametrize("remat", ["full", pytest.param("elementwise", marks=pytest.mark.slow)])
def test_unrolled_layers_are_parted_from_what_is_computed_again(remat):
    barriers = {}
    for unroll in (1, 2):  # without barriers XLA finds the forward pass in the backward pass, and keeps all of it
        model, variables = build(remat=remat, unroll=unroll)
        text = jax.jit(jax.grad(lambda v, m=model: m.apply(v, *inputs()).sum())).lower(variables).as_text()
        barriers[unroll] = "optimization_barrier" in text
    assert barriers == {1: False, 2: True}


@pytest.mark.slow
def test_bfloat16_gradients_are_as_near_to_float32_as_those_of_flaxs_gelu(monkeypatch):
    model, variables = build(width=64, heads=4)
    exact = gradient(model, variables)

    def error():
        half = model.clone(dtype="bfloat16")
        rounded = jax.jit(lambda v: gradient.__wrapped__(half, v))(variables)  # traced anew, with the gelu of now
        squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), rounded, exact)
        return float(sum(jax.tree.leaves(squares)))

    ours = error()
    monkeypatch.setattr(blocks, "gelu", lambda x: nn.gelu(x, approximate=True))
    assert ours < 1.02 * error()


@pytest.mark.extended
def test_bfloat16_is_close_and_keeps_float32_outside():
    model, variables = build()
    x, t, labels = inputs()
    half = model.clone(dtype="bfloat16")
    shapes = jax.eval_shape(half.init, jax.random.key(0), x, t, labels)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    exact = apply(model, variables, x, t, labels)
    rounded = apply(half, variables, x, t, labels)
    assert rounded.dtype == jnp.float32
    error = jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact)
    assert 0 < error < 16 * 2**-8


@pytest.mark.extended
def test_bfloat16_sees_neighbouring_times():
    # 998 and 999 are one number in bfloat16.
    model, variables = build(dtype="bfloat16")
    x, _, labels = inputs()
    one, other = (apply(model, variables, x, jnp.full(2, t), labels) for t in (998.0, 999.0))
    assert jnp.abs(one - other).max() > 1e-2


@pytest.mark.extended
def test_examples_do_not_see_each_other():
    model, variables = build()
    x, t, labels = inputs()
    whole = apply(model, variables, x, t, labels)
    beside = apply(model, variables, x.at[1].multiply(-2), t.at[1].add(0.1), labels.at[1].add(1))
    np.testing.assert_allclose(whole[:1], beside[:1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole[:1], apply(model, variables, x[:1], t[:1], labels[:1]), rtol=1e-4, atol=1e-5)
    assert jnp.abs(whole[1] - beside[1]).max() > 1e-2
    one_time = apply(model, variables, x, t[0], labels)  # a single time serves the whole batch
    np.testing.assert_allclose(one_time[:1], whole[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, "heads=3 does not divide width=16"),
        ({"depth": 0}, "depth=0 must be positive"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"width": 18}, "width=18 must be a multiple of 4"),
        ({"width": 12, "positions": "rope"}, "width=12 must be a multiple of 4 heads = 8"),
        ({"norm": "rmsnrom"}, "norm='rmsnrom'.*'layernorm', 'rmsnorm'.*mean 'rmsnorm'"),
        ({"attention": "flash"}, "attention='flash'.*'auto', 'matmul', 'xla', 'cudnn'"),
        ({"remat": "dot"}, "remat='dot'.*mean 'dots'"),
        ({"dtype": "float16"}, "dtype='float16'.*'float32', 'bfloat16'"),
    ],
)
def test_bad_fields_are_refused_where_they_are_written(fields, message):
    with pytest.raises(ValueError, match=message):
        DiT(**{**SMALL, **fields})


def test_bad_calls_are_refused():
    model, variables = build()
    x, t, labels = inputs()
    for arguments, message in [
        ((x[:, :3], t, labels), "patch=2 does not divide height 3 and width 6"),
        ((x[0], t, labels), r"\[B, H, W, C\]; got an array of shape \(4, 6, 1\)"),
        ((x, t[:1], labels), r"\(2,\); got shape \(1,\)"),
        ((x, t, None), "num_classes=3.*condition has no class.*null class 3"),
        ((x, t, labels[:1]), r"one integer label.*\(2,\).*\(1,\)"),
        ((x, t, t), "one integer label.*float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.apply(variables, *arguments)
    model, variables = build(num_classes=0)
    with pytest.raises(ValueError, match="unconditional network, but the condition has a class"):
        model.apply(variables, x, t, labels)


def test_check_labels():
    check_labels(np.array([0, 9, 10]), num_classes=10)
    with pytest.raises(ValueError, match=r"label 11 is out of range. Valid: 0 \.\. 9, and 10 for the null class"):
        check_labels(np.array([[3], [11]]), num_classes=10)
    with pytest.raises(ValueError, match="label -1"):
        check_labels(np.array(-1), num_classes=10)
    with pytest.raises(ValueError, match=r"integers; got dtype float64"):
        check_labels(np.array([0.5]), num_classes=10)


def test_presets():
    assert len(PRESETS) == 12
    model = dit_preset("B/4", num_classes=10, norm="rmsnorm", qk_norm=True)
    assert (model.width, model.depth, model.heads, model.patch) == (768, 12, 12, 4)
    assert (model.norm, model.qk_norm, model.num_classes) == ("rmsnorm", True, 10)
    with pytest.raises(ValueError, match=r"size='XL/3'.*'S/2'.*mean 'XL/"):
        dit_preset("XL/3", num_classes=10)
    with pytest.raises(TypeError, match="nrom"):
        dit_preset("B/4", num_classes=10, nrom="rmsnorm")


@pytest.mark.extended
def test_a_second_time_has_an_embedding_of_its_own():
    """With the second's weights at zero it is the network of one time."""
    one, variables = build()
    two = DiT(**SMALL, times=2)
    x, t, labels = inputs()
    shapes = jax.eval_shape(two.init, jax.random.key(0), x, (t, t), labels)["params"]
    second = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), shapes["timestep_embedding_2"])
    assert shapes.keys() - variables["params"].keys() == {"timestep_embedding_2"}
    silent = {"params": {**variables["params"], "timestep_embedding_2": jax.tree.map(jnp.zeros_like, second)}}
    np.testing.assert_array_equal(apply(two, silent, x, (t, 0.3 * t), labels), apply(one, variables, x, t, labels))
    heard = {"params": {**variables["params"], "timestep_embedding_2": second}}
    outputs = [apply(two, heard, x, (t, share * t), labels) for share in (0.3, 0.7)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    with pytest.raises(ValueError, match="times=2"):
        two.apply(silent, x, t, labels)
    with pytest.raises(ValueError, match="times=1"):
        one.apply(variables, x, (t, t), labels)


@pytest.mark.extended
def test_strength_and_interval_of_guidance_have_embeddings_of_their_own():
    """With weights at zero it is the network without; each of the three numbers changes the output alone."""
    plain, variables = build()
    guided = DiT(**SMALL, strength=True, interval=True)
    x, t, labels = inputs()
    condition = {"label": labels, "strength": jnp.full(2, 1.5), "interval": jnp.array([[0.2, 0.6]] * 2)}
    shapes = jax.eval_shape(guided.init, jax.random.key(0), x, t, condition)["params"]
    names = shapes.keys() - variables["params"].keys()
    assert names == {"strength_embedding", "start_embedding", "end_embedding"}
    rng = np.random.default_rng(1)
    own = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), {name: shapes[name] for name in names}
    )
    silent = {"params": variables["params"] | jax.tree.map(jnp.zeros_like, own)}
    np.testing.assert_array_equal(apply(guided, silent, x, t, condition), apply(plain, variables, x, t, labels))
    heard = {"params": variables["params"] | own}
    before = apply(guided, heard, x, t, condition)
    changed = {"strength": jnp.full(2, 2.0), "interval": jnp.array([[0.3, 0.6], [0.2, 0.7]])}
    for name, value in changed.items():  # the first example has another start, the second another end
        after = apply(guided, heard, x, t, condition | {name: value})
        assert np.abs(after - before).max(axis=(1, 2, 3)).min() > 1e-3
    ends = {"params": heard["params"] | {"start_embedding": silent["params"]["start_embedding"]}}
    apart = apply(guided, ends, x, t, condition | {"interval": changed["interval"]})
    np.testing.assert_array_equal((apart == apply(guided, ends, x, t, condition)).all((1, 2, 3)), [True, False])
    for without in ("strength", "interval"):
        with pytest.raises(ValueError, match=r'"strength" \[B\] and "interval" \[B, 2\]'):
            guided.apply(heard, x, t, {name: leaf for name, leaf in condition.items() if name != without})
    with pytest.raises(ValueError, match=r"'interval' must be \[B, 2\] = \(2, 2\); got \(2,\)"):
        guided.apply(heard, x, t, condition | {"interval": jnp.ones(2)})
    with pytest.raises(ValueError, match="interval=True needs strength=True"):
        DiT(**SMALL, interval=True)
