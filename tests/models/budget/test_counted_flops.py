"""The count of operations in a trace: by hand, and against the formula of a DiT."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from diffusion.models.budget import peak_memory
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.models.budget.flops import flops, recomputed_flops
from diffusion.models.dit import DiT
from diffusion.models.layers import fp8, products
from diffusion.models.mlp import MLP


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def of(module, *shape):
    x, t = struct(1, *shape), struct(1)
    variables = jax.eval_shape(module.init, jax.random.key(0), x, t)
    return counted_flops(module.apply, variables, x, t)


def test_products_and_convolutions_by_hand():
    assert counted_flops(jnp.matmul, struct(3, 4), struct(4, 5)) == 2 * 3 * 4 * 5
    convolve = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "SAME", feature_group_count=2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert counted_flops(convolve, struct(2, 6, 6, 8), struct(3, 3, 4, 6)) == 2 * (2 * 6 * 6 * 6) * (3 * 3 * 4)


def test_the_zeros_of_a_dilated_input_are_not_multiplied():
    """A strided convolution has the pairs of its outputs and kernel, and so have both of its gradients."""
    names = ("NHWC", "HWIO", "NHWC")
    strided = lambda x, k: jax.lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=names)
    shapes = struct(2, 16, 16, 8), struct(3, 3, 8, 12)
    once = 2 * (2 * 8 * 8 * 12) * (3 * 3 * 8)
    assert counted_flops(strided, *shapes) == once
    gradients = lambda *both: jax.vjp(strided, *both)[1](jnp.ones((2, 8, 8, 12)))
    assert counted_flops(gradients, *shapes) == 3 * once
    widened = lambda x, k: jax.lax.conv_transpose(x, k, (2, 2), "SAME", dimension_numbers=names)
    assert counted_flops(widened, *shapes) == 2 * (2 * 16 * 16 * 8) * (3 * 3 * 12)  # each input with the whole kernel


@pytest.mark.parametrize(
    "taps, padding, apart, pairs",
    [
        (3, 1, 1, 7),  # of -1 .. 5, the positions 0, 2 and 4 hold values: 1, 2, 1, 2 and 1 of them in a window of three
        (2, 0, 2, 4),  # of 0 .. 4, both positions of the windows (0, 2) and (2, 4), none of (1, 3)
    ],
)
def test_values_of_a_widened_line_in_each_window(taps, padding, apart, pairs):
    widened = lambda x, k: jax.lax.conv_general_dilated(
        *(x, k, (1,), [(padding, padding)]), lhs_dilation=(2,), rhs_dilation=(apart,)
    )
    assert counted_flops(widened, struct(5, 2, 3), struct(4, 2, taps)) == 2 * 5 * 4 * 2 * pairs


def test_the_parts_of_a_function_on_several_devices_are_counted_together():
    mesh = AbstractMesh((2, 3), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    rows = PartitionSpec(("a", "b"))
    specs = {"in_specs": (rows, PartitionSpec()), "out_specs": rows}
    product = jax.shard_map(jnp.matmul, mesh=mesh, **specs, check_vma=False)
    assert counted_flops(product, struct(12, 4), struct(4, 5)) == 2 * 12 * 4 * 5
    trace = jax.make_jaxpr(lambda x, k: product(product(x, k), k))(struct(12, 4), struct(4, 4)).jaxpr
    inputs = 4 * (12 * 4 + 4 * 4)
    assert peak_memory.peak(trace) == inputs + 2 * 4 * 12 * 4  # the first product, and the second from it
    along_one = jax.shard_map(
        *(jnp.matmul,), mesh=mesh, in_specs=(PartitionSpec("a"), PartitionSpec()), out_specs=PartitionSpec("a"),
        axis_names={"a"}, check_vma=False,
    )  # fmt: skip
    assert counted_flops(along_one, struct(12, 4), struct(4, 5)) == 2 * 12 * 4 * 5


def test_what_a_function_on_several_devices_holds_is_of_all_devices():
    mesh = AbstractMesh((2, 3), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    rows = PartitionSpec(("a", "b"))
    part = lambda x: jnp.sum(jnp.concatenate([x] * 4), keepdims=True)
    total = jax.shard_map(part, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)
    trace = jax.make_jaxpr(total)(struct(12)).jaxpr
    assert peak_memory.peak(trace) == 4 * 12 + 6 * 4 * (8 + 1)  # on each device eight numbers, and their sum


def test_a_loop_holds_the_rows_of_its_turns_beside_one_turn():
    """The last of four turns holds the first carry, three rows of 32 numbers, and its own two arrays of as many."""

    def turn(carry, _):
        wide = jnp.concatenate([carry] * 4)
        row = wide * wide
        return carry + 1, row

    trace = jax.make_jaxpr(lambda x: jax.lax.scan(turn, x, None, length=4))(struct(8)).jaxpr
    assert peak_memory.peak(trace) == 4 * (8 + 3 * 32 + 2 * 32)


def test_loops_count_their_turns_and_branches_the_dearest():
    def looped(x):
        body = lambda carry, _: (jnp.where(True, carry @ carry, carry), None)
        x, _ = jax.lax.scan(jax.checkpoint(body), x, None, length=5)
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x)

    assert counted_flops(looped, struct(4, 4)) == (5 + 2) * 2 * 4**3
    assert counted_flops(looped, struct(4, 4), branch=min) == 5 * 2 * 4**3


@pytest.mark.extended
@pytest.mark.parametrize("fields", [{}, {"remat": "full", "unroll": 1}, {"mlp": "swiglu", "positions": "rope"}])
def test_a_dit_has_as_many_as_its_formula(fields, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")  # on CPU, means are matrix products too
    module = DiT(patch=2, width=48, depth=3, heads=4, num_classes=0, attention="matmul", **fields)
    assert of(module, 8, 8, 4) == flops(module, (8, 8, 4))


@pytest.mark.extended
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("interval", [False, True])
def test_embeddings_of_the_guidance_and_of_each_layer_count(own, interval, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    fields = {"strength": True, "interval": interval, "own_embeddings": own}
    module = DiT(patch=2, width=48, depth=3, heads=4, num_classes=0, attention="xla", **fields)
    condition = {"label": None, "strength": struct(1), **({"interval": struct(1, 2)} if interval else {})}
    inputs = struct(1, 8, 8, 4), struct(1), condition
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    assert counted_flops(module.apply, variables, *inputs) == flops(module, (8, 8, 4))


@pytest.mark.extended
@pytest.mark.parametrize("remat", ["elementwise", "dots", "narrow", "full"])
def test_the_backward_pass_repeats_the_products_of_the_formula(remat, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")

    def of_gradient(module):
        inputs = struct(1, 8, 8, 4), struct(1)
        variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
        return counted_flops(jax.grad(lambda v, *of: module.apply(v, *of).sum()), variables, *inputs)

    plain = DiT(patch=2, width=48, depth=3, heads=4, num_classes=0, attention="xla")
    module = plain.clone(remat=remat)
    assert of_gradient(module) - of_gradient(plain) == recomputed_flops(module, (8, 8, 4))


def test_an_mlp_has_as_many_as_one_counts(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    d, hidden, layers = 32, 128, 2
    ends = 2 * 2 * d + 256 * d + d * d + 2 * d * d  # x in and out, the time, the last scale and shift
    assert of(MLP(d, layers), 2) == 2 * (ends + layers * (2 * d * hidden + 3 * d * d))


def test_donated_arrays_are_written_in_place():
    """The parameters and their sum are donated: the step holds them once, and the gradient of one beside them."""
    size, numbers = 4 * 1000, jnp.zeros(1000)

    def step(state, batch):
        params, average = state
        gradient = jnp.cos(params * batch)
        params = params - gradient
        return (params, average + params), jnp.sum(gradient)

    peak = lambda **options: peak_memory.peak(jax.make_jaxpr(jax.jit(step, **options))((numbers, numbers), 2.0).jaxpr)
    inputs = 2 * size + 4
    assert peak() == inputs + 3 * size + 4  # the gradient, and both new arrays
    assert inputs + size <= peak(donate_argnums=0) <= inputs + 2 * size + 4


def test_two_donated_arrays_are_replaced_one_after_the_other():
    """Three arrays at most: both, and the next of one; the call's outputs take the place of its inputs."""
    numbers = jnp.zeros(1000)
    replace = jax.jit(lambda a, b: (a + 1, b * 2), donate_argnums=(0, 1))
    trace = jax.make_jaxpr(replace)(numbers, numbers).jaxpr
    assert peak_memory.peak(trace, donated=(True, True)) == 3 * 4 * 1000


def test_products_in_fp8_are_counted_apart():
    """A product of tokens and its two derivatives are in fp8; the product of the results is not."""

    def loss(kernel, x):
        with fp8.in_fp8():
            y = products.rows_first(x, kernel, (((2,), (0,)), ((), ())))
        return jnp.sum(y @ jnp.swapaxes(y, 1, 2))

    step = jax.checkpoint(jax.grad(loss, argnums=(0, 1)))
    arguments = struct(8, 3), struct(2, 5, 8)
    of_tokens, beside = 3 * 2 * 2 * 5 * 8 * 3, 3 * 2 * 2 * 5 * 5 * 3
    assert counted_flops(step, *arguments, in_fp8=True) == of_tokens
    assert counted_flops(step, *arguments) == of_tokens + beside
