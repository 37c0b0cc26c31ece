"""Invariant point attention against its published algorithm, and what a rigid motion does to network and samples."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diffusion import manifolds, samplers, schedules, timesteps
from diffusion.manifolds.tangent_field import velocity_field
from diffusion.models.frame_transformer import FrameTransformer
from diffusion.models.layers.invariant_point_attention import InvariantPointAttention
from tests import numpy_programs
from tests.drawn_parameters import drawn

B, N = 2, 6
TURN = np.float32(Rotation.random(random_state=3).as_matrix())
SHIFT = np.float32([2.0, -1.0, 0.5])


def moved(x):
    """Frames after a rigid motion of all."""
    return np.concatenate([TURN @ x[..., :3], (x[..., 3] @ TURN.T + SHIFT)[..., None]], -1)


@functools.cache
def frames():
    return np.asarray(manifolds.frame_prior(N).sample(jax.random.split(jax.random.key(0), B)))


@functools.cache
def network():
    """(x, t, condition) -> the output of a network whose parameters are nowhere zero."""
    module = FrameTransformer(16, 2, 2, 8, 2, 3, num_classes=3)
    inputs = (frames(), np.float32([0.3, 0.9]), np.array([0, 2]))
    params = drawn(module.init, *inputs)
    return jax.jit(lambda x, t, condition: module.apply(params, x, t, condition)), module, params


@pytest.mark.extended
def test_attention_is_the_published_algorithm():
    """Every line of algorithm 22, by loops over heads, residues and points in float64."""
    heads, channels, queries, values = 2, 3, 2, 3
    module = InvariantPointAttention(5, heads, channels, queries, values)
    rng = np.random.default_rng(1)
    s, z = (np.float32(rng.normal(size=shape)) for shape in ((1, N, 4), (1, N, N, 3)))
    rotations, positions = frames()[:1, ..., :3], frames()[:1, ..., 3]
    params = drawn(module.init, s, z, rotations, positions)
    out = np.asarray(jax.jit(module.apply)(params, s, z, rotations, positions))[0]
    p = jax.tree.map(lambda leaf: np.float64(leaf), params["params"])
    place = lambda i, point: rotations[0, i] @ point + positions[0, i]
    rows = []
    for i in range(N):
        parts = {"z": [], "v": [], "points": [], "lengths": []}
        for h in range(heads):
            project = lambda name, j, h=h: np.tensordot(s[0, j], p[name]["kernel"], 1)[h]
            gamma = np.log1p(np.exp(p["gamma"][h]))
            scores = []
            for j in range(N):
                apart = 0.0
                for q, k in zip(project("query_points", i), project("key_points", j)):
                    apart += np.sum((place(i, q) - place(j, k)) ** 2)
                product = project("query", i) @ project("key", j) / np.sqrt(channels)
                bias = z[0, i, j] @ p["pair_bias"]["kernel"][:, h]
                scores.append(np.sqrt(1 / 3) * (product + bias - gamma * np.sqrt(2 / (9 * queries)) / 2 * apart))
            a = np.exp(scores - np.max(scores))
            a /= a.sum()
            parts["z"].append(a @ z[0, i])
            parts["v"].append(sum(a[j] * project("value", j) for j in range(N)))
            common = [sum(a[j] * place(j, project("value_points", j)[k]) for j in range(N)) for k in range(values)]
            own = np.array([rotations[0, i].T @ (point - positions[0, i]) for point in common])
            parts["points"].append(own)
            parts["lengths"].append(np.linalg.norm(own, axis=-1))
        rows.append(np.concatenate([np.ravel(part) for part in parts.values()]))
    np.testing.assert_allclose(out, np.array(rows) @ p["out"]["kernel"] + p["out"]["bias"], atol=2e-5)


@pytest.mark.extended
def test_a_rigid_motion_moves_the_velocity_along():
    """Equivariance to 1e-5 under rotations; a translation of all changes nothing."""
    apply, *_ = network()
    x, t, labels = frames(), np.float32([0.3, 0.9]), np.array([0, 2])
    u = np.asarray(apply(x, t, labels))
    assert np.abs(u).max() > 0.3
    np.testing.assert_allclose(apply(moved(x), t, labels), TURN @ u, atol=1e-5)
    tangent = manifolds.frames(N).tangent(jnp.asarray(x), jnp.asarray(u))
    np.testing.assert_allclose(tangent[..., :3], u[..., :3], atol=1e-5)  # of the rotations it is one already
    mirror = np.diag(np.float32([1, 1, -1]))
    mirrored = lambda of: np.concatenate([mirror @ of[..., :3] @ mirror, mirror @ of[..., 3:]], -1)
    reflected = np.asarray(apply(mirrored(x), t, labels))
    assert np.abs(reflected - mirrored(u)).max() > 1e-2  # a mirror is no rigid motion: hands are told apart


@pytest.mark.extended
def test_a_whole_trajectory_moves_along():
    """Samples from turned noise are the turned samples, and stay centred."""
    schedule = schedules.rectified_flow()
    apply, *_ = network()
    manifold = manifolds.frames(N)
    field = velocity_field(lambda x, t, c: 0.3 * apply(x, t, c), schedule, manifold, condition=np.array([0, 2]))
    plan = timesteps.plan(timesteps.uniform(schedule, steps=5))
    keys = jax.random.split(jax.random.key(2), B)
    run = jax.jit(lambda x: samplers.sample_trajectory(manifolds.geodesic_euler(), field, schedule, x, plan, keys)[1].x)
    turned = np.concatenate([TURN @ frames()[..., :3], (frames()[..., 3] @ TURN.T)[..., None]], -1)
    ways, turned_ways = np.asarray(run(jnp.asarray(frames()))), np.asarray(run(jnp.asarray(turned)))
    assert np.abs(ways[-1] - frames()).max() > 0.1
    np.testing.assert_allclose(turned_ways, TURN @ ways, atol=1e-5)
    assert np.abs(ways[..., 3].mean(-2)).max() < 1e-5
    manifold.check(ways[-1])


@pytest.mark.extended
def test_the_condition_and_the_place_in_the_chain_count():
    apply, *_ = network()
    x, t = frames(), np.float32([0.3, 0.9])
    u = np.asarray(apply(x, t, np.array([0, 2])))
    assert np.abs(np.asarray(apply(x, t, np.array([1, 2])))[0] - u[0]).max() > 1e-3
    backwards = np.asarray(apply(x[:, ::-1].copy(), t, np.array([0, 2])))[:, ::-1]
    assert np.abs(backwards - u).max() > 1e-3


@pytest.mark.extended
def test_each_layer_sees_the_neighbours_where_the_layer_before_has_moved_them():
    """A motion that all frames make in the first layer, each in its own axes, and what the second layer then sees."""
    module = FrameTransformer(4, 2, 1, 2, 1, 1)
    x, t = frames()[:1, :3], np.float32([0.5])
    params = jax.tree.map(np.zeros_like, drawn(module.init, x, t))
    motion = np.float32([0.3, -0.2, 0.5, 1.0, -2.0, 0.5])
    params["params"]["update_0"]["bias"] = motion

    def read_by_the_second_layer(params):
        reads = {}

        def record(call, args, kwargs, context):
            reads[context.module.name] = args[0]
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            module.apply(params, x, t)
        return reads["neighbours_1"]

    features = numpy_programs.outputs(read_by_the_second_layer, params)
    turns = [Rotation.from_matrix(r) for r in x[0, ..., :3]]
    centred = x[0, ..., 3] - x[0, ..., 3].mean(0)
    positions = [turn.apply(0.5 * motion[3:]) + place for turn, place in zip(turns, centred)]
    turns = [turn * Rotation.from_rotvec(0.5 * motion[:3]) for turn in turns]
    for i, parts in enumerate(features[0].reshape(3, 2, 12)):
        for j, part in zip((i - 1, i + 1), parts):
            back = turns[i].inv()
            there = 0 <= j < 3
            turn = (back * turns[j]).as_matrix().ravel() if there else np.zeros(9)
            bond = back.apply(positions[j] - positions[i]) / 0.38 if there else np.zeros(3)
            np.testing.assert_allclose(part, [*turn, *bond], atol=2e-5)


@pytest.mark.extended
def test_what_does_not_fit_is_refused():
    _, module, params = network()
    shape_of = lambda module, x: jax.eval_shape(
        lambda: module.apply(params, jnp.zeros(x), jnp.zeros(1), jnp.zeros(1, int))
    )
    with pytest.raises(ValueError, match=r"frames \[B, N, 3, 4\]"):
        shape_of(module, (1, N, 3, 3))
    with pytest.raises(ValueError, match="chain of 6 residues is longer than longest=4"):
        shape_of(module.clone(longest=4), (1, N, 3, 4))
    for fields, message in (
        ({"width": 10, "heads": 4}, "heads=4"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"depth": 0}, "depth"),
    ):
        with pytest.raises(ValueError, match=message):
            FrameTransformer(**fields)
