"""The names that a config can use, and their functions. To add one: a line in a table.

Arguments are those of the function, checked against its signature by `resolve.call`; what does not come from the entry
(the schedule, what the network predicts, the steps of the run ...) is supplied there.
"""

from collections.abc import Callable

from diffusion import (
    couplings,
    flow_maps,
    guidance,
    objectives,
    parameterizations,
    samplers,
    schedules,
    timesteps,
    weightings,
)
from diffusion.data import augmentation, transforms
from diffusion.metrics import features
from diffusion.models import MODELS as BACKBONES
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.pixart import PixArt
from diffusion.models.text_encoders.clip import CLIP, CLIPText, CLIPVision
from diffusion.training import optimizers
from experiments.config import ConfigError

MODELS = {**BACKBONES, "autoencoder_kl": AutoencoderKL, "clip": CLIP, "pixart": PixArt}
TOWERS = {"text": CLIPText, "vision": CLIPVision}  # of "clip"


def _table(*functions):
    return {function.__name__: function for function in functions}


def add(table: dict[str, Callable], function: Callable, name: str = "") -> None:
    """Adds a function to a table, so that configs can name it: what a file that --extend names does (docs/extend.md).

    Args:
        table: e.g. SAMPLERS.
        function: of the kind that the table holds.
        name: that configs have for it; its own if "".

    Raises:
        ConfigError: if it is no function, or the table has another of that name.
    """
    if not callable(function):
        raise ConfigError(
            f"names.add was given {function!r}. Valid: a function, or a class, that returns one of the "
            "table's kind; not what it returns."
        )
    name = name or function.__name__
    if name in table:
        raise ConfigError(f"names.add: there is a {name!r} already. Valid: another name, which the argument name sets.")
    table[name] = function


SCHEDULES = _table(
    schedules.rectified_flow,
    schedules.trigonometric,
    schedules.cosine,
    schedules.sigmoid,
    schedules.linear_beta,
    schedules.scaled_linear,
    schedules.from_betas,
    schedules.from_log_snr,
    schedules.variance_preserving,
    schedules.sub_vp,
    schedules.variance_exploding,
    schedules.edm,
    schedules.shifted,
    schedules.zero_terminal_snr,
)
PARAMETERIZATIONS = _table(
    parameterizations.epsilon,
    parameterizations.x0,
    parameterizations.v,
    parameterizations.score,
    parameterizations.velocity,
    parameterizations.edm,
    parameterizations.learned_variance,
    flow_maps.consistency_boundary,
    flow_maps.latent_consistency,
)
CLOCKS = _table(
    parameterizations.time, parameterizations.steps, parameterizations.log_sigma, parameterizations.reversed_time
)
DENSITIES = _table(
    timesteps.uniform_density,
    timesteps.discrete_density,
    timesteps.logit_normal,
    timesteps.log_normal,
    timesteps.mode,
    timesteps.cosmap,
    timesteps.laplace,
    timesteps.beta_density,
    timesteps.loss_second_moment,
)
WEIGHTINGS = _table(
    weightings.constant,
    weightings.snr,
    weightings.truncated_snr,
    weightings.min_snr,
    weightings.soft_min_snr,
    weightings.p2,
    weightings.edm,
    weightings.sigmoid,
    weightings.per_log_snr,
)
COUPLINGS = _table(
    couplings.independent, couplings.optimal_transport, couplings.sinkhorn, couplings.schroedinger_bridge
)
OBJECTIVES = _table(
    objectives.denoising,
    objectives.flow_matching,
    objectives.contrastive_flow_matching,
    objectives.hybrid,
    objectives.mean_flow,
    objectives.improved_mean_flow,
    objectives.shortcut,
    objectives.ct,
    objectives.ict,
    objectives.ect,
    objectives.continuous_consistency,
    objectives.progressive_distillation,
    objectives.cd,
    objectives.autoencoding.kl_autoencoder,
    objectives.image_text.contrastive_pretraining,
    objectives.latent_consistency_distillation,
    objectives.distribution_matching,
    objectives.adversarial_generator,
    objectives.reflow,
)
RIVALS = _table(objectives.fake_score, objectives.adversarial_discriminator)  # objectives of the second player
SAMPLERS = _table(
    samplers.ddpm,
    samplers.ddim,
    samplers.euler,
    samplers.heun,
    samplers.midpoint,
    samplers.rk4,
    samplers.dpm_2,
    samplers.dpm_solver_2,
    samplers.dpm_solver_3,
    samplers.dpmpp_2s,
    samplers.dpmpp_2m,
    samplers.dpmpp_3m,
    samplers.unipc,
    samplers.deis,
    samplers.lms,
    samplers.plms,
    samplers.pndm,
    samplers.edm,
    samplers.euler_ancestral,
    samplers.dpm_2_ancestral,
    samplers.dpmpp_sde,
    samplers.dpmpp_2m_sde,
    samplers.dpmpp_3m_sde,
    samplers.euler_maruyama,
    samplers.reverse_diffusion,
    samplers.predictor_corrector,
    samplers.interpolant_sde,
    samplers.consistency,
    samplers.tcd,
    samplers.flow_map,
)
GRIDS = _table(
    timesteps.uniform,
    timesteps.polynomial,
    timesteps.beta,
    timesteps.sigmoid,
    timesteps.uniform_log_snr,
    timesteps.exponential,
    timesteps.karras,
    timesteps.kl_optimal,
    timesteps.leading,
    timesteps.trailing,
    timesteps.linspace,
    timesteps.align_your_steps,
)
GUIDANCES = _table(  # of two branches, the condition and the null one
    guidance.classifier_free,
    guidance.rescaled,
    guidance.adaptive_projected,
    guidance.classifier_free_plus_plus,
    guidance.zero_star,
)
OPTIMIZERS = optimizers.OPTIMIZERS
AUGMENTATIONS = transforms.AUGMENTATIONS
TOLD_AUGMENTATIONS = _table(augmentation.edm_augmentation)  # the network is told of them
FEATURES = features.FEATURES

# How the network of an objective jumps from time to time; the other objectives train denoisers.
FLOW_MAPS = {
    "mean_flow": flow_maps.mean_flow,
    "improved_mean_flow": flow_maps.mean_flow,
    "shortcut": flow_maps.shortcut,
    "ct": flow_maps.consistency,
    "ict": flow_maps.consistency,
    "ect": flow_maps.consistency,
    "continuous_consistency": flow_maps.consistency,
    "cd": flow_maps.consistency,
    "latent_consistency_distillation": flow_maps.consistency,
    "distribution_matching": flow_maps.consistency,
    "adversarial_generator": flow_maps.consistency,
}
TWO_TIMES = ("mean_flow", "improved_mean_flow", "shortcut")  # their networks are told two times
VELOCITIES = ("flow_matching", "contrastive_flow_matching", *TWO_TIMES)  # their networks predict one
# They differentiate the network in forward mode (jax.jvp), which cuDNN's attention does not have.
FORWARD_MODE = ("mean_flow", "improved_mean_flow", "continuous_consistency")
ONE_SIZE = ("u_vit",)  # a position of its own is learned for each patch: these take pictures of one size
TAUGHT = (  # they need config.teacher
    "progressive_distillation", "cd", "latent_consistency_distillation", "distribution_matching",
    "adversarial_generator", "reflow",
)  # fmt: skip
PAIRED = ("reflow",)  # of these, those that learn from config.teacher.pairs
STAGED = ("progressive_distillation",)  # their students are teachers in turn, and have the guidance of the first
ONE_STEP = ("distribution_matching",)  # what they train makes samples in one step, and in no more
TOLD_STRENGTH = ("latent_consistency_distillation",)  # their networks are told the scale of the guidance
# The objective of the second player that belongs to each, and the network that it trains.
SECOND = {
    "distribution_matching": ("fake_score", "fake"),
    "adversarial_generator": ("adversarial_discriminator", "discriminator"),
}
# The networks that are no backbones, and the objective that trains each.
TRAINED_BY = {"autoencoder_kl": "kl_autoencoder", "clip": "contrastive_pretraining"}
# The networks that are told text, the field of config.data.text that it comes from, and the entries of their condition.
TOLD_TEXT = {"clip": ("tokenizer", ("ids", "mask")), "pixart": ("dir", ("text", "text_mask"))}
__all__ = [
    "AUGMENTATIONS",
    "CLOCKS",
    "COUPLINGS",
    "DENSITIES",
    "FEATURES",
    "FLOW_MAPS",
    "FORWARD_MODE",
    "GRIDS",
    "GUIDANCES",
    "MODELS",
    "OBJECTIVES",
    "ONE_SIZE",
    "ONE_STEP",
    "OPTIMIZERS",
    "PAIRED",
    "PARAMETERIZATIONS",
    "RIVALS",
    "SAMPLERS",
    "SCHEDULES",
    "SECOND",
    "STAGED",
    "TAUGHT",
    "TOLD_AUGMENTATIONS",
    "TOLD_STRENGTH",
    "TOLD_TEXT",
    "TOWERS",
    "TRAINED_BY",
    "TWO_TIMES",
    "VELOCITIES",
    "WEIGHTINGS",
]
