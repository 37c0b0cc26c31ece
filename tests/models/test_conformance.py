"""Conformance of every backbone: shapes, types, refusals, independent examples, gradients, guidance and training.

A new backbone is one line in backbones.py.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, parameterizations, samplers, schedules, timesteps
from diffusion.models.layers import layer_masks
from tests import numpy_programs
from tests.models import backbones
from tests.models.backbones import BACKBONES
from tests.published.family_facts import stated

SCHEDULE = schedules.rectified_flow()
every = pytest.mark.parametrize("name", BACKBONES)
# The layers of published families are written out in fast tests of their own (tests/published), and numpy takes most of
# a second for each program of these.
LONGER = ("unet, ddpm", "unet, adm", "unet, volumes", "ddpm++", "ncsn++", "edm2", "residual_u_vit", "jit", "mdt")
extended = {*stated("BACKBONES"), *LONGER}
own_first = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.extended if name in extended else ()) for name in BACKBONES]
)


def slow_but(*fast):
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in BACKBONES]


MASKED = [name for name, backbone in BACKBONES.items() if "skip" in getattr(backbone.module, "layer_masks", ())]
SECOND = ("jit", "mmdit")  # whose "blocks" are the second stack to run


def tree(condition, change):
    return jax.tree.map(change, condition)


@functools.cache
def made(name):
    """(parameters, the network computed by numpy) of a backbone, for all the tests."""
    module = BACKBONES[name].module
    network = numpy_programs.traced_once(lambda p, x, t, c: module.apply({"params": p}, x, t, c))
    return backbones.parameters(BACKBONES[name]), network


@pytest.fixture
def at(name):
    """(apply, x, t, condition, output) of two examples."""
    params, network = made(name)
    apply = functools.partial(network, params)
    arguments = backbones.inputs(BACKBONES[name])
    return apply, *arguments, apply(*arguments)


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but("dit", "pixart", "u_vit, class", "unet, adm"))
def test_shapes_and_types(name):
    """Outputs and parameters are float32 whatever the compute type."""
    backbone = BACKBONES[name]
    module = backbone.module.clone(dtype="bfloat16")
    output, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *backbones.inputs(backbone, 3))
    assert output.shape == (3, *backbone.shape) and output.dtype == jnp.float32
    assert variables.keys() == {"params"}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.extended
@every
def test_bad_calls_are_refused(name):
    backbone = BACKBONES[name]
    x, t, condition = backbones.inputs(backbone)
    entries = {"label": condition} if isinstance(condition, np.ndarray) else dict(condition or {})
    calls = [
        ((x[0], t, condition), re.escape(str(backbone.shape))),
        *[((x[:, :7], t, condition), "7")] * (backbone.divides > 1),
        ((x, t[:1], condition), r"\(1,\)"),
        ((x, np.tile(t, (2, 1)), condition), r"\(2, 2\)"),
        ((x, t, {**entries, "txet": x}), "'txet'"),
        *(((x, t, {k: v for k, v in entries.items() if k != entry} or None), f"{entry}|num_classes=")
          for entry in entries if entry not in ("text_mask", "augment")),
        *(((x, t, {**entries, entry: entries[entry][:1]}), rf"{entry}|\(1,\)") for entry in entries),
    ]  # fmt: skip
    if not entries:
        calls.append(((x, t, np.arange(2)), "num_classes=0|condition"))
    for arguments, message in calls:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(backbone.module.init, jax.random.key(0), *arguments)


@every
@pytest.mark.slow
def test_outside_jit_and_with_one_time_it_is_the_same(name, at):
    apply, x, t, condition, _ = at
    module, (params, _) = BACKBONES[name].module, made(name)
    jitted = apply(x, np.full_like(t, t[0]), condition)
    np.testing.assert_allclose(module.apply({"params": params}, x, t[0], condition), jitted, rtol=1e-4, atol=5e-5)


@own_first
def test_examples_do_not_see_each_other(name, at):
    """An example's output is the same bits whoever is beside it, and its neighbour's alone moves its neighbour's."""
    apply, x, t, condition, output = at
    assert np.abs(output).max() > 0.1 and np.isfinite(output).all()
    swap = lambda a: a[::-1].copy()
    other = apply(np.stack([x[0], -x[1]]), t, condition)
    np.testing.assert_array_equal(other[0], output[0])
    assert np.abs(other[1] - output[1]).max() > 1e-2
    np.testing.assert_allclose(apply(swap(x), swap(t), tree(condition, swap))[::-1], output, rtol=1e-5, atol=1e-5)


@own_first
def test_time_and_every_entry_of_the_condition_are_heard(name, at):
    apply, x, t, condition, output = at
    assert np.abs(apply(x, t + 0.1, condition) - output).max() > 1e-4
    leaves, structure = jax.tree.flatten(condition)
    for i, leaf in enumerate(leaves):
        changed = ~leaf if leaf.dtype == bool else leaf[::-1]
        other = apply(x, t, jax.tree.unflatten(structure, [*leaves[:i], changed, *leaves[i + 1 :]]))
        assert np.abs(other - output).max() > 1e-4, structure


@every
@pytest.mark.slow
def test_bfloat16_is_close(name, at):
    _, x, t, condition, output = at
    module = BACKBONES[name].module.clone(dtype="bfloat16")
    rounded = jax.jit(lambda p: module.apply({"params": p}, x, t, condition))(made(name)[0])
    error = np.linalg.norm(rounded - output) / np.linalg.norm(output)
    assert 0 < error < 0.1


@every
@pytest.mark.extended
def test_no_network_in_float32_promotes_a_type_implicitly(name):
    module, inputs = BACKBONES[name].module, backbones.inputs(BACKBONES[name])
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    with jax.numpy_dtype_promotion("strict"):
        assert jax.eval_shape(module.apply, variables, *inputs).dtype == jnp.float32


@every
@pytest.mark.extended
def test_an_error_has_a_gradient_in_every_parameter(name):
    backbone, (params, _) = BACKBONES[name], made(name)
    x, t, condition = backbones.inputs(backbone)

    def loss(params):
        return jnp.square(backbone.module.apply({"params": params}, x, t, condition) - x[::-1]).mean()

    value, gradient = numpy_programs.outputs(jax.value_and_grad(loss), params)
    assert np.isfinite(value) and value > 0
    sizes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(np.abs(leaf).max())
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
    }
    assert np.isfinite(list(sizes.values())).all()
    silent = [path for path, size in sizes.items() if not size > 1e-6 * max(sizes.values())]
    assert [path for path in silent if not re.search(backbone.untrained, path)] == []


@pytest.mark.parametrize("name", [name for name, backbone in BACKBONES.items() if backbone.condition(1) is not None])
@pytest.mark.extended
def test_guidance_runs_both_branches_in_one_call(name, at):
    """The two branches of one example are the two examples of a batch."""
    apply, x, t, condition, _ = at
    velocity = parameterizations.velocity()
    rows = [tree(condition, lambda a, i=i: a[i : i + 1]) for i in (0, 1)]
    branches = guidance.together(apply, SCHEDULE, velocity, tuple(rows))
    found = branches(x[:1], t[:1])
    both = apply(np.stack([x[0], x[0]]), np.stack([t[0], t[0]]), condition)
    for i, prediction in enumerate(found):
        x0 = prediction.x0[0]
        eps = prediction.eps[0]
        np.testing.assert_allclose(eps - x0, both[i], rtol=1e-4, atol=1e-4 * np.abs(both).max())
    assert np.abs(found[0].x0 - found[1].x0).max() > 1e-4


@every
@pytest.mark.slow
def test_a_sampler_runs(name):
    backbone, (params, _) = BACKBONES[name], made(name)
    keys = jax.random.split(jax.random.key(1), (2, 2))
    plan = timesteps.plan(timesteps.uniform(SCHEDULE, 3))

    @jax.jit
    def run(params):
        network = lambda *arguments: backbone.module.apply({"params": params}, *arguments)
        denoise = parameterizations.denoiser(
            network, SCHEDULE, parameterizations.velocity(), backbones.inputs(backbone)[2]
        )
        x = samplers.prior(SCHEDULE, keys[0], backbone.shape)
        return x, samplers.sample(samplers.euler(), denoise, SCHEDULE, x, plan, keys[1])

    start, found = run(params)
    params, network = made(name)
    for t, s in zip(plan.t, plan.s):  # the Euler steps of the same network, one after the other
        start = start + (s - t) * network(params, start, jnp.full(2, t), backbones.inputs(backbone)[2])
    np.testing.assert_allclose(found, start, rtol=1e-3, atol=1e-4 * np.abs(found).max())


@pytest.mark.extended
@pytest.mark.parametrize("name", [name for name, backbone in BACKBONES.items() if backbone.adapter_entries])
def test_adapter_entries_that_add_nothing_change_nothing(name, at):
    apply, x, t, condition, output = at
    entries = {"label": condition} if isinstance(condition, np.ndarray) else condition
    opened = lambda scale: apply(x, t, {**entries, **BACKBONES[name].adapter_entries(2, scale)})
    np.testing.assert_allclose(opened(0.0), output, rtol=1e-5, atol=1e-5)
    assert np.abs(opened(1.0) - output).max() > 1e-2


def what_blocks_put_out(backbone, params, arguments):
    """The output of each block in order, of modules that run one operation after the other and no scan."""
    seen = []

    def intercept(method, args, kwargs, context):
        output = method(*args, **kwargs)
        path = "/".join(context.module.path) if context.method_name == "__call__" else ""
        match = path and re.fullmatch(backbone.blocks, path)
        if match and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(output)):
            if seen and match.groups() and seen[-1][0] == match.groups() and seen[-1][1] != path:
                seen.pop()  # the attention of the same block
            seen.append((match.groups(), path, output))
        return output

    with jax.disable_jit(), nn.intercept_methods(intercept):
        backbone.module.apply({"params": params}, *arguments)
    first = lambda output: output if isinstance(output, jax.Array) else first(output[0])  # of carry and picture
    return [first(output) for *_, output in seen]


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but("dit"))
def test_features_are_what_the_blocks_put_out(name, at):
    """And the output beside them is the same, up to the rounding of another program's fusions."""
    backbone, (params, _) = BACKBONES[name], made(name)
    *arguments, output = at[1:]
    blocks = what_blocks_put_out(backbone, params, arguments)
    number = backbone.module.feature_blocks
    assert len(blocks) == number > 1
    requested = (number, *range(1, number))  # all, not in order
    with_all = jax.jit(lambda p, *a: backbone.module.apply({"params": p}, *a, features=requested))
    beside, features = with_all(params, *arguments)
    np.testing.assert_allclose(beside, output, rtol=1e-4, atol=5e-5)
    assert len(features) == number
    for k, h in zip(requested, features):
        block = blocks[k - 1][:, -h.shape[1] :]  # the picture's tokens, behind those of the condition
        np.testing.assert_allclose(h, block, rtol=1e-4, atol=1e-4 * np.abs(block).max())
    with pytest.raises(ValueError, match=rf"no block {number + 1}. Valid: 1 .. {number}"):
        backbone.module.apply({"params": params}, *arguments, features=(1, number + 1))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "mask_dit" else pytest.mark.extended) for name in MASKED]
)
def test_a_layer_mask_counts_the_layers_of_all_stacks(name):
    """The example that skips the last layer leaves it as it entered; the other does not."""
    module = BACKBONES[name].module
    x, t, condition = backbones.inputs(BACKBONES[name])
    entries = condition if isinstance(condition, dict) else {} if condition is None else {"label": condition}
    number = module.feature_blocks
    skip = np.stack([layer_masks.mask(1, number, (number - 1,))[0], layer_masks.mask(1, number, ())[0]])
    features = lambda params, condition: module.apply(
        {"params": params}, x, t, condition, features=(number - 1, number)
    )[1]
    before, after = numpy_programs.outputs(features, backbones.parameters(BACKBONES[name]), {**entries, "skip": skip})
    np.testing.assert_array_equal(after[0], before[0])
    assert np.abs(after[1] - before[1]).max() > 1e-2


@pytest.mark.extended
@pytest.mark.parametrize("name", slow_but("dit"))
def test_features_that_nobody_requests_leave_no_trace(name):
    """An empty request lowers to the program without one, and a gradient through one block flows up to it alone."""
    backbone, (params, _) = BACKBONES[name], made(name)
    arguments = backbones.inputs(backbone)
    text = lambda call: jax.jit(call).lower(params, *arguments).as_text()
    apply = lambda p, *a, **options: backbone.module.apply({"params": p}, *a, **options)
    assert text(lambda *a: apply(*a, features=())[0]) == text(lambda *a: apply(*a))

    gradient = jax.grad(lambda p: jnp.square(apply(p, *arguments, features=(1,))[1][0]).mean())(params)
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    moved = {path[0].key for path, leaf in leaves if np.abs(leaf).max() > 0}
    assert moved and not any(part.startswith(("final", "norm_out", "conv_out", "up", "out")) for part in moved)
    stacked = [leaf for path, leaf in leaves if path[0].key == "blocks" and name not in SECOND]
    assert all(np.abs(leaf[1:]).max() == 0 for leaf in stacked)
    assert not stacked or max(np.abs(leaf[0]).max() for leaf in stacked) > 0
