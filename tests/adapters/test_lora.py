"""LoRA on pytrees: the update of each kind of kernel, several at once, taken back, and trained alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import objectives, schedules, timesteps
from diffusion.adapters import lora, lora_updates
from diffusion.io.leaf_names import nested
from diffusion.models.dit import DiT
from diffusion.training.ema import exponential_moving_average
from diffusion.training.optimizers import adamw
from diffusion.training.state import create
from diffusion.training.step import make_train_step

RNG = np.random.default_rng(0)
DIT = DiT(patch=2, width=16, depth=2, heads=2, num_classes=3)
KERNELS = "(attention|mlp)/.*kernel"


def random(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@functools.cache
def dit():
    """Parameters of a small DiT, nowhere zero."""
    shapes = jax.eval_shape(DIT.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), jnp.zeros(1, int))
    return jax.tree.map(lambda s: jnp.asarray(0.2 * random(*s.shape)), shapes["params"])


def filled(adapter):
    """The adapter with an up that is not zero."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) + 0.1 * random(*leaf.shape), adapter)


# path: (shape of the kernel, its product down up in the axes' letters)
KINDS = {
    "mlp/hidden/kernel": ((4, 6), "ir,ro->io"),
    "attention/query/kernel": ((4, 2, 3), "ir,rhd->ihd"),
    "attention/out/kernel": ((2, 3, 4), "hdr,ro->hdo"),
    "blocks/attention/qkv/kernel": ((5, 4, 3, 2, 3), "lir,lrkhd->likhd"),
    "blocks/attention/out/kernel": ((5, 2, 3, 4), "lhdr,lro->lhdo"),
    "double_blocks/mlp/out/kernel": ((5, 6, 4), "lir,lro->lio"),
    "conv_1/kernel": ((3, 3, 4, 6), "hwir,ro->hwio"),
}


@pytest.mark.parametrize("stored, computed, changed", [
    ("float32", "bfloat16", "float32"), ("bfloat16", "float32", "float32"), ("bfloat16", "bfloat16", "bfloat16"),
])  # fmt: skip
def test_what_is_merged_is_changed_in_the_wider_of_two_types_and_nothing_else_is(stored, computed, changed):
    params = nested({"a/kernel": jnp.ones((4, 6), stored), "b/kernel": jnp.ones((4, 6), stored)})
    adapter = lora.init(jax.random.key(0), params, rank=2, pattern="a/")
    found = lora.changeable(params, adapter, computed)
    assert (found["a"]["kernel"].dtype, found["b"]["kernel"].dtype) == (changed, stored)


FAST = ("blocks/attention/qkv/kernel",)


@pytest.mark.parametrize("path", [pytest.param(path, marks=() if path in FAST else pytest.mark.slow) for path in KINDS])
def test_the_update_of_every_kind_of_kernel_is_alpha_over_r_down_up(path):
    shape, product = KINDS[path]
    params = nested({path: random(*shape), "conv_1/bias": random(6)})
    adapter = lora.init(jax.random.key(0), params, rank=2, pattern=".")
    assert lora.places_of(adapter).keys() == {path}  # no bias
    unchanged = lora.merge(params, adapter, 3.0)
    np.testing.assert_array_equal(lora.leaves_of(unchanged)[path], lora.leaves_of(params)[path])
    adapter = filled(adapter)
    down, up = (np.asarray(lora.places_of(adapter)[path][part], np.float64) for part in ("down", "up"))
    merged = lora.leaves_of(lora.merge(params, adapter, scale=0.25))
    expected = lora.leaves_of(params)[path] + 0.25 * np.einsum(product, down, up)
    np.testing.assert_allclose(merged[path], expected, rtol=1e-6, atol=1e-6)
    assert merged["conv_1/bias"] is lora.leaves_of(params)["conv_1/bias"]


@pytest.mark.slow
def test_at_the_start_down_has_the_variance_of_its_inputs_and_no_two_layers_share_a_draw():
    params = {"blocks": {name: {"kernel": jnp.zeros((2, 300, 40))} for name in ("hidden", "out")}}
    first, second = (f["down"] for f in lora.places_of(lora.init(jax.random.key(0), params, 16, "kernel")).values())
    for down in (first, second):
        assert down.std() == pytest.approx((1 / 3 / 300) ** 0.5, rel=0.03)
        assert (down[0] != down[1]).all()
    assert (first != second).all()


@pytest.mark.slow
def test_factors_of_a_part_change_that_part_alone():
    params = {"blocks": {"qkv": {"kernel": random(3, 4, 3, 2, 2)}}}
    place = lora.written("blocks/qkv/kernel", (1, slice(None), 2))
    assert place == "blocks/qkv/kernel[1, :, 2]"
    assert lora.parsed(place) == ("blocks/qkv/kernel", (1, slice(None), 2))
    assert lora.parsed("a/kernel[:, 4:8]") == ("a/kernel", (slice(None), slice(4, 8)))
    down = random(4, 2)
    up = random(2, 2, 2)
    merged = lora.merge(params, nested({place: {"down": down, "up": up}}))
    expected = params["blocks"]["qkv"]["kernel"].copy()
    expected[1, :, 2] += np.einsum("ir,rhd->ihd", down, up)
    np.testing.assert_allclose(merged["blocks"]["qkv"]["kernel"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.extended
def test_several_adapters_with_weights_are_the_sum_of_their_updates():
    params = {"a": {"kernel": random(4, 6)}, "b": {"kernel": random(6, 4)}}
    both = filled(lora.init(jax.random.key(0), params, 2, "kernel"))
    one = filled(lora.init(jax.random.key(1), params, 3, "b/kernel"))
    merged = lora.merge(params, [both, one], [{"a/kernel": 0.5, "b/kernel": 2.0}, -1.5])
    np.testing.assert_allclose(
        merged["a"]["kernel"],
        params["a"]["kernel"] + 0.5 * both["a"]["kernel"]["down"] @ both["a"]["kernel"]["up"],
        rtol=1e-6,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        merged["b"]["kernel"],
        params["b"]["kernel"]
        + 2 * both["b"]["kernel"]["down"] @ both["b"]["kernel"]["up"]
        - 1.5 * one["b"]["kernel"]["down"] @ one["b"]["kernel"]["up"],
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("array", [np.array, jnp.array])
def test_a_vector_of_scales_has_one_for_each_adapter(array):
    """Two adapters of a kernel with two outputs, along which the scales were broadcast."""
    params = {"a": {"kernel": random(4, 2)}}
    one, other = (filled(lora.init(jax.random.key(i), params, 1, "kernel")) for i in (0, 1))
    update = lambda adapter: adapter["a"]["kernel"]["down"] @ adapter["a"]["kernel"]["up"]
    merged = lora.merge(params, [one, other], array([0.5, -2.0]))["a"]["kernel"]
    np.testing.assert_allclose(merged, params["a"]["kernel"] + 0.5 * update(one) - 2 * update(other), atol=1e-6)
    traced = jax.jit(lambda scales: lora.merge(params, [one, other], scales))(jnp.array([0.5, -2.0]))
    np.testing.assert_allclose(traced["a"]["kernel"], merged, atol=1e-6)
    with pytest.raises(ValueError, match="2 adapters and 3 scales"):
        lora.merge(params, [one, other], array([0.5, -2.0, 1.0]))


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_unmerge_gives_the_parameters_back_bit_for_bit(dtype):
    params = {"norm": {"scale": random(6)}, "blocks": {"out": {"kernel": random(2, 4, 6), "bias": random(2, 6)}}}
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
    params["blocks"]["out"]["kernel"][0, 0, 0] = -0.0
    adapter = filled(lora.init(jax.random.key(0), params, 4, "out"))
    kept = lora.replaced(params, adapter)
    assert list(kept) == ["blocks/out/kernel"]
    merged = lora.merge(params, adapter, 100.0)
    changed = merged["blocks"]["out"]["kernel"]
    assert changed.dtype == dtype and (np.asarray(changed) != params["blocks"]["out"]["kernel"]).all()
    for path, leaf in lora.leaves_of(lora.unmerge(merged, kept)).items():
        assert np.asarray(leaf).tobytes() == lora.leaves_of(params)[path].tobytes(), path


def test_leaves_of_other_parameters_are_not_put_back():
    params = {"a": {"kernel": random(4, 6)}, "b": {"kernel": random(4, 5)}}
    with pytest.raises(ValueError, match=r"lora\.unmerge: the parameters have no c/kernel\. Valid: what `replaced` "):
        lora.unmerge(params, {"c/kernel": random(4, 6)})
    with pytest.raises(ValueError, match=r"a/kernel has the shape \(4, 5\), and .* \(4, 6\)"):
        lora.unmerge(params, {"a/kernel": random(4, 5)})


def test_a_sum_of_low_precision_is_rounded_once():
    """Two updates of 3/8 of the distance of bfloat16 numbers each: one by one they would both be lost."""
    params = {"kernel": jnp.ones((1, 1), jnp.bfloat16)}
    small = {"kernel": {"down": jnp.full((1, 1), 3 / 8 * 2.0**-7), "up": jnp.ones((1, 1))}}
    assert lora.merge(params, small)["kernel"] == 1
    assert lora.merge(params, [small, small])["kernel"] == 1 + 2.0**-7


@pytest.mark.slow
def test_training_the_adapter_alone_lowers_the_loss_and_leaves_the_network_as_it_was():
    params = dit()
    schedule = schedules.rectified_flow()
    before = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)]
    adapter = lora.init(jax.random.key(0), params, 4, "attention|mlp|final/kernel")
    objective = objectives.flow_matching(timesteps.uniform_density(schedule))
    optimizer = adamw(1e-2, weight_decay=0.1)
    ema = exponential_moving_average(0.9)
    apply = lambda p, *arguments: DIT.apply({"params": p}, *arguments)

    @jax.jit
    def step(state, base, batch, key):
        network = lora.adapted(apply, base, scale=2.0)
        return make_train_step(objective, network, schedule, optimizer, ema)(state, batch, key)

    batch = {"x": jnp.ones((16, 4, 4, 1)), "condition": jnp.arange(16) % 3, "index": jnp.arange(16)}
    state = create(adapter, optimizer, ema)
    losses = []
    for _ in range(60):
        state, metrics = step(state, params, batch, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params)] == before
    assert all((new != old).any() for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(adapter)))
    merged = lora.merge(params, state.params, 2.0)
    inputs = batch["x"], jnp.full(16, 0.3), batch["condition"]
    np.testing.assert_array_equal(apply(merged, *inputs), lora.adapted(apply, params, 2.0)(state.params, *inputs))


def test_what_does_not_fit_is_refused_by_name():
    params = {"blocks": {"out": {"kernel": random(2, 4, 6), "bias": random(2, 6)}}}
    with pytest.raises(ValueError, match="rank = 0"):
        lora.init(jax.random.key(0), params, 0, "out")
    with pytest.raises(ValueError, match=r"'attn' matches no kernel\..*: blocks/out/bias, blocks/out/kernel"):
        lora.init(jax.random.key(0), params, 2, "attn")
    with pytest.raises(ValueError, match="matches no kernel"):
        lora.init(jax.random.key(0), params, 2, "bias")
    adapter = lora.init(jax.random.key(0), params, 2, "out")
    with pytest.raises(ValueError, match=r"has no blocks/out/kernel\. Its leaves are other"):
        lora.merge({"other": random(2, 2)}, adapter)
    with pytest.raises(ValueError, match=r"not fit blocks/out/kernel of shape \(2, 5, 6"):
        lora.merge({"blocks": {"out": {"kernel": random(2, 5, 6)}}}, adapter)
    with pytest.raises(ValueError, match="no scale for blocks/out/kernel"):
        lora.merge(params, adapter, {"blocks/out": 1.0})
    with pytest.raises(ValueError, match="2 adapters and 1 scales"):
        lora.merge(params, [adapter, adapter], [1.0])
    with pytest.raises(ValueError, match=r"has the factors .*\. Valid: 'down' and 'up'"):
        lora.merge(params, {"blocks": {"out": {"kernel": {"down": random(2, 4, 2)}}}})
    with pytest.raises(ValueError, match=r"cannot be read\. Valid: a form such as"):
        lora.parsed("kernel[a]")


@pytest.mark.parametrize(
    "down, up, kernel",
    [((2,), (2, 4), (4,)), ((2, 2, 3, 1), (2, 2, 1, 4), (2, 2, 3, 4)), ((3, 2), (1, 4), (3, 4)),
     ((3, 2), (2, 4), (5, 4)), ((2, 3, 1), (3, 1, 4), (2, 3, 4))],
    ids=["no inputs", "two axes of layers", "another rank", "other inputs", "other layers"],
)  # fmt: skip
def test_factors_that_are_not_of_a_kernel_are_refused(down, up, kernel):
    with pytest.raises(ValueError, match=r"factors of shapes .* do not fit k of shape"):
        lora.merge({"k": random(*kernel)}, {"k": {"down": random(*down), "up": random(*up)}})


def test_magnitudes_of_inputs_are_norms_over_all_outputs():
    """A stack of two kernels of 3 inputs and 2 x 4 outputs: m W / |W|, for each layer and input."""
    kernel, down, up = random(2, 3, 2, 4), random(2, 3, 1), random(2, 1, 2, 4)
    magnitude = np.float32([[1, 2, 3], [4, 5, 6]])
    merged = lora.merge({"k": kernel}, {"k": {"down": down, "up": up, "input_magnitude": magnitude}}, 0.5)["k"]
    total = kernel + 0.5 * np.einsum("lir,lrab->liab", down, up)
    expected = total * (magnitude / np.sqrt((total**2).sum((2, 3))))[..., None, None]
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-6)


def test_complete_tensors_become_differences_from_the_parameters():
    """V - W of a leaf and of a part of one; factors, differences and leaves that are not there stay as they are."""
    params = {"a": np.float32([1, 2]), "b": np.float32([[1, 2], [3, 4]]), "k": random(2, 2)}
    stays = {"down": random(2, 1), "up": random(1, 2)}
    adapter = {"a": {"whole": np.float32([5, 7])}, "b[1]": {"whole": np.float32([0, 1])}, "k": stays,
               "c": {"whole": np.float32([1])}, "d": {"difference": np.float32([2])}}  # fmt: skip
    relative = lora.differences(params, adapter)
    expected = adapter | {"a": {"difference": [4, 5]}, "b[1]": {"difference": [-3, -3]}}
    assert relative.keys() == expected.keys()
    for place, leaves in expected.items():
        assert relative[place].keys() == leaves.keys()
        for name, leaf in leaves.items():
            np.testing.assert_array_equal(relative[place][name], leaf)
    with pytest.raises(ValueError, match=r"a whole of shape \(2,\) does not fit k, \(2, 2\)"):
        lora.differences(params, {"k": {"whole": np.float32([1, 2])}})


def test_complete_tensors_and_magnitudes_change_parameters_unless_shown_otherwise():
    ones = np.ones(2)
    assert not lora.is_zero({"k": {"whole": 0 * ones}}, 1.0)
    factors = {"down": np.ones((2, 1)), "up": np.zeros((1, 2))}
    assert lora.is_zero({"k": factors}, 1.0)
    for name in ("magnitude", "input_magnitude"):
        assert not lora.is_zero({"k": factors | {name: ones}}, 1.0)
    assert lora.is_zero({"k": {"difference": 0 * ones}}, 1.0) and not lora.is_zero({"k": {"difference": ones}}, 1.0)


def test_the_adapted_network_is_that_of_the_merged_parameters_which_get_no_gradient():
    params = {"k": jnp.asarray(random(3, 2))}
    adapter = {"k": {"down": jnp.asarray(random(3, 1)), "up": jnp.asarray(random(1, 2))}}
    apply = lambda params, x, clock: (x @ params["k"]).sum() * clock
    x = random(4, 3)
    value = lambda params, adapter: lora.adapted(apply, params, 0.5)(adapter, x, 2.0)
    total, (of_params, of_adapter) = jax.value_and_grad(value, (0, 1))(params, adapter)
    merged = params["k"] + 0.5 * adapter["k"]["down"] @ adapter["k"]["up"]
    np.testing.assert_allclose(total, 2 * (x @ merged).sum(), rtol=1e-5)
    assert not of_params["k"].any() and of_adapter["k"]["down"].any() and of_adapter["k"]["up"].any()


def test_an_adapter_acts_unless_a_factor_or_its_scale_is_zero():
    factors = lambda down, up: {"kernel": {"down": np.full((3, 2), down), "up": np.full((2, 4), up)}}
    acts = lambda down, up, scale: not lora.is_zero(factors(down, up), scale)
    assert acts(1.0, 1.0, 0.5)
    assert not acts(1.0, 0.0, 0.5) and not acts(0.0, 1.0, 0.5) and not acts(1.0, 1.0, 0.0)


@pytest.mark.parametrize("shared", [False, True])
def test_updates_of_one_layer_join_by_their_scales(shared):
    """As one product: 2 B_1 A_1 + B_2 A_2 / 2, whether they read by one A or by two."""
    rng = np.random.default_rng(0)
    downs = rng.normal(size=(2, 3, 5)).astype(np.float32)[[0, 0 if shared else 1]]
    ups = rng.normal(size=(2, 4, 3)).astype(np.float32)
    down, up, scale = lora_updates._joined([(downs[0], ups[0], 2.0), (downs[1], ups[1], 0.5)])
    np.testing.assert_allclose(scale * up @ down, 2 * ups[0] @ downs[0] + ups[1] @ downs[1] / 2, rtol=1e-4, atol=1e-5)
