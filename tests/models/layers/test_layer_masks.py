"""Doors into the layers of DiT, against the numpy oracle with the same layers impaired by hand."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import editing, guidance, parameterizations, schedules
from diffusion.models import DiT
from diffusion.models.layers import layer_masks
from tests.models import dit_oracle
from tests.models.test_dit import SMALL, build, inputs

B, L = 2, 3
CLOSED = {"skip": np.zeros((B, L), bool), "identity": np.zeros((B, L), bool), "borrow": np.zeros((B, L), np.int32)}


@partial(jax.jit, static_argnums=0)
def apply(model, variables, x, t, condition):
    return model.apply(variables, x, t, condition)


@pytest.fixture(scope="module")
def network():
    return build(depth=L, qk_norm=True)


def run(network, **masks):
    """The network with every mask there is, those of no name False, so that all tests share one program."""
    x, t, labels = inputs()
    return apply(*network, x, t, {"label": labels, **CLOSED, **masks})


def maps(p, x, heads):
    """The attention maps of one image `[H, N, N]` and the values `[N, H, D]`, as the oracle has them."""
    n, width = x.shape
    q, k, v = np.moveaxis(dit_oracle.dense(p["qkv"], x).reshape(n, 3, heads, width // heads), 1, 0)
    q = dit_oracle.rmsnorm(q) * p["query_norm"]["scale"]
    k = dit_oracle.rmsnorm(k) * p["key_norm"]["scale"]
    weights = np.exp(np.einsum("nhd,mhd->hnm", q, k) / np.sqrt(width // heads))
    return weights / weights.sum(-1, keepdims=True), v


def oracle(network, example, monkeypatch, change=lambda layer, maps: maps, skip=()):
    """One example through the numpy network whose maps are changed, or which lacks layers; and the maps it had."""
    model, variables = network
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    wide["blocks"] = jax.tree.map(lambda leaf: np.delete(leaf, list(skip), axis=0), wide["blocks"])
    seen = []

    def attend(p, x, heads, rope):
        own, v = maps(p, x, heads)
        seen.append(own)
        mixed = np.einsum("hnm,mhd->nhd", change(len(seen) - 1, own), v)
        return mixed.reshape(x.shape[0], -1) @ p["out"]["kernel"].reshape(x.shape[1], -1) + p["out"]["bias"]

    monkeypatch.setattr(dit_oracle, "attend", attend)
    x, t, labels = inputs()
    out = dit_oracle.forward(
        wide,
        np.asarray(x[example], np.float64),
        float(t[example]),
        int(labels[example]),
        patch=model.patch,
        heads=model.heads,
        depth=L - len(skip),
    )
    return out, seen


def assert_close(out, expected):
    np.testing.assert_allclose(out, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.extended
def test_masks_that_are_false_change_nothing(network):
    x, t, labels = inputs()
    np.testing.assert_allclose(run(network), apply(*network, x, t, labels), rtol=1e-5, atol=1e-5)


@pytest.mark.extended
def test_without_masks_the_program_is_the_same(network):
    """Labels in a dict make the program of the labels alone, to the letter; nor do parameters depend on masks."""
    model, variables = network
    x, t, labels = inputs()
    plain = str(jax.make_jaxpr(lambda c: model.apply(variables, x, t, c))(labels))
    assert str(jax.make_jaxpr(lambda c: model.apply(variables, x, t, {"label": c}))(labels)) == plain
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, t, {"label": labels, **CLOSED})
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.extended
def test_a_skipped_layer_is_a_network_without_it(network, monkeypatch):
    """Of the one example whose mask skips it; the other passes through all layers."""
    out = run(network, skip=np.array([[False, True, False], [False, False, False]]))
    assert_close(out[0], oracle(network, 0, monkeypatch, skip=(1,))[0])
    assert_close(out[1], oracle(network, 1, monkeypatch)[0])


def test_identity_lets_every_token_see_itself(network, monkeypatch):
    out = run(network, identity=np.array([[False, False, False], [True, False, True]]))
    own = lambda layer, maps: np.broadcast_to(np.eye(maps.shape[-1]), maps.shape) if layer in (0, 2) else maps
    assert_close(out[0], oracle(network, 0, monkeypatch)[0])
    assert_close(out[1], oracle(network, 1, monkeypatch, own)[0])


def test_borrowed_maps_are_those_of_the_other_example(network, monkeypatch):
    out = run(network, borrow=np.array([[0, 0, 0], [0, -1, -1]], np.int32))
    expected, source = oracle(network, 0, monkeypatch)
    assert_close(out[0], expected)
    assert_close(out[1], oracle(network, 1, monkeypatch, lambda l, maps: source[l] if l > 0 else maps)[0])


@pytest.mark.extended
def test_guided_and_impaired_branches_run_in_one_call(network):
    """`together` concatenates masks with labels: each branch is what it is alone, and guidance combines them."""
    model, variables = network
    x, t, labels = (a[:1] for a in inputs())
    schedule = schedules.cosine()
    v = parameterizations.v()
    calls = []

    def counted(x, clock, condition):
        calls.append(x.shape[0])
        return apply(model, variables, x, clock, condition)

    closed = {"label": labels, **{name: mask[:1] for name, mask in CLOSED.items()}}
    skipped = {**closed, "skip": layer_masks.mask(1, L, (0, 2))}
    branches = guidance.together(counted, schedule, v, (closed, skipped))
    guided = guidance.skip_layer(branches, 2.5)(x, t)
    assert calls == [2]
    twice = lambda tree: jax.tree.map(lambda a: jnp.concatenate([a, a]), tree)
    one = lambda c: parameterizations.denoiser(counted, schedule, v, twice(c))(twice(x), twice(t))
    cond = one(closed).eps[:1]
    worse = one(skipped).eps[:1]
    assert np.abs(cond - worse).max() > 0.01
    np.testing.assert_allclose(guided.eps, cond + 2.5 * (cond - worse), rtol=1e-4, atol=1e-4)


def test_an_edit_like_its_source_is_its_source(network):
    """With one x and one label in both halves, borrowed maps are one's own; with another label they are not."""
    model, variables = network
    x, t, labels = inputs()
    x = x[:1]
    t = t[:1]
    twice = lambda a: jnp.concatenate([a, a])
    for target, same in ((labels[:1], True), (labels[1:], False)):
        condition = {**CLOSED, **editing.borrowing(labels[:1], target, L, (0, 1, 2))}
        out = apply(model, variables, twice(x), twice(t), condition)
        own = apply(model, variables, twice(x), twice(t), {**condition, "borrow": CLOSED["borrow"]})
        np.testing.assert_allclose(out[0], own[0], rtol=1e-4, atol=1e-5)
        assert np.allclose(out[1], own[1], rtol=1e-4, atol=1e-5) == same


CHILD = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from diffusion.models import DiT
from diffusion.models.layers import layer_masks, layout

model = DiT(patch=2, width=16, depth=3, heads=2, num_classes=3)
x, t, labels = jax.random.normal(jax.random.key(1), (4, 4, 4, 1)), jnp.linspace(0.1, 0.9, 4), jnp.arange(4)
rng = np.random.default_rng(0)
shapes = jax.eval_shape(model.init, jax.random.key(0), x, t, labels)
variables = jax.tree.map(lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), jnp.float32), shapes)
condition = {
    "label": labels,
    "skip": layer_masks.mask(4, 3, (1,)) & np.array([[True], [False], [False], [True]]),
    "identity": layer_masks.mask(4, 3, (0,)) & np.array([[False], [True], [False], [False]]),
    "borrow": np.int32([[0] * 3, [0] * 3, [-2] * 3, [-2] * 3]),  # from the other device
}
plain = jax.jit(model.apply)(variables, x, t, condition)
mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

def apply(*arguments):
    with layout.over(mesh):
        return model.apply(variables, *arguments)

batch = jax.device_put((x, t, condition), NamedSharding(mesh, PartitionSpec("data")))
np.testing.assert_allclose(jax.jit(apply)(*batch), plain, atol=1e-5)
"""


@pytest.mark.slow
def test_masks_on_a_mesh():
    """Examples over one axis and heads over the other, in a process of four simulated devices."""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", CHILD], env=env, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"remat": "full"}, {"unroll": 99}])
def test_gradients_pass_through_masks(network, options):
    model, variables = network
    x, t, labels = inputs()
    condition = {
        "label": labels,
        **CLOSED,
        "skip": layer_masks.mask(B, L, (1,)),
        "borrow": np.array([[1] * L, [0] * L]),
    }
    gradient = lambda model: jax.jit(jax.grad(lambda v: jnp.mean(model.apply(v, x, t, condition) ** 2)))(variables)
    plain = gradient(model)
    other = gradient(model.clone(**options))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(other)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * jnp.abs(a).max())
    skipped = jax.tree.map(lambda leaf: np.abs(leaf[1]).max(), plain["params"]["blocks"])
    assert max(jax.tree.leaves(skipped)) == 0  # a skipped layer has no gradient


def test_bad_masks_are_refused_by_name(network):
    model, variables = network
    x, t, labels = inputs()
    for mask, message in [
        (
            {"skipp": CLOSED["skip"]},
            r"'skipp', which is neither 'label' nor a layer mask\. Layer masks are 'skip', 'identity', 'borrow'",
        ),
        ({"skip": np.zeros(L, bool)}, r"'skip' has shape \(3,\).*\[B, L\] = \(2, 3\), bool"),
        ({"skip": np.zeros((B, L))}, r"'skip'.*float32"),
        ({"borrow": np.zeros((B, L), bool)}, r"'borrow'.*integer"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.apply(variables, x, t, {"label": labels, **mask})
    with pytest.raises(ValueError, match="condition has no class"):
        model.apply(variables, x, t, {"skip": CLOSED["skip"]})
    with pytest.raises(ValueError, match=r"layer 3 does not exist. Valid: 0 \.\. 2"):
        layer_masks.mask(B, L, (0, 3))
    unconditional = DiT(**{**SMALL, "num_classes": 0, "depth": L})
    shapes = jax.eval_shape(unconditional.init, jax.random.key(0), x, t, {"skip": CLOSED["skip"]})
    assert "label_embedding" not in shapes["params"]
