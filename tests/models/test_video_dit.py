"""VideoDiT: its order of tokens, frames at their own times, pictures as videos of one frame, and a DiT extended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import parameterizations, samplers, schedules, timesteps
from diffusion.io.leaf_names import leaves_of
from diffusion.models import DiT, VideoDiT, video_angles, with_frames
from diffusion.models.layers.embeddings import rotate
from diffusion.training.warm_start import warm_start
from tests.models import backbones

SCHEDULE = schedules.rectified_flow()
SHAPE = (3, 8, 8, 4)
FIELDS = {"patch": 4, "width": 16, "depth": 1, "heads": 2}
NETWORKS = {"factorised": VideoDiT(**FIELDS), "full": VideoDiT(**FIELDS, mixing="full")}
X, T = backbones.drawn(2, *SHAPE), np.float32([0.2, 0.7])


def trained(module, shape=SHAPE, condition=lambda batch: None):
    return backbones.parameters(backbones.Backbone(module, shape, condition))


@pytest.fixture(scope="module")
def made():
    """name -> the compiled network with parameters that are nowhere zero."""
    params = {name: trained(module) for name, module in NETWORKS.items()}
    compiled = {name: jax.jit(module.apply) for name, module in NETWORKS.items()}
    return {name: lambda *a, name=name: compiled[name]({"params": params[name]}, *a) for name in NETWORKS}


@pytest.mark.extended
@pytest.mark.parametrize("name", NETWORKS)
def test_each_frame_hears_its_own_time_and_all_frames(name, made):
    """One time is that time for each frame; a time or a frame of the end is heard in the first frame."""
    network = made[name]
    alike = network(X, np.repeat(T[:, None], 3, axis=1))
    np.testing.assert_allclose(alike, network(X, T), rtol=1e-5, atol=1e-6)
    times = np.float32([[0.2, 0.2, 0.9], [0.7, 0.7, 0.7]])
    own = network(X, times)
    assert np.abs(own[0, 0] - alike[0, 0]).max() > 1e-4  # through the attention along the frames
    assert np.abs(own[0, 2] - alike[0, 2]).max() > 10 * np.abs(own[0, 0] - alike[0, 0]).max()
    np.testing.assert_array_equal(own[1], alike[1])
    moved = network(np.concatenate([X[:, :2], -X[:, 2:]], axis=1), T)
    assert np.abs(moved[:, 0] - alike[:, 0]).max() > 1e-4


@pytest.mark.extended
def test_factorised_attention_along_the_frames_sees_its_own_place(made):
    """A patch of the last frame reaches all patches of the first, but only after the layer's attention within frames.

    With one layer, and that attention first, a patch is heard in its own frame and, along the frames, everywhere; in a
    network whose attention within frames is silent, in the patches at its place alone.
    """
    module = NETWORKS["factorised"]
    params, apply = trained(module), jax.jit(module.apply)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0 * leaf if [key.key for key in path][1:3] == ["attention", "out"] else leaf, params
    )
    x = X.copy()
    x[:, 2, :4, 4:] *= -1  # the patch (0, 1) of the last frame
    change = np.abs(apply({"params": silent}, x, T) - apply({"params": silent}, X, T))
    patches = change.reshape(2, 3, 2, 4, 2, 4, 4).max(axis=(0, 3, 5, 6))
    heard = np.zeros((3, 2, 2), bool)
    heard[:, 0, 1] = True
    np.testing.assert_array_equal(patches > 0, heard)
    everywhere = np.abs(made["factorised"](x, T) - made["factorised"](X, T)).reshape(2, 3, 2, 4, 2, 4, 4)
    assert (everywhere.max(axis=(0, 3, 5, 6)) > 0).all()


def test_rotary_scores_depend_on_differences_of_places_alone():
    """Moving all patches by frames, rows and columns leaves each product of a query and a key as it is."""
    angles = video_angles(4, 5, 6, 16)
    assert angles.shape == (120, 2, 4) and angles.dtype == np.float32
    space, frames = 16 // 6 * 2, 16 - 2 * (16 // 6 * 2)
    axes = [frames // 2, space // 2, space // 2]
    pairs = angles.reshape(4, 5, 6, 8)
    for axis, start in enumerate(np.cumsum([0, *axes[:-1]])):  # the pairs of an axis count its places, the first by one
        np.testing.assert_allclose(np.moveaxis(pairs, axis, 0)[2][..., start], 2.0, rtol=1e-6)
    q, k = (jnp.asarray(np.random.default_rng(i).normal(size=(1, 1, 1, 16)), jnp.float32) for i in (0, 1))
    at = lambda a, place: rotate(a, pairs[place].reshape(1, 2, 4))
    scores = [
        float((at(q, one) * at(k, other)).sum())
        for one, other in [((0, 1, 2), (1, 3, 0)), ((2, 2, 4), (3, 4, 2)), ((0, 1, 2), (3, 4, 5))]
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5) and abs(scores[0] - scores[2]) > 1e-2


@pytest.mark.extended
def test_a_network_of_pictures_with_frames_begins_as_itself():
    picture = DiT(**FIELDS, num_classes=3, norm="scaled_rmsnorm", learn_sigma=True)
    labels = np.arange(2)
    params = trained(picture, SHAPE[1:], lambda batch: np.zeros(batch, int))
    video, extended = with_frames(picture, params, jax.random.key(0))
    apply = jax.jit(video.apply)
    found = apply({"params": extended}, X, T, labels)
    each = [np.repeat(a, 3) for a in (T, labels)]
    frames = jax.jit(picture.apply)({"params": params}, X.reshape(6, 8, 8, 4), *each)
    np.testing.assert_allclose(found.reshape(frames.shape), frames, rtol=1e-4, atol=1e-6)  # two programs round apart
    other = with_frames(picture, params, jax.random.key(1))[1]
    np.testing.assert_array_equal(apply({"params": other}, X, T, labels), found)  # what is added is zero

    def loss(params):
        return jnp.square(video.apply({"params": params}, X, T, labels)).mean()

    gate = jax.jit(jax.grad(loss))(extended)["blocks"]["temporal_modulation"]["dense"]["kernel"]
    assert np.abs(gate[..., 2, :]).max() > 0  # so that the new layers learn
    np.testing.assert_allclose(apply({"params": extended}, X[:, :1], T, labels)[:, 0], frames[::3], atol=1e-5)


@pytest.mark.slow
def test_a_run_of_videos_starts_from_one_of_pictures():
    """`config.init_from` fills what a DiT has, and leaves what is along the frames as it begins: `with_frames`."""
    picture = DiT(**FIELDS, num_classes=0)
    params = trained(picture, SHAPE[1:])
    key = jax.random.key(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    begun, taken, skipped = warm_start(with_frames(picture, zeros, key)[1], leaves_of(params))
    jax.tree.map(np.testing.assert_array_equal, begun, with_frames(picture, params, key)[1])
    assert len(taken) == len(jax.tree.leaves(params)) and all("temporal" in line for line in skipped)


@pytest.mark.extended
def test_frames_that_are_known_stay_and_the_others_are_sampled(made):
    """Image-to-video by diffusion forcing: the first frame rests at t = 0."""
    grid = timesteps.uniform(SCHEDULE, 3)
    plan = timesteps.staggered(grid, 3, 1)
    times = [np.concatenate([np.full_like(a[:, :1], grid[-1]), a[:, 1:]], axis=1) for a in (plan.t, plan.s)]
    known = plan._replace(t=times[0], s=times[1])
    denoise = parameterizations.denoiser(made["factorised"], SCHEDULE, parameterizations.velocity(), None)
    keys = jax.random.split(jax.random.key(0), (2, 2))
    found = samplers.sample(samplers.per_frame(samplers.euler()), denoise, SCHEDULE, X, known, keys[1])
    np.testing.assert_array_equal(found[:, 0], X[:, 0])
    assert np.isfinite(found).all() and (np.abs(found[:, 1:] - X[:, 1:]).reshape(2, 2, -1).max(axis=-1) > 0.1).all()


@pytest.mark.extended
def test_bad_networks_and_videos_are_refused():
    for fields, message in [
        ({"mixing": "ful"}, "did you mean 'full'|full"),
        ({"heads": 3}, "4 heads = 12"),
        ({"mixing": "full", "positions": "sincos"}, "needs positions 'rope'"),
        ({"vector_width": -1}, "vector_width=-1"),
    ]:
        with pytest.raises(ValueError, match=message):
            VideoDiT(**{**FIELDS, **fields})
    module = NETWORKS["factorised"]
    for x, t, message in [
        (X[0], T, r"videos \[B, F, H, W, C\]; got an array of shape \(3, 8, 8, 4\)"),
        (X[:, :, :6], T, r"patch=4 does not divide the height and width of \(6, 8"),
        (X, np.zeros((2, 2), np.float32), r"t \[B, F\] = \(2, 3\); got shape \(2, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(module.init, jax.random.key(0), x, t)
    with pytest.raises(ValueError, match="times=2"):
        with_frames(DiT(**FIELDS, num_classes=0, times=2), {}, jax.random.key(0))
    other = trained(DiT(**{**FIELDS, "width": 24}, num_classes=0), SHAPE[1:])
    with pytest.raises(ValueError, match=r"shape \(1, 24\), but this network needs \(1, 16\)"):
        with_frames(DiT(**FIELDS, num_classes=0), other, jax.random.key(0))
    with pytest.raises(ValueError, match="no option 'frames'"):
        with_frames(DiT(**FIELDS, num_classes=0), {}, jax.random.key(0), frames=3)
    with pytest.raises(ValueError, match="head width of at least 8 that is a multiple of 4"):
        video_angles(2, 2, 2, 6)


@pytest.mark.extended
def test_a_patch_of_two_frames_is_a_patch_of_one_frame_with_their_channels():
    """The network of pairs is, parameter for parameter, one of half as many frames with twice the channels."""
    x = backbones.drawn(2, 4, 8, 8, 3)
    pairs = VideoDiT(**FIELDS, patch_frames=2)
    params = trained(pairs, (4, 8, 8, 3))
    halves = np.concatenate([x[:, 0::2], x[:, 1::2]], axis=-1)
    output = jax.jit(pairs.apply)({"params": params}, x, T)
    wide = np.asarray(jax.jit(VideoDiT(**FIELDS).apply)({"params": params}, halves, T))
    assert output.shape == x.shape
    np.testing.assert_array_equal(output[:, 0::2], wide[..., :3])
    np.testing.assert_array_equal(output[:, 1::2], wide[..., 3:])
    times = np.float32([[0.0, 0.2, 0.2, 0.2], [0.7, 0.7, 0.7, 0.7]])
    own = np.asarray(jax.jit(pairs.apply)({"params": params}, x, times))
    assert np.abs(own[0] - output[0]).max() > 1e-4  # the first frame's own time is read
    np.testing.assert_allclose(own[1], output[1], rtol=1e-5, atol=1e-6)


def test_patches_of_frames_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="patch_frames=2 does not divide 3 frames"):
        jax.eval_shape(VideoDiT(**FIELDS, patch_frames=2).init, jax.random.key(0), X, T)
    with pytest.raises(ValueError, match=r"causal=1.*patch_frames=1; got 2"):
        VideoDiT(**FIELDS, patch_frames=2, causal=1)
