"""The heat kernel of a sphere as a function of distance, exact for small and large variances, also at the antipode."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.manifolds import smooth

SHORT = 1.0  # largest variance for which images are summed; there the harmonics would cancel at the antipode
FAR, NEAR = 6, 4  # nodes of the midpoint rule, exact to float32: the integrand is periodic, or a narrow Gaussian
START = 1e-3  # smallest distance at which phi / sin(phi) and its derivatives are evaluated
LEAST = 0.3  # argument below which x / sin(x) is evaluated by its series
CLOSE = 2.0  # pi b / v below which the images are evaluated by a power series about the antipode

_Images = Callable[[Array, Array, Array], Array]
"""(phi, b = pi - phi, v) -> exp(phi^2 / (2 v)) g(phi)."""
_Series = Callable[[Array, Array], Array]
"""(b^2, v) -> exp(pi^2 / (2 v)) g(pi - b)."""


def log_heat(n: int) -> Callable[[Array, Array], Array]:
    """The function (theta `[...]`, v `[...]`) -> log K_v(theta) for the unit sphere S^n.

    For v > 1 the sum is over the zonal harmonics,

        K = sum_l exp(-l (l + n - 1) v / 2) (2 l + n - 1) / (n - 1) C_l(cos theta) / vol(S^n).

    For v <= 1 the sum is over the geodesics that wind around the sphere, with lengths theta + 2 pi k, of which three
    contribute:

        g_s(phi) = sum_k (+-1)^k (phi + 2 pi k) exp(-(phi + 2 pi k)^2 / (2 v)) / sin(s phi)

        K = e^(v / 2) (2 pi v)^(-3/2) g_1(theta)                                                      n = 3
        K = 2 e^(v / 8) (2 pi v)^(-3/2) int_0^(pi / 2) g_(1/2)(phi) dpsi,                             n = 2
            cos(phi / 2) = cos(theta / 2) cos(psi)

    with alternating signs for n = 2, which is the Poisson summation of the Mehler-Dirichlet formula for Legendre
    polynomials. A derivative raises the dimension by two, K_(n + 2) = -e^(n v / 2) / (2 pi sin theta) dK_n/dtheta. Near
    the antipode the images of two geodesics cancel, and g is a power series in b^2 = (pi - phi)^2.

    Camporesi 1990, "Harmonic analysis and propagators on homogeneous spaces".

    Args:
        n: dimension, in 2 .. 5.
    """
    far, near, harmonics = _far(n), _near(n), _harmonics(n)

    def log_radial(theta: Array, v: Array) -> Array:
        short = v <= SHORT
        brief = jnp.minimum(v, SHORT)
        a = math.pi - theta
        close = math.pi * a < CLOSE * brief
        images = jnp.where(
            close, near(jnp.where(close, a, 0.0), brief), far(jnp.where(close, math.pi / 2, theta), brief)
        )
        return jnp.where(short, images, harmonics(theta, jnp.maximum(v, SHORT)))

    return log_radial


def _harmonics(n: int) -> Callable[[Array, Array], Array]:
    terms = math.ceil(math.sqrt(40 / SHORT)) + 1
    log_volume = math.log(2) + (n + 1) / 2 * math.log(math.pi) - math.lgamma((n + 1) / 2)

    def log_sum(theta, v):
        c = jnp.cos(theta)

        def term(carry, l):
            last, this, total = carry
            total += jnp.exp(-l * (l + n - 1) * v / 2) * (2 * l + n - 1) / (n - 1) * this
            return (this, (2 * c * (l + (n - 1) / 2) * this - (l + n - 2) * last) / (l + 1), total), None

        begin = (jnp.ones_like(c), (n - 1) * c, jnp.ones_like(c))
        (_, _, total), _ = jax.lax.scan(term, begin, jnp.arange(1, terms, dtype=c.dtype))
        return jnp.log(total) - log_volume

    return log_sum


def _constant(n: int, v: Array) -> Array:
    """The logarithm of the factor before the sum over images."""
    growth = {2: 1 / 8, 3: 1 / 2, 4: 9 / 8, 5: 2}[n]  # exponents of e^(v / 8), e^(v / 2), and e^(n v / 2) times these
    return (
        (n % 2 == 0) * math.log(2) - (n - 2) // 2 * math.log(2 * math.pi) + growth * v - 1.5 * jnp.log(2 * math.pi * v)
    )


def _far(n: int) -> Callable[[Array, Array], Array]:
    images = _raised_images(_images(n)) if n > 3 else _images(n)

    def log_sum(theta, v):
        a = math.pi - theta
        return _constant(n, v) - theta**2 / (2 * v) + jnp.log(images(theta, a, v) if n % 2 else integral(theta, a, v))

    def integral(theta, a, v):
        # exp(-(phi^2 - theta^2) / (2 v)) is about exp(-psi^2 / width^2).
        width = jnp.sqrt(v / jnp.where(theta < START, 2.0, theta * jnp.tan(a / 2)))
        most = jax.lax.stop_gradient(jnp.minimum(4.2 * width, math.pi / 2))[..., None]
        psi = most * _midpoints(FAR, most.dtype)
        theta, a, v = theta[..., None], a[..., None], v[..., None]
        sine, cosine = jnp.cos(a / 2), jnp.sin(a / 2)  # sine and cosine of theta / 2
        sine_phi = jnp.sqrt(sine**2 + cosine**2 * jnp.sin(psi) ** 2)
        # sin((phi - theta) / 2), without the cancellation of a subtraction.
        half = cosine**2 * jnp.sin(psi) ** 2 / (sine * cosine * jnp.cos(psi) + cosine * sine_phi)
        more = 2 * jnp.arctan(half / jnp.sqrt(1 - half**2))
        phi = theta + more
        value = jnp.exp(-more * (phi + theta) / (2 * v)) * images(phi, a - more, v)
        return jnp.mean(value * jnp.cos(psi) ** (n - 2), -1) * most[..., 0]

    return log_sum


def _near(n: int) -> Callable[[Array, Array], Array]:
    series = _raised_series(_series(n)) if n > 3 else _series(n)

    def log_sum(a, v):
        return _constant(n, v) - math.pi**2 / (2 * v) + jnp.log(series(a**2, v) if n % 2 else integral(a, v))

    def integral(a, v):
        psi = math.pi / 2 * _midpoints(NEAR, a.dtype)
        sine = jnp.sin(a / 2)[..., None] * jnp.cos(psi)
        b = 2 * jnp.arctan(sine / jnp.sqrt(1 - sine**2))
        return math.pi / 2 * jnp.mean(series(b**2, v[..., None]) * jnp.cos(psi) ** (n - 2), -1)

    return log_sum


def _midpoints(number: int, dtype: Any) -> Array:
    return (jnp.arange(number, dtype=dtype) + 0.5) / number


def _images(n: int) -> _Images:
    """The sum over images for the sphere of dimension n, or n - 2 if n > 3."""
    odd = n % 2
    s, sign = (1, -1) if odd else (1 / 2, 1)

    def summed(phi, b, v):
        phi, b = _apart(phi, b)
        sine = jnp.sin(jnp.minimum(phi, b)) if odd else jnp.sin(phi / 2)
        x = s * phi
        small = 1 + x**2 / 6 + 7 * x**4 / 360 + 31 * x**6 / 15120
        first = jnp.where(x < LEAST, small / s, phi / sine)
        behind = (2 * math.pi - phi) * jnp.exp(-2 * math.pi * b / v)
        around = (2 * math.pi + phi) * jnp.exp(-2 * math.pi * (math.pi + phi) / v)
        return first + sign * (behind - around) / sine

    return summed


def _apart(phi: Array, b: Array) -> tuple[Array, Array]:
    """phi raised to at least START, and pi - phi; jnp.maximum would have half the slope at START."""
    near = phi < START
    return jnp.where(near, START, phi), jnp.where(near, math.pi - START, b)


def _raised_images(images: _Images) -> _Images:
    """-1 / sin(phi) d/dphi of the images."""

    def summed(phi, b, v):
        phi, b = _apart(phi, b)
        one = jnp.ones_like(phi)
        value, slope = jax.jvp(lambda phi, b: images(phi, b, v), (phi, b), (one, -one))
        return (phi * value / v - slope) / jnp.sin(jnp.minimum(phi, b))

    return summed


def _series(n: int) -> _Series:
    """The images k = 0 and -1, as power series of hyperbolic functions of pi b / v."""

    def summed(m, v):
        w = (math.pi / v) ** 2 * m
        cosh, sinh = smooth.cosine(-w), smooth.sine_ratio(-w)
        if n % 2:
            total = (math.pi**2 / v * sinh - cosh) / smooth.sine_ratio(m)
        else:
            total = math.pi * (cosh - m / v * sinh) / smooth.cosine(m / 4)
        return 2 * jnp.exp(-m / (2 * v)) * total

    return summed


def _raised_series(series: _Series) -> _Series:
    """1 / sin(b) d/db of the series."""

    def summed(m, v):
        slope = jax.jvp(lambda m: series(m, v), (m,), (jnp.ones_like(m),))[1]
        return 2 * slope / smooth.sine_ratio(m)

    return summed
