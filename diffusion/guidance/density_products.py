"""Products of powers of densities, usually approximated by sums of scores."""

import functools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.guidance.branches import Branches, evaluate, separately, with_conditions
from diffusion.parameterizations import Denoiser, Prediction
from diffusion.parameterizations.sampled_process import check_process
from diffusion.schedules import NoiseSchedule, left_broadcast


class Product(NamedTuple):
    """A denoiser whose score is sum_k b_k s_k, with its branches and exponents.

    `samplers.sample` accepts it like any denoiser; `steering.corrected` weighs its particles.

    Attributes:
        branches: function that evaluates the K denoisers.
        exponents: exponents b_k, K numbers.
        schedule: the process of all denoisers.
    """

    branches: Branches
    exponents: tuple[float, ...]
    schedule: NoiseSchedule

    @property
    def total(self) -> float:
        """The sum of the exponents, set to exactly 1 if it is 1 up to rounding."""
        total = math.fsum(self.exponents)
        return 1.0 if math.isclose(total, 1, abs_tol=1e-9) else total

    def __call__(self, x_t: Array, t: ArrayLike) -> Prediction:
        """The prediction of the combined score."""
        return self.with_excess(x_t, t)[0]

    def with_excess(self, x_t: Array, t: ArrayLike) -> tuple[Prediction, Array]:
        """The prediction, and (|E|^2 - sum_k b_k |eps_k|^2) / 2 `[B]`, where E = -sigma sum_k b_k s_k."""
        count = len(self.exponents)
        predictions = evaluate(self.branches, x_t, t, (count,), f"of the {count} exponents")
        weighed = lambda values: functools.reduce(operator.add, (b * v for b, v in zip(self.exponents, values)))
        eps = weighed([prediction.eps for prediction in predictions])
        x0 = weighed([prediction.x0 for prediction in predictions])
        if self.total != 1:  # alpha x0 + sigma eps = x_t again
            x0 = x0 - (self.total - 1) * x_t / left_broadcast(self.schedule.alpha(t), x_t)
        square = lambda a: jnp.sum(a**2, axis=tuple(range(1, a.ndim)))
        excess = square(eps) - weighed([square(prediction.eps) for prediction in predictions])
        return Prediction(x0, eps, predictions[0].variance), excess / 2


def product_conditions(condition: Array, labels: Sequence[int] = ()) -> tuple[Array, ...]:
    """The conditions for a product in a config: the sample's class, and further classes.

    Args:
        condition: the classes of the samples, `[B]`.
        labels: the further classes, int; each applies to all samples. The number of classes is the null class.
    """
    return (condition, *(jnp.full_like(condition, label) for label in labels))


@with_conditions(product_conditions)
def product(branches: Branches, schedule: NoiseSchedule, exponents: Sequence[float]) -> Product:
    """A product of powers of densities, prod_k p_k^(b_k), approximated by the score sum_k b_k s_k.

    Exponents (1, 1) give a product, (1/2, 1/2) the geometric mean, and (b,) a power; (w, 1 - w) of a conditional and an
    unconditional denoiser is classifier-free guidance. Except at t = 0, the sum is not the score of the noised product,
    so plain samples do not follow the product; `steering.corrected` corrects them.

    Facts:
        nfe: the number of exponents, branches per call
        neutral: exponents (1, 0, ..., 0), the first denoiser exactly
        paper: Du et al. 2023, "Reduce, Reuse, Recycle: Compositional Generation with Energy-Based Diffusion Models and
            MCMC"; Skreta et al. 2025, "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of
            Experts"

    Args:
        branches: function that evaluates the denoisers of the p_k.
        schedule: the process of all denoisers.
        exponents: exponents b_k, one for each branch, with a positive sum.

    Returns:
        A denoiser, defined only where alpha > 0 unless the exponents sum to 1. If the networks predict a variance, the
        first branch provides it.

    Raises:
        ValueError: if the sum of the exponents is not positive; when called, if there is not one branch for each
            exponent.
    """
    check_process(branches, schedule)
    weighted = Product(branches, tuple(map(float, exponents)), schedule)
    if not weighted.total > 0:
        raise ValueError(
            f"product: the exponents {weighted.exponents} must have a positive sum, but it is {weighted.total:g}"
        )
    return weighted


def multiplied(denoise: Denoiser, other: Denoiser, schedule: NoiseSchedule, exponent: float = 1.0) -> Product:
    """The product p q^b of a density p, or a `product`, and a power of another density q.

    Facts:
        nfe: 1 of each network per call
        neutral: b = 0, the denoiser exactly
        paper: Skreta et al. 2025, "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts"

    Args:
        denoise: the denoiser of p, which may be a `product`.
        other: the denoiser of q.
        schedule: the process of both denoisers.
        exponent: exponent b of q, which may be negative.

    Raises:
        ValueError: under the conditions of `product`.
    """
    check_process(denoise, schedule)
    check_process(other, schedule)
    first = denoise if isinstance(denoise, Product) else product(separately(denoise), schedule, (1.0,))
    both = lambda x, t: (*first.branches(x, t), *separately(other)(x, t))
    return product(both, schedule, (*first.exponents, exponent))
