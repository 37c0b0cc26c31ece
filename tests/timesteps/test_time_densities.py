"""Conformance of every density of training times: a new one is one line in DENSITIES."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from diffusion import schedules, timesteps
from tests.conformance import SCHEDULES, every_schedule, slow_but

# Densities: name -> (factory from a schedule, closed-form distribution function of t).


def _uniform_cdf(schedule):
    return lambda t: (t - schedule.t_min) / (schedule.t_max - schedule.t_min)


def _logit_normal_cdf(mean, std):
    def cdf(schedule):
        scale = lambda t: np.clip((t - schedule.t_min) / (schedule.t_max - schedule.t_min), 1e-12, 1 - 1e-9)
        return lambda t: scipy.stats.norm.cdf(scipy.special.logit(scale(t)), mean, std)

    return cdf


def _fraction_cdf(cdf):
    """Of (t - t_min) / (t_max - t_min)."""
    return lambda schedule: lambda t: cdf((t - schedule.t_min) / (schedule.t_max - schedule.t_min))


def _mode_cdf(scale):
    """Esser et al. 2024, eq. 20, in its own words: t = f(u) falls from 1 to 0, so P(t < f(u)) = 1 - u."""
    u = np.linspace(0, 1, 200001)
    f = 1 - u - scale * (np.cos(np.pi / 2 * u) ** 2 - 1 + u)
    return _fraction_cdf(lambda x: np.interp(x, f[::-1], 1 - u[::-1]))


def _laplace_cdf(mean, scale):
    """Of the log-SNR, conditional on t in [t_min, t_max]; it falls with t."""

    def cdf(schedule):
        above = lambda t: scipy.stats.laplace.sf(np.asarray(schedule.log_snr(np.float32(t)), np.float64), mean, scale)
        low, high = above(np.array([schedule.t_min, schedule.t_max]))
        return lambda t: (above(t) - low) / (high - low)

    return cdf


def _log_normal_cdf(mean, std):
    """Of ln(sigma / alpha), conditional on t in [t_min, t_max]."""

    def cdf(schedule):
        log_ratio = lambda t: -np.asarray(schedule.log_snr(np.float32(t)), np.float64) / 2
        low, high = scipy.stats.norm.cdf(log_ratio(np.array([schedule.t_min, schedule.t_max])), mean, std)
        return lambda t: (scipy.stats.norm.cdf(log_ratio(t), mean, std) - low) / (high - low)

    return cdf


DENSITIES = {
    "uniform": (timesteps.uniform_density, _uniform_cdf),
    "logit_normal": (timesteps.logit_normal, _logit_normal_cdf(0.0, 1.0)),
    "logit_normal(-0.5, 0.8)": (
        lambda schedule, **more: timesteps.logit_normal(schedule, mean=-0.5, std=0.8, **more),
        _logit_normal_cdf(-0.5, 0.8),
    ),
    "log_normal": (timesteps.log_normal, _log_normal_cdf(-1.2, 1.2)),
    "log_normal(-0.4, 2.0)": (
        lambda schedule, **more: timesteps.log_normal(schedule, mean=-0.4, std=2.0, **more),
        _log_normal_cdf(-0.4, 2.0),
    ),
    "mode": (timesteps.mode, _mode_cdf(1.29)),
    "mode(-0.9)": (lambda schedule, **more: timesteps.mode(schedule, -0.9, **more), _mode_cdf(-0.9)),
    "cosmap": (timesteps.cosmap, _fraction_cdf(lambda x: 2 / np.pi * np.arctan2(x, 1 - x))),
    "beta_density(1.5, 1)": (
        lambda schedule, **more: timesteps.beta_density(schedule, 1.5, 1.0, **more),
        _fraction_cdf(lambda x: x**1.5),
    ),
    "beta_density(0.7, 4)": (
        lambda schedule, **more: timesteps.beta_density(schedule, 0.7, 4.0, **more),
        _fraction_cdf(scipy.stats.beta(0.7, 4.0).cdf),
    ),
    "laplace": (timesteps.laplace, _laplace_cdf(0.0, 0.5)),
    "laplace(-3, 2)": (
        lambda schedule, **more: timesteps.laplace(schedule, -3.0, 2.0, **more),
        _laplace_cdf(-3.0, 2.0),
    ),
}
LIKE_OTHERS = ["mode(-0.9)", "beta_density(1.5, 1)", "laplace"]
every_density = pytest.mark.parametrize(
    "name", slow_but([(name,) for name in DENSITIES if name not in LIKE_OTHERS], [(name,) for name in DENSITIES])
)
B = 4096
KEYS = jax.random.split(jax.random.key(7), B)
INDEX = np.arange(B)


def _draw(density, keys=KEYS, index=INDEX):
    return density.sample(density.init(), keys, jnp.asarray(index))


@pytest.mark.extended
@every_density
@every_schedule
def test_density_has_its_distribution(name, schedule_name):
    make, cdf = DENSITIES[name]
    schedule = SCHEDULES[schedule_name]
    t, importance = _draw(make(schedule))
    assert t.shape == importance.shape == (B,)
    assert t.dtype == jnp.float32
    assert scipy.stats.kstest(np.asarray(t, np.float64), cdf(schedule)).pvalue > 1e-3
    np.testing.assert_array_equal(importance, 1)


@pytest.mark.extended
@every_density
@every_schedule
def test_density_stays_inside_and_off_the_singular_ends(name, schedule_name):
    schedule = SCHEDULES[schedule_name]
    t = np.asarray(_draw(DENSITIES[name][0](schedule))[0])
    assert (t >= np.float32(schedule.t_min)).all()
    assert (t <= np.float32(schedule.t_max)).all()
    assert (np.asarray(schedule.sigma(t)) > 0).all()
    assert (np.asarray(schedule.alpha(t)) > 0).all()
    assert np.isfinite(schedule.log_snr(t)).all()


@pytest.mark.extended
@pytest.mark.parametrize("strata", [None, 3])
@pytest.mark.parametrize("draw", [0.0, 1 - 2.0**-23])
def test_the_smallest_and_the_largest_draw_stay_off_the_ends(monkeypatch, draw, strata):
    """u is the middle of its cell of 2^-23, so that neither end is reached, in the first and in the last stratum."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, draw, dtype))
    size = strata or 1
    u = _draw(timesteps.from_quantile(lambda u: u, strata), KEYS[:size], jnp.arange(size))[0]
    expected = (np.arange(size) + draw + 2.0**-24) / size
    np.testing.assert_allclose(u, np.minimum(expected, 1 - 2.0**-24), rtol=1.2e-7)
    assert 0 < u.min() and u.max() < 1
    for name, (make, _) in DENSITIES.items():
        t = np.asarray(_draw(make(SCHEDULES["rectified_flow"], strata=strata), KEYS[:size], jnp.arange(size))[0])
        assert (0 < t).all() and (t < 1).all(), name


def test_a_fraction_stays_half_a_cell_off_the_ends():
    """Where the quantile function rounds to 0 or to 1: a logit-normal density of a great deviation."""
    density = timesteps.logit_normal(SCHEDULES["rectified_flow"], 0.0, 1e6)
    t = np.unique(_draw(density)[0])
    np.testing.assert_array_equal(t, np.float32([2.0**-24, 1 - 2.0**-24]))


BEYOND = {  # name -> (density, distribution of ln(sigma / alpha)); their means are outside edm's -6.2 .. 4.4
    **{
        f"log_normal({mean}, {std})": (timesteps.log_normal(SCHEDULES["edm"], mean, std), scipy.stats.norm(mean, std))
        for mean, std in ((-8.0, 0.3), (-16.0, 1.0), (8.0, 0.5), (14.0, 1.0))
    },
    **{
        f"laplace({mean}, {scale})": (
            timesteps.laplace(SCHEDULES["edm"], mean, scale),
            scipy.stats.laplace(-mean / 2, scale / 2),
        )
        for mean, scale in ((30.0, 0.5), (20.0, 1.0), (-20.0, 0.5), (-12.0, 2.0))
    },
}


@pytest.mark.extended
@pytest.mark.parametrize("name", BEYOND)
def test_a_density_whose_peak_is_outside_the_range_draws_at_its_near_end(name):
    """The share below u, by the tails of float64 on the side of the range."""
    density, distribution = BEYOND[name]
    ratio = np.log(80 * np.asarray(_draw(density)[0], np.float64))
    low, high = np.log(0.002), np.log(80)
    tail = distribution.sf if distribution.mean() < low else distribution.cdf
    u = (tail(ratio) - tail(low)) / (tail(high) - tail(low))
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("make", [timesteps.log_normal, timesteps.laplace])
@pytest.mark.parametrize("mean", [-300.0, 300.0])
def test_a_density_beyond_its_schedule_is_refused(make, mean):
    with pytest.raises(ValueError, match=rf"mean = {mean} and \w+ = 1\.0, a share of .* of the distribution lies"):
        make(SCHEDULES["edm"], mean, 1.0)


@pytest.mark.extended
@pytest.mark.parametrize("scale", [10.0, 1000.0])
@pytest.mark.parametrize("make", [timesteps.log_normal, timesteps.laplace])
def test_wide_densities_of_the_log_snr_stay_off_the_ends(make, scale):
    """Of float32 times: near t = 1 many log-SNRs have the same nearest one, and e^-100 of t = 0 is 0."""
    for schedule in (schedules.rectified_flow(), schedules.cosine(), schedules.trigonometric()):
        wide = make(schedule, 0.0, scale)
        density = timesteps.dimension_shifted_density(schedule, wide, 64, base=16)
        for t in (np.asarray(_draw(times)[0]) for times in (wide, density)):
            assert (t > 0).all() and (t < 1).all()
            assert (np.asarray(schedule.sigma(t)) > 0).all() and (np.asarray(schedule.alpha(t)) > 0).all()


@pytest.mark.parametrize("mean, std", [(0.0, 5.0), (6.0, 3.0), (-6.0, 3.0)])
def test_extreme_logit_normals_stay_off_the_ends(mean, std):
    """A wide density rounds to 0 or 1 in float32 if nothing stops it: sigma or alpha would vanish."""
    schedule = schedules.rectified_flow()
    keys = jax.random.split(jax.random.key(0), 1 << 15)
    t = np.asarray(_draw(timesteps.logit_normal(schedule, mean, std), keys, 0)[0])
    assert (t > 0).all()
    assert (t < 1).all()


@pytest.mark.extended
@every_density
@pytest.mark.parametrize("strata", [1, 7, 128])
def test_stratified_density_puts_one_in_each_stratum(name, strata):
    """Consecutive examples take the strata of u = F(t) in turn, from whatever global index the batch starts.

    On a schedule that ends before t = 1, and whose log-SNR there is within those of the densities.
    """
    make, cdf = DENSITIES[name]
    schedule = schedules.ending_at(SCHEDULES["edm"], 0.1)
    index = 1000 + np.arange(896)
    t, _ = _draw(make(schedule, strata=strata), KEYS[:896], index)
    u = cdf(schedule)(np.asarray(t, np.float64)) * strata
    assert (u > index % strata - 1e-3).all()
    assert (u < index % strata + 1 + 1e-3).all()
    within = np.clip(u - index % strata, 0, 1)
    assert scipy.stats.kstest(within, "uniform").pvalue > 1e-3  # jittered, not at the centres


@pytest.mark.extended
@every_density
@pytest.mark.parametrize("strata", [None, 16])
def test_draws_depend_on_the_example_alone(name, strata):
    """The same key and index give the same time in a batch of any size, in any order."""
    density = DENSITIES[name][0](SCHEDULES["rectified_flow"], strata=strata)
    whole, _ = _draw(density, KEYS[:64], INDEX[:64])
    halves = [_draw(density, KEYS[a:b], INDEX[a:b])[0] for a, b in ((0, 10), (10, 64))]
    np.testing.assert_array_equal(whole, np.concatenate(halves))
    order = np.random.default_rng(0).permutation(64)
    np.testing.assert_array_equal(_draw(density, KEYS[:64][order], order)[0], whole[order])


def test_plain_density_ignores_the_index():
    density = timesteps.uniform_density(SCHEDULES["cosine"])
    np.testing.assert_array_equal(_draw(density, KEYS[:8], INDEX[:8])[0], _draw(density, KEYS[:8], INDEX[:8] + 5)[0])


@every_density
def test_densities_without_memory_keep_none(name):
    density = DENSITIES[name][0](SCHEDULES["cosine"])
    assert jax.tree.leaves(density.init()) == []
    assert jax.tree.leaves(density.update(density.init(), jnp.ones(3), jnp.ones(3))) == []


def test_stratification_lowers_the_variance_of_a_mean():
    plain, stratified = (timesteps.uniform_density(SCHEDULES["rectified_flow"], strata=s) for s in (None, 32))
    means = [np.asarray(_draw(d)[0]).reshape(-1, 32).mean(1) for d in (plain, stratified)]
    assert means[1].var() < means[0].var() / 100


def test_discrete_density_is_uniform_over_the_process():
    t = np.asarray(_draw(timesteps.discrete_density(SCHEDULES["linear_beta"], T=10 * 100))[0], np.float64)
    i = np.round(t * 1000) - 1
    np.testing.assert_allclose(t, (i + 1) / 1000, rtol=1e-6)
    assert i.min() >= 0
    assert i.max() <= 999
    counts = np.bincount(i.astype(int) // 100, minlength=10)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_shifted_times_of_a_discrete_process():
    """a t / (1 + (a - 1) t) of 1/4, 1/2, 3/4 and 1 for a = 3, each as often as any other."""
    density = timesteps.discrete_density(SCHEDULES["rectified_flow"], T=4, strata=4, shift=3.0)
    t = np.asarray(_draw(density)[0]).reshape(-1, 4)
    np.testing.assert_allclose(np.sort(t), np.tile([0.5, 0.75, 0.9, 1.0], (len(t), 1)), rtol=1e-6)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda s: timesteps.logit_normal(s, std=0.0), "std"),
        (lambda s: timesteps.log_normal(s, std=-1.0), "std"),
        (lambda s: timesteps.uniform_density(s, strata=0), "strata"),
        (lambda s: timesteps.discrete_density(s, T=0), "T = 0"),
        (lambda s: timesteps.discrete_density(s, T=10**6 + 1), "T = 1000001"),
    ],
)
def test_bad_densities_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make(SCHEDULES["linear_beta"])
