"""Recipes: the arguments of `denoising` that give published methods.

    recipe = recipes.edm()
    objective = objectives.denoising(recipe.parameterization, recipe.weighting, recipe.density)

Each recipe is a function without required arguments; RECIPES maps names to them.
"""

from collections.abc import Callable
from typing import NamedTuple

from diffusion import parameterizations, schedules, timesteps
from diffusion.objectives import weightings
from diffusion.objectives.weightings import Weighting
from diffusion.parameterizations import Parameterization
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Density


class Recipe(NamedTuple):
    """The schedule, parameterization, loss weights and times of a published method.

    Attributes:
        schedule: the process.
        parameterization: meaning of the network's output, and of its time input.
        weighting: weight on the squared error of x0.
        density: distribution of t.
    """

    schedule: NoiseSchedule
    parameterization: Parameterization
    weighting: Weighting
    density: Density


def ddpm(T: int = 1000, strata: int | None = None) -> Recipe:
    """|eps - eps_hat|^2 at the T times of the linear-beta process. Ho et al. 2020, eq. 14.

    Args:
        T: number of steps of the process.
        strata: number of strata of the density, here and in all recipes: the batch size for stratified times, None for
            independent times.
    """
    return _epsilon(schedules.linear_beta(T=T), T, strata)


def latent_diffusion(T: int = 1000, strata: int | None = None) -> Recipe:
    """|eps - eps_hat|^2 at the T times of the scaled-linear process. Rombach et al. 2022, eq. 2."""
    return _epsilon(schedules.scaled_linear(T=T), T, strata)


def min_snr(T: int = 1000, gamma: float = 5.0, strata: int | None = None) -> Recipe:
    """DDPM with weight min(SNR, gamma) on |x0 - x0_hat|^2. Hang et al. 2023, "Min-SNR Weighting Strategy"."""
    return ddpm(T, strata)._replace(weighting=weightings.min_snr(gamma))


def v_prediction(strata: int | None = None) -> Recipe:
    """max(|x0 - x0_hat|^2, |eps - eps_hat|^2) by v prediction on the cosine schedule in continuous time.

    Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", section 4.
    """
    schedule = schedules.cosine()
    density = timesteps.uniform_density(schedule, strata)
    return Recipe(schedule, parameterizations.v(), weightings.truncated_snr(), density)


def edm(sigma_data: float = 0.5, strata: int | None = None) -> Recipe:
    """|F - F_hat|^2 with preconditioning, at log-normal noise levels. Karras et al. 2022, table 1."""
    schedule = schedules.edm()
    density = timesteps.log_normal(schedule, -1.2, 1.2, strata)
    return Recipe(schedule, parameterizations.edm(sigma_data), weightings.edm(sigma_data), density)


def vdm_plus_plus(bias: float = 2.0, strata: int | None = None) -> Recipe:
    """sigmoid(bias - log-SNR) |eps - eps_hat|^2 over log-SNRs, by v prediction on the cosine schedule.

    Kingma and Gao 2023, "Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation", up to a factor
    of 1/2; their adaptive times only lower the variance.
    """
    schedule = schedules.cosine()
    weighting = weightings.per_log_snr(weightings.sigmoid(bias))
    return Recipe(schedule, parameterizations.v(), weighting, timesteps.uniform_density(schedule, strata))


def rectified_flow(strata: int | None = None) -> Recipe:
    """|u - (eps - x0)|^2 at uniform times. Liu et al. 2023, "Flow Straight and Fast", eq. 1."""
    schedule = schedules.rectified_flow()
    return _velocity(schedule, timesteps.uniform_density(schedule, strata))


def stable_diffusion_3(strata: int | None = None) -> Recipe:
    """The rectified flow at logit-normal times. Esser et al. 2024, table 1, "rf/lognorm(0.00, 1.00)"."""
    schedule = schedules.rectified_flow()
    return _velocity(schedule, timesteps.logit_normal(schedule, 0.0, 1.0, strata))


def _epsilon(schedule, T, strata):
    parameterization = parameterizations.epsilon(parameterizations.steps(T))
    density = timesteps.discrete_density(schedule, T, strata)
    return Recipe(schedule, parameterization, weightings.constant(parameterization), density)


def _velocity(schedule, density):
    parameterization = parameterizations.velocity()
    return Recipe(schedule, parameterization, weightings.constant(parameterization), density)


RECIPES: dict[str, Callable[..., Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        ddpm,
        latent_diffusion,
        min_snr,
        v_prediction,
        edm,
        vdm_plus_plus,
        rectified_flow,
        stable_diffusion_3,
    )
}
