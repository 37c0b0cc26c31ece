"""Pytrees as x in likelihood and editing, against the closed forms of each leaf; docs/pytrees.md runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion import editing, likelihood, ode, padding, probability_flow, pytrees, samplers, schedules, timesteps
from diffusion.parameterizations import Prediction
from tests.conformance import ALL_SCHEDULES, SCHEDULES, round_denoiser, slow_but

SHAPE = {"positions": (1, 2), "types": (2,)}
OWN = {"positions": SCHEDULES["cosine"], "types": SCHEDULES["edm"]}
COLUMNS = {"positions": slice(0, 2), "types": slice(2, 4)}
JOINT = schedules.per_leaf(OWN, SHAPE)
REAL = {
    "positions": jnp.array([[True], [True], [True]]),
    "types": jnp.array([[True, False], [True, True], [False, True]]),
}


@pytest.mark.extended
def test_schedules_of_leaves_are_each_leaf_s_own_on_its_numbers():
    t = jnp.array([0.1, 0.5, 0.9])
    at = jnp.broadcast_to(t[:, None], (3, 4))
    for field in ("alpha", "sigma", "log_snr", "drift", "diffusion"):
        for leaf, columns in COLUMNS.items():
            expected = np.repeat(np.asarray(getattr(OWN[leaf], field)(t))[:, None], 2, axis=1)
            np.testing.assert_allclose(getattr(JOINT, field)(at)[:, columns], expected, rtol=1e-6)
            np.testing.assert_allclose(getattr(JOINT, field)(0.5)[columns], expected[1], rtol=1e-6)
    np.testing.assert_allclose(JOINT.inverse_log_snr(JOINT.log_snr(at)), at, rtol=1e-4)
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = samplers.prior(JOINT, keys, (4,))
    for leaf, columns in COLUMNS.items():  # of the numbers that one schedule for all draws
        np.testing.assert_array_equal(drawn[:, columns], samplers.prior(OWN[leaf], keys, (4,))[:, columns])


def test_leaves_of_tuples_in_tuples_have_a_schedule_each():
    """As a molecule's (positions, (types, charges)): a tuple of shapes is no shape."""
    nested = schedules.per_leaf((OWN["positions"], (OWN["types"], OWN["positions"])), ((1, 2), ((2,), (3,))))
    assert [size for size, _ in nested.leaves] == [2, 2, 3]
    with pytest.raises(ValueError, match="give one schedule for each leaf"):
        schedules.per_leaf((OWN["positions"], OWN["types"]), ((1, 2), ((2,), (3,))))


DERIVED = {
    "shifted": lambda schedule: schedules.shifted(schedule, 3.0),
    "interpolated": lambda schedule: schedules.interpolated(schedule, 0.5, 2.0),
    "zero_terminal_snr": schedules.zero_terminal_snr,
    "ending_at": lambda schedule: schedules.ending_at(schedule, 0.9),
}


@pytest.mark.extended
def test_a_change_of_a_schedule_of_leaves_changes_that_of_each_leaf():
    """Also what samplers, likelihoods and checks read of it: its `leaves`."""
    own = {"positions": SCHEDULES["cosine"], "types": SCHEDULES["linear_beta"]}
    joint = schedules.per_leaf(own, SHAPE)
    at = jnp.full((1, 4), 0.7)
    for name, change in DERIVED.items():
        changed = change(joint)
        assert [size for size, _ in changed.leaves] == [2, 2]
        for (leaf, columns), (_, found) in zip(COLUMNS.items(), changed.leaves):
            expected = change(own[leaf]).sigma(0.7)
            np.testing.assert_allclose(found.sigma(0.7), expected, rtol=1e-6, err_msg=name)
            np.testing.assert_allclose(changed.sigma(at)[0, columns], expected, rtol=1e-6, err_msg=name)


def test_a_time_of_each_example_is_never_read_as_one_of_each_number():
    """Of as many examples as numbers; what reads log-SNRs of a grid refuses such schedules by its own name."""
    with pytest.raises(ValueError, match=r"a time for each of the 4 numbers.* got \(4,\)"):
        JOINT.alpha(jnp.full(4, 0.5))
    grid = np.array([1.0, 0.5, 0.0])
    density = timesteps.uniform_density(JOINT)
    for name, make in {
        "shift": lambda: timesteps.shift(JOINT, grid, 2.0),
        "grid": lambda: timesteps.karras(JOINT, 3, 0.002, 10.0),
        "log_normal": lambda: timesteps.log_normal(JOINT),
        "laplace": lambda: timesteps.laplace(JOINT),
        "dimension_shifted_density": lambda: timesteps.dimension_shifted_density(JOINT, density, 4),
    }.items():
        with pytest.raises(ValueError, match=f"{name}.* chooses times by their log-SNR, but leaves"):
            make()


@pytest.mark.parametrize("name", slow_but([("trigonometric",)], [(name,) for name in ALL_SCHEDULES]))
def test_the_flow_of_leaves_is_finite_at_both_ends(name):
    """The shares of two leaves have the mean 1; one whose angle starts with an infinite slope has all of the change.

    That of the straight line has the slope 1 at both ends, the trigonometric one's is pi / 2 throughout.
    """
    shares = {}
    for other in ("rectified_flow", name, "linear_beta"):  # the last has an infinite slope at t = 0
        joint = schedules.per_leaf([ALL_SCHEDULES[name], ALL_SCHEDULES[other]], [(1,), (2,)])
        angles, share = probability_flow._of_leaves(joint, jnp.array([0.0, 1.0]))
        assert np.isfinite(angles).all() and np.isfinite(share).all(), other
        np.testing.assert_allclose((share[:, 0] + share[:, 1]) / 2, 1, rtol=1e-5)
        shares[other] = share[:, 0]
    np.testing.assert_allclose(shares[name], 1, rtol=1e-5)
    if name == "trigonometric":
        np.testing.assert_allclose(shares["rectified_flow"], np.pi / (1 + np.pi / 2), rtol=1e-5)
        np.testing.assert_allclose(shares["linear_beta"][0], 0, atol=1e-6)


def test_pack_is_the_inverse_of_unpack_and_masks_are_of_whole_elements():
    tree = {"positions": jnp.arange(6.0).reshape(3, 1, 2), "types": jnp.arange(6.0).reshape(3, 2)}
    packed = pytrees.pack(tree)
    assert packed.shape == (3, *pytrees.packed_shape(SHAPE))
    jax.tree.map(np.testing.assert_array_equal, pytrees.unpack(packed, SHAPE), tree)
    mask = pytrees.mask(REAL, SHAPE)
    np.testing.assert_array_equal(mask[0], [True, True, True, False])
    np.testing.assert_array_equal(padding.count(mask, packed), [3, 4, 3])
    np.testing.assert_allclose((padding.share(mask, packed) * mask).mean(axis=1), 1, rtol=1e-6)


def _gaussian(real):
    """The exact denoiser of N(0.4, 0.5^2) for each real number; of padding there is none to ask for."""

    def denoise(x, t):
        of_data = round_denoiser(JOINT)(x, schedules.at_each(JOINT, t, x))
        return Prediction(of_data.x0, of_data.eps)

    return denoise


@pytest.mark.extended
@pytest.mark.parametrize("padded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_likelihood_of_leaves_with_a_schedule_each_is_the_closed_form_of_what_is_real(padded):
    """In bits over real numbers alone; Hutchinson's probes of -1 and 1 are exact where leaves are independent."""
    x = 0.4 + 0.5 * jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), jnp.float32)
    real = pytrees.mask(REAL, SHAPE) if padded else None
    solver = ode.runge_kutta(likelihood.times(JOINT, 24))
    alpha, sigma = JOINT.alpha(1.0), JOINT.sigma(1.0)
    deviation = jnp.hypot(0.5 * alpha, sigma)

    def log_prior(x):
        each = -0.5 * ((x - 0.4 * alpha) / deviation) ** 2 - jnp.log(deviation) - 0.5 * np.log(2 * np.pi)
        return padding.zeroed(each, real).sum(axis=1)

    probes = likelihood.rademacher(jax.random.split(jax.random.key(0), 3), (4,))
    solve = lambda x: likelihood.log_likelihood(
        _gaussian(real), JOINT, x, solver, likelihood.hutchinson(probes), log_prior, real=real
    )
    found = jax.jit(solve)(x).log_density
    each = scipy.stats.norm(0.4, 0.5).logpdf(x)
    expected = (each if real is None else np.where(real, each, 0)).sum(axis=1)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    if padded:
        np.testing.assert_array_equal(jax.jit(solve)(jnp.where(real, x, 1e3)).log_density, found)
        counts = padding.count(real, x)
        bits = likelihood.bits_per_dim(found, counts)
        np.testing.assert_allclose(bits, -expected / (np.array([3, 4, 3]) * np.log(2)) + 7, atol=2e-3)


def test_the_density_of_the_prior_is_that_of_each_leaf_s_own():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), jnp.float32)
    real = pytrees.mask(REAL, SHAPE)
    scale = np.array([1, 1, 80, 80.0])
    for mask in (None, real):
        each = scipy.stats.norm(0, scale).logpdf(padding.zeroed(x, mask))
        expected = np.where(True if mask is None else mask, each, 0).sum(axis=1)
        np.testing.assert_allclose(likelihood._log_prior(JOINT, mask)(padding.zeroed(x, mask)), expected, rtol=1e-5)


@pytest.mark.slow
def test_inversion_and_inpainting_of_leaves():
    """DDIM up and down again returns x; a known leaf stays as it is known, and the other one is that of the prior."""
    joint = schedules.per_leaf({"positions": OWN["positions"], "types": SCHEDULES["rectified_flow"]}, SHAPE)
    keys = jax.random.split(jax.random.key(0), 3)
    x = 0.4 + 0.5 * jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), jnp.float32)
    grid = timesteps.uniform(joint, 60)
    run = lambda x, grid, **more: samplers.sample(
        samplers.dpmpp_2m(), round_denoiser(joint), joint, x, timesteps.plan(grid), keys, **more
    )
    up = run(x, grid[::-1][:-10])
    np.testing.assert_allclose(run(up, grid[10:]), x, atol=1e-2)
    known = pytrees.mask({"positions": jnp.ones((3, 1), bool), "types": jnp.zeros((3, 2), bool)}, SHAPE)
    start = samplers.prior(joint, keys, (4,))
    hook = editing.replacement(joint, timesteps.plan(grid), x, known)
    made = run(start, grid, after_step=hook)
    np.testing.assert_allclose(made[:, :2], x[:, :2], atol=1e-6)
    np.testing.assert_allclose(made[:, 2:], run(start, grid)[:, 2:], atol=1e-5)
