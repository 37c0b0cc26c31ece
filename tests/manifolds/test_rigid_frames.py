"""Frames as one array against the product of rotations and positions, and the density of what they start from."""

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from diffusion import manifolds, samplers, schedules, timesteps
from diffusion.manifolds import rigid_frames

N = 4


def test_the_density_of_the_prior_is_exact():
    """Uniform rotations, and the normal density in 3 (N - 1) orthonormal coordinates of the centred positions."""
    scale = 1.7
    prior = manifolds.frame_prior(N, scale)
    x = prior.sample(jax.random.split(jax.random.key(0), 3))
    manifolds.frames(N).check(x)
    positions = manifolds.centred(N)
    coordinates = np.einsum("bdni,bni->bd", positions.basis(x[..., 3]), x[..., 3])
    assert coordinates.shape == (3, 9)
    meant = stats.norm(0, scale).logpdf(np.float64(coordinates)).sum(1) - N * np.log(8 * np.pi**2)
    np.testing.assert_allclose(prior.log_density(x), meant, rtol=1e-5)
    drawn = np.asarray(prior.sample(jax.random.split(jax.random.key(1), 2000)))[..., 3]
    assert (drawn**2).sum((1, 2)).mean() / 9 == pytest.approx(scale**2, rel=5 * np.sqrt(2 / (9 * 2000)))


def test_positions_of_the_prior_are_independent_of_its_rotations():
    """Rotations are even in the numbers of which they are made: so their entries against the squares of positions."""
    draws = np.asarray(jax.jit(manifolds.frame_prior(2).sample)(jax.random.split(jax.random.key(4), 4000)))
    columns = np.concatenate([draws[..., :3].reshape(4000, 18), draws[:, 0, :, 3] ** 2], 1)
    between = np.corrcoef(columns.T)[:18, 18:]
    assert np.abs(between).max() < 5 / np.sqrt(4000)


@pytest.mark.slow
def test_the_distance_is_that_of_the_product():
    frames, product = manifolds.frames(N), manifolds.power(manifolds.se3(), N)
    x, y = manifolds.frame_prior(N).sample(jax.random.split(jax.random.key(2)))
    parts = [(a[..., :3], a[..., 3]) for a in (x, y)]
    assert float(frames.distance(x, y)) == pytest.approx(float(product.distance(*parts)), rel=1e-6)
    middle = manifolds.geodesic(frames, x, y, 0.3)
    meant = manifolds.geodesic(product, *parts, 0.3)
    np.testing.assert_allclose(middle[..., :3], meant[0], atol=1e-6)
    np.testing.assert_allclose(middle[..., 3], meant[1], atol=1e-6)
    assert frames.dimension == 6 * N - 3


def test_frames_that_are_none_are_refused():
    frames = manifolds.frames(N)
    x = np.array(manifolds.frame_prior(N).sample(jax.random.split(jax.random.key(3), 2)))
    moved, scaled = x.copy(), x.copy()
    moved[1, :, 0, 3] += 0.5
    scaled[1, 2, :, :3] *= 1.1
    for wrong, message in (
        (moved, "the mean of the points is zero"),
        (scaled, "orthogonal matrices of determinant 1"),
        (x[:, :3], r"shape \[..., 4, 3, 4\], got \[2, 3, 3, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            frames.check(wrong)
    for call, message in (
        (lambda: manifolds.frames(1), "n = 1"),
        (lambda: manifolds.frame_prior(3, 0.0), "scale = 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.extended
def test_noise_that_is_aligned_is_turned_as_a_whole_towards_the_data():
    """A turned copy of the data comes back as the data; other noise keeps its shape, and comes no farther."""
    x, e = manifolds.frame_prior(N).sample(jax.random.split(jax.random.key(5), 6)).reshape(2, 3, N, 3, 4)
    turn = np.float32(stats.special_ortho_group.rvs(3, random_state=0))
    pair = manifolds.aligned_frames()
    np.testing.assert_allclose(pair(None, x, turn @ x), x, atol=1e-5)
    near = np.asarray(pair(None, x, e))
    manifolds.frames(N).check(near)
    relative = lambda a: np.einsum("bnji,bmjk->bnmik", a[..., :3], a)
    np.testing.assert_allclose(relative(near), relative(np.asarray(e)), atol=1e-5)
    of = lambda a: np.sum((a[..., 3] - x[..., 3]) ** 2, (1, 2))
    assert (of(near) < of(e) + 1e-5).all() and (of(near) < of(e) - 0.1).any()
    assert not pair.independent


@pytest.mark.extended
def test_ancestral_steps_put_the_noise_of_the_prior_on_the_guess():
    """Of a field that leads to one chain: x_s lies at s of the way to a draw of the prior."""
    number, manifold, schedule = 60, manifolds.frames(N), schedules.rectified_flow()
    draw = jax.jit(manifolds.frame_prior(N).sample)
    chain = draw(jax.random.split(jax.random.key(6), 1))
    field = manifolds.TangentField(manifold, lambda x, t: manifolds.scaled(-1 / t, manifold.log(x, chain)))
    keys = jax.random.split(jax.random.key(7), number)
    start = draw(keys)
    plan = timesteps.plan(np.array([1.0, 0.5, 0.25, 0.0]))
    sampler = manifolds.frame_ancestral(aligned=False)
    angles = jax.jit(manifolds.so3().distance)
    run = jax.jit(lambda x: samplers.sample_trajectory(sampler, field, schedule, x, plan, keys)[1].x)
    first, second, last = np.asarray(run(start))[-3:]
    np.testing.assert_allclose(last, np.broadcast_to(chain, last.shape), atol=1e-4)
    for x, s in ((first, 0.5), (second, 0.25)):
        manifold.check(x)
        turns = np.asarray(angles(chain[..., :3], x[..., :3])) / s
        of_uniform = lambda angle: (angle - np.sin(angle)) / np.pi  # the angles of uniform rotations
        assert stats.kstest(turns.ravel(), of_uniform).pvalue > 1e-3
        ends = np.asarray(chain[..., 3] + (x[..., 3] - chain[..., 3]) / s)
        assert ends.std() * np.sqrt(N / (N - 1)) == pytest.approx(1, abs=0.1)
        assert np.abs(ends.mean(1)).max() < 1e-4
    assert np.abs(np.corrcoef(first[..., 3].ravel(), second[..., 3].ravel()))[0, 1] < 0.999
    with pytest.raises(ValueError, match=r"scale = -1\.0"):
        manifolds.frame_ancestral(-1.0)


@pytest.mark.extended
@pytest.mark.parametrize("lead, aligned", [((), False), ((2,), False), ((2,), True)])
def test_the_fresh_frames_of_a_step_are_those_of_its_noise(lead, aligned):
    """A step onto t = 1 leaves the guess behind: SciPy's rotations of the first four numbers, centred positions.

    As a whole they are turned to the guess as SciPy turns their positions.
    """
    noise = np.random.default_rng(8).standard_normal((1, *lead, N, 3, 4)).astype(np.float32)
    numbers = noise[0, ..., :3].reshape(-1, 9)[:, :4]
    rotations = Rotation.from_quat(numbers, scalar_first=True).as_matrix().reshape(*lead, N, 3, 3)
    positions = 1.5 * (noise[0, ..., 3] - noise[0, ..., 3].mean(-2, keepdims=True))
    manifold, schedule = manifolds.frames(N), schedules.rectified_flow()
    x = manifolds.frame_prior(N).sample(jax.random.split(jax.random.key(9), 2))[0 if lead == () else slice(None)]
    field = manifolds.TangentField(manifold, lambda x, t: 0 * x)
    for example in range(2) if aligned else ():
        turn, _ = Rotation.align_vectors(np.asarray(x[example, ..., 3]), positions[example])
        rotations[example] = turn.as_matrix() @ rotations[example]
        positions[example] = turn.apply(positions[example])
    sampler = manifolds.frame_ancestral(1.5, aligned)
    plan = timesteps.plan(np.array([1.0, 0.5]))._replace(s=np.array([1.0], np.float32))
    state = sampler.init(x, schedule, plan)
    made = jax.jit(lambda state: sampler.step(state, field, schedule, plan, 0, noise).x)(state)
    np.testing.assert_allclose(made[..., :3], rotations, atol=2e-6)
    np.testing.assert_allclose(made[..., 3], positions, atol=2e-6)


@pytest.mark.extended
def test_a_step_turns_its_noise_to_the_guess_and_keeps_the_guess():
    """From elsewhere, by a field that leads to one chain: SciPy's turn of the noise's positions to the chain's."""
    manifold, schedule = manifolds.frames(N), schedules.rectified_flow()
    chain, x = manifolds.frame_prior(N).sample(jax.random.split(jax.random.key(10), 2))[:, None]
    noise = np.random.default_rng(11).standard_normal((1, 1, N, 3, 4)).astype(np.float32)
    field = manifolds.TangentField(manifold, lambda x, t: manifolds.scaled(-1 / t, manifold.log(x, chain)))
    sampler, plan = manifolds.frame_ancestral(), timesteps.plan(np.array([0.7, 0.0]))._replace(s=np.ones(1, np.float32))
    begun = sampler.init(x, schedule, plan)
    np.testing.assert_array_equal(begun.x0, x)
    state = jax.jit(lambda state: sampler.step(state, field, schedule, plan, 0, noise))(begun)
    positions = noise[0, 0, ..., 3] - noise[0, 0, ..., 3].mean(-2, keepdims=True)
    turn, _ = Rotation.align_vectors(np.asarray(chain[0, ..., 3]), positions)
    np.testing.assert_allclose(state.x[0, ..., 3], turn.apply(positions), atol=2e-5)
    np.testing.assert_allclose(state.x0, chain, atol=1e-4)


@pytest.mark.parametrize("aligned", [False, True])
def test_a_step_goes_from_the_guess_towards_the_frames_of_its_noise(aligned, monkeypatch):
    """In flat space, to the fraction s: SciPy's rotations of the first four numbers, and centred positions.

    What is turned to the guess comes from `rigid_frames.aligned`, here marked by a shift of the guess.
    """
    monkeypatch.setattr(rigid_frames, "aligned", lambda guess, fresh: fresh + 10 * guess)
    noise = np.random.default_rng(8).standard_normal((1, 2, N, 3, 4)).astype(np.float32)
    numbers = noise[0, ..., :3].reshape(-1, 9)[:, :4]
    rotations = Rotation.from_quat(numbers, scalar_first=True).as_matrix().reshape(2, N, 3, 3)
    positions = 1.5 * (noise[0, ..., 3] - noise[0, ..., 3].mean(-2, keepdims=True))
    fresh = np.concatenate([rotations, positions[..., None]], -1)
    x = np.random.default_rng(9).standard_normal((2, N, 3, 4)).astype(np.float32)
    field = manifolds.TangentField(manifolds.euclidean(N, 3, 4), lambda x, t: t + 2 * x)
    schedule, sampler = schedules.rectified_flow(), manifolds.frame_ancestral(1.5, aligned)
    plan = timesteps.plan(np.array([1.0, 0.8, 0.25]))
    begun = sampler.init(x, schedule, plan)
    np.testing.assert_array_equal(begun.x0, x)
    state = sampler.step(begun, field, schedule, plan, 1, noise)
    guess = x - 0.8 * (0.8 + 2 * x)
    np.testing.assert_allclose(state.x0, guess, atol=1e-5)
    fresh = fresh + 10 * guess if aligned else fresh
    np.testing.assert_allclose(state.x, guess + 0.25 * (fresh - guess), atol=1e-4)
    assert sampler.nfe(7) == 7 and sampler.draws == 1 and sampler.takes == (manifolds.TangentField,)


def test_the_scale_of_fresh_frames_may_be_traced_and_is_positive():
    jax.eval_shape(lambda scale: manifolds.frame_ancestral(scale) and scale, 1.0)
    for scale in (0.0, -1.0):
        with pytest.raises(ValueError, match=rf"frame_ancestral: scale = {scale} must be positive"):
            manifolds.frame_ancestral(scale)


def test_aligned_noise_is_turned_as_scipy_turns_its_positions():
    x, e = np.random.default_rng(2).standard_normal((2, 1, N, 3, 4)).astype(np.float32)
    near = manifolds.aligned_frames()(None, x, e)
    turn, _ = Rotation.align_vectors(x[0, ..., 3], e[0, ..., 3])
    np.testing.assert_allclose(near[0], turn.as_matrix() @ e[0], atol=1e-5)
