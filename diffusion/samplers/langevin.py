"""Predictors that follow the reverse process, and correctors that run Langevin dynamics at one noise level."""

import jax
import jax.numpy as jnp

from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.parameters import traced
from diffusion.arrays.square_roots import root
from diffusion.samplers.posterior import transition_variance
from diffusion.samplers.sample import Sampler, State, start
from diffusion.schedules import left_broadcast

STEP_SIZES = ("norms", "sigma")


def reverse_diffusion() -> Sampler:
    """x_s = (2 - a) x_t + b^2 score + b z,    where x_t = a x_s + b w is the forward step: a = alpha_t / alpha_s.

    The reverse equation, discretized like the forward step. The step to sigma(s) = 0 returns the estimate of x_0.

    Facts:
        kind: stochastic
        order: weak 1
        nfe: steps
        accepts: any schedule; needs many steps where alpha is small
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", appendix E
    """

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        x0, eps = denoise(state.x, t)[:2]
        variance = transition_variance(schedule, t, s)
        mean = (2 - schedule.alpha(t) / schedule.alpha(s)) * state.x - variance / schedule.sigma(t) * eps
        x = jnp.where(schedule.sigma(s) > 0, mean + root(variance) * noise[0], schedule.alpha(s) * x0)
        return State(x, x0)

    return Sampler(start, step, draws=1, nfe=lambda steps: steps)


def predictor_corrector(
    predictor: Sampler | None = None, snr: float = 0.16, corrections: int = 1, step_size: str = "norms"
) -> Sampler:
    """A step of any sampler from t to s, then Langevin steps at s:

        x <- x + e score(x, s) + sqrt(2 e) z,    e = 2 (snr |z| / |score|)^2 ("norms") or 2 (snr sigma_s)^2 ("sigma").

    The norms are taken over each sample, so that samples are independent of each other; the authors average them over
    the batch. There are no corrections at sigma(s) = 0. The predictor acts first, as in the paper's algorithms; the
    authors' code begins with the corrector. This e is right in any scaling of x, so it lacks the factor alpha_i that
    the paper has for variance-preserving processes. (In the paper alpha_i is the product of 1 - beta; the authors' code
    has the single factor 1 - beta, about 1.)

    Facts:
        kind: stochastic
        order: weak 1 with the paper's predictors, up to a relative error of about snr^2 in the variance, from the
            Langevin steps
        nfe: nfe of the predictor + corrections (steps - 1)
        accepts: any schedule that the predictor accepts
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", algorithms
            1 and 4; "sigma" is the step of Song and Ermon 2019 as `ald` in the authors' code

    Args:
        predictor: sampler that takes the step; None for `reverse_diffusion()`. `ddpm()` is the paper's ancestral
            predictor.
        snr: signal-to-noise ratio of a Langevin step, > 0; 0.16 in the paper's main experiments.
        corrections: number of Langevin steps after each predictor step, >= 1.
        step_size: rule for e, "norms" or "sigma"; "norms" tends to "sigma" in many dimensions.

    Raises:
        ValueError: if snr is not positive, there are no corrections, or the step size is unknown.
    """
    predictor = reverse_diffusion() if predictor is None else predictor
    if not traced(snr) and not snr > 0:
        raise ValueError(f"predictor_corrector: snr = {snr} must be positive (0.16 in the paper)")
    if corrections < 1:
        raise ValueError(
            f"predictor_corrector: corrections = {corrections} must be at least 1; without corrections use the "
            "predictor itself"
        )
    if step_size not in STEP_SIZES:
        raise ValueError(f"predictor_corrector: unknown step size {step_size!r}. Valid: {', '.join(STEP_SIZES)}")

    def step(state, denoise, schedule, plan, i, noise):
        s = plan.s[i]
        state = predictor.step(state, denoise, schedule, plan, i, noise[: predictor.draws])

        def langevin(x, z):
            score = -denoise(x, s).eps / schedule.sigma(s)
            size = schedule.sigma(s) if step_size == "sigma" else left_broadcast(_norm(z) / _norm(score), x)
            e = 2 * (snr * size) ** 2
            return x + e * score + jnp.sqrt(2 * e) * z, None

        corrected = lambda x: jax.lax.scan(langevin, x, noise[predictor.draws :])[0]
        return state._replace(x=jax.lax.cond(schedule.sigma(s) > 0, corrected, lambda x: x, state.x))

    return Sampler(
        predictor.init,
        step,
        draws=predictor.draws + corrections,
        nfe=lambda steps: predictor.nfe(steps) + corrections * (steps - 1),
        reads_variance=predictor.reads_variance,
        real=predictor.real,
        clip=predictor.clip,
    )


def _norm(x):
    """`[B]` the norm of each sample, kept above 0, so that it can be divided by."""
    tiny = jnp.finfo(x.dtype).tiny
    return jnp.sqrt(jnp.sum(flattened(x) ** 2, axis=1) + tiny)
