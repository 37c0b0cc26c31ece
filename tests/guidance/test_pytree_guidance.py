"""Every guidance on pytrees with a schedule each, and on padded examples: against the same guidance on the parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, pytrees, schedules
from diffusion.guidance import Unpaired
from diffusion.parameterizations import Prediction
from tests.conformance import SCHEDULES, slow_but
from tests.guidance import test_guidance_conformance as conformance

SHAPE = {"positions": (1, 2), "types": (2,)}
OWN = {"positions": SCHEDULES["cosine"], "types": SCHEDULES["edm"]}
COLUMNS = {"positions": slice(0, 2), "types": slice(2, 4)}
X = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), jnp.float32)
T = jnp.array([0.1, 0.4, 0.9])
# The norms and angles of these are over the whole of an example, all of its leaves; the others act on each number.
OF_THE_WHOLE = {
    "rescaled", "renormalised", "zero_star", "adaptive_projected", "adaptive_projected(momentum)", "dynamic_threshold",
    "classifier", "windows",
}  # fmt: skip
KNOWN = np.array([True, False, False, True])
MASKED = {"pseudoinverse": guidance.pseudoinverse, "proximal": guidance.proximal}  # with an operator of their own
WITH_REAL = {
    "rescaled": lambda d, s, w, real: guidance.rescaled(conformance._each(d), s, w, 0.7, real=real),
    "dynamic_threshold": lambda d, s, w, real: guidance.dynamic_threshold(d[0], s, 0.9, real=real),
}
# (A classifier, a likelihood and an operator are the user's own, and read what they do of x.)
ON_VECTORS = [name for name in conformance.GUIDANCES if name != "windows"]
PADDED = [name for name in conformance.GUIDANCES if name not in {"classifier", "windows", *MASKED}]


def _denoisers(schedule, real=None):
    """Exact denoisers of three Gaussians of independent numbers; zeros on padding."""

    def of(k):
        def denoise(x, t):
            at = schedules.at_each(schedule, t, x)
            alpha, sigma = (schedules.left_broadcast(f(at), x) for f in (schedule.alpha, schedule.sigma))
            scaled = (x - alpha * (0.9 - k)) / (0.5 * (k + 1) * alpha**2 + sigma**2)
            parts = 0.9 - k + 0.5 * (k + 1) * alpha * scaled, sigma * scaled, jnp.full_like(x, 0.3)
            return Prediction._make(parts if real is None else (jnp.where(real, part, 0) for part in parts))

        return denoise

    return [of(k) for k in range(3)]


@functools.cache
def _joint():
    return schedules.per_leaf(OWN, SHAPE)


@pytest.mark.parametrize("name", slow_but([("classifier_free",)], [(name,) for name in ON_VECTORS]))
def test_leaves_with_a_schedule_each(name):
    """Each leaf is guided as it is alone, where the guidance acts on each number; x_t is kept by all of them."""
    case = conformance.GUIDANCES[name]

    def make(schedule, columns=slice(None)):
        if name not in MASKED:
            return case.make(_denoisers(schedule), schedule, case.strong)
        measurement = guidance.measurements.masked(jnp.asarray(KNOWN[columns]))
        y = jnp.ones_like(X[:, columns])
        return MASKED[name](_denoisers(schedule)[0], schedule, measurement, y, 0.3, scale=0.5)

    guided = make(_joint())
    at = jnp.broadcast_to(T[:, None], X.shape)
    found = conformance._call(guided, X, at)
    if not isinstance(guided, Unpaired):
        total = _joint().alpha(at) * found.x0 + _joint().sigma(at) * found.eps
        np.testing.assert_allclose(total, X, atol=1e-3)  # of a sigma of up to 72
    if name in OF_THE_WHOLE:
        return
    for leaf, columns in COLUMNS.items():
        alone = conformance._call(make(OWN[leaf], columns), X[:, columns], T)
        for ours, theirs in zip(found, alone, strict=True):
            np.testing.assert_allclose(ours[:, columns], theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", slow_but([("rescaled",), ("dynamic_threshold",)], [(name,) for name in PADDED]))
def test_what_is_real_is_guided_as_it_is_without_padding(name):
    schedule = OWN["positions"]
    real = pytrees.mask({"positions": jnp.array([[True]] * 3), "types": jnp.array([[True, False]] * 3)}, SHAPE)
    x = jnp.where(real, 3 * X, 0)
    case = conformance.GUIDANCES[name]
    make = functools.partial(WITH_REAL[name], real=real) if name in WITH_REAL else case.make
    found = conformance._call(make(_denoisers(schedule, real), schedule, case.strong), x, T)
    alone = conformance._call(case.make(_denoisers(schedule), schedule, case.strong), x[:, :3], T)
    for ours, theirs in zip(found[:2], alone[:2], strict=True):
        np.testing.assert_allclose(ours[:, :3], theirs, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(ours[:, 3], 0)


def test_nothing_real_is_guided_without_a_division_by_zero():
    schedule, real = OWN["positions"], jnp.zeros((3, 4), bool)
    for make in WITH_REAL.values():
        guided = jax.jit(lambda x, make=make: make(_denoisers(schedule, real), schedule, 3.0, real)(x, T)[:2])
        np.testing.assert_array_equal(guided(0 * X), np.zeros((2, 3, 4)))
