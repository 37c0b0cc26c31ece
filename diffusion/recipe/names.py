"""The names that a config can use, and their functions. One line in a table adds a name.

The arguments of an entry are arguments of the function; `entries.call` checks them against its signature, and supplies
the arguments that do not come from the entry (the schedule, the parameterization, the steps of the run ...).
"""

import functools
from collections.abc import Callable

from diffusion import discrete, manifolds, objectives, parameterizations, schedules, timesteps
from diffusion.adapters import (
    control,
    custom_diffusion,
    full_tuning,
    image_prompt,
    inpainting,
    instruct_pix2pix,
    low_rank,
    textual_inversion,
)
from diffusion.data import augmentation, controls, series_masks, sound, sources, transforms
from diffusion.data.proteins import atom_losses
from diffusion.flows import flow_maps
from diffusion.metrics import features
from diffusion.models import MODELS as BACKBONES
from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.autoencoders.autoencoder_kl_video import AutoencoderKLVideo
from diffusion.models.autoencoders.patch_discriminator import PatchDiscriminator
from diffusion.models.autoencoders.rae_decoder import RAEDecoder
from diffusion.models.feature_heads import FeatureHeads
from diffusion.models.image_encoders import convnext, dinov2, dinov3, ijepa, mae, siglip
from diffusion.models.lpips import LPIPS
from diffusion.models.symbol_transformer import SymbolTransformer
from diffusion.models.text_encoders.clip import CLIP, CLIPText, CLIPVision
from diffusion.objectives import (
    classification,
    consistency,
    consistency_times,
    couplings,
    decoders,
    few_step,
    interpolants,
    weightings,
)
from diffusion.recipe import learned_schedule
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.entries import constants, table
from diffusion.recipe.sampling_names import (  # noqa: F401, names of configs too
    CACHES,
    DRIVERS,
    GRIDS,
    GUIDANCES,
    GUIDES,
    LAWS,
    LIKELIHOODS,
    MASKS,
    MEASUREMENTS,
    PLANS,
    RAMPS,
    REMASKINGS,
    SAMPLERS,
    SYMBOL_SAMPLERS,
    UNMASKINGS,
)
from diffusion.sampling import watermarks
from diffusion.training import optimizers, power_ema

MODELS = {
    **BACKBONES,
    "autoencoder_kl": AutoencoderKL,
    "autoencoder_kl_video": AutoencoderKLVideo,
    "clip": CLIP,
    "rae_decoder": RAEDecoder,
    "symbol_transformer": SymbolTransformer,
}
TOWERS = {"text": CLIPText, "vision": CLIPVision}  # the towers of "clip"


def add(table: dict[str, Callable], function: Callable, name: str = "") -> None:
    """Adds a function to a table, so that configs can name it: what a file that --extend names does (docs/extend.md).

    Args:
        table: the table, e.g. SAMPLERS.
        function: a function of the kind that the table holds.
        name: the name that configs have for it; its own if "".

    Raises:
        ConfigError: if `function` is not callable, has no name, or the table has another function of that name.
    """
    if not callable(function):
        raise ConfigError(
            f"names.add received {function!r}. Valid: a function or a class that returns an entry of the table's "
            "kind, not the entry itself."
        )
    name = name or getattr(function, "__name__", "<partial>")
    if name.startswith("<"):
        raise ConfigError(f"names.add: {function!r} has no name of its own. Valid: a name, set by the argument name.")
    both = ((TERMS, WRAPPERS), (SAMPLERS, SYMBOL_SAMPLERS))  # one field names functions of both tables
    beside = next((other for pair in both for one, other in (pair, pair[::-1]) if one is table), {})
    if name in table or name in beside:
        raise ConfigError(
            f"names.add: the name {name!r} is already taken. Valid: another name, set by the argument name."
        )
    table[name] = function


SCHEDULES = table(
    schedules.rectified_flow,
    schedules.trigonometric,
    schedules.cosine,
    schedules.sigmoid,
    schedules.linear_beta,
    schedules.scaled_linear,
    schedules.from_betas,
    schedules.from_log_snr,
    learned_schedule.learned,
    schedules.variance_preserving,
    schedules.sub_vp,
    schedules.variance_exploding,
    schedules.edm,
    schedules.shifted,
    schedules.interpolated,
    schedules.zero_terminal_snr,
    schedules.ending_at,
)
PARAMETERIZATIONS = table(
    parameterizations.epsilon,
    parameterizations.x0,
    parameterizations.clipped_x0,
    parameterizations.v,
    parameterizations.score,
    parameterizations.velocity,
    parameterizations.edm,
    parameterizations.learned_variance,
    flow_maps.consistency_boundary,
    flow_maps.latent_consistency,
)
CLOCKS = table(
    parameterizations.time,
    parameterizations.steps,
    parameterizations.log_sigma,
    parameterizations.reversed_time,
    parameterizations.noise_level,
)
DENSITIES = table(
    timesteps.uniform_density,
    timesteps.discrete_density,
    timesteps.logit_normal,
    timesteps.log_normal,
    timesteps.mode,
    timesteps.cosmap,
    timesteps.laplace,
    timesteps.beta_density,
    timesteps.loss_second_moment,
    timesteps.per_frame,
    timesteps.given_frames,
    timesteps.dimension_shifted_density,
    consistency_times.ramp_density,
)
WEIGHTINGS = table(
    weightings.constant,
    weightings.snr,
    weightings.truncated_snr,
    weightings.at_most,
    weightings.min_snr,
    weightings.soft_min_snr,
    weightings.p2,
    weightings.edm,
    weightings.sigmoid,
    weightings.per_log_snr,
)
COUPLINGS = table(
    couplings.independent,
    couplings.optimal_transport,
    couplings.sinkhorn,
    couplings.schroedinger_bridge,
    couplings.across_conditions,
    couplings.conditional_optimal_transport,
    couplings.aligned,
    couplings.equivariant_optimal_transport,
    manifolds.aligned_frames,
)
COSTS = table(manifolds.geodesic_cost)  # costs of transport
CONDITION_DISTANCES = constants(squared=couplings.squared, cosine=couplings.cosine)
OBJECTIVES = table(
    objectives.denoising,
    objectives.flow_matching,
    objectives.contrastive_flow_matching,
    objectives.hybrid,
    objectives.masked_denoising,
    objectives.mean_flow,
    objectives.improved_mean_flow,
    objectives.alpha_flow,
    objectives.shortcut,
    objectives.drifting,
    objectives.variational_bound,
    objectives.stochastic_interpolant,
    objectives.schroedinger_bridge,
    objectives.consistency_training,
    objectives.consistency_distillation,
    objectives.ct,
    objectives.ict,
    objectives.ect,
    objectives.continuous_consistency,
    objectives.truncated_consistency,
    objectives.progressive_distillation,
    objectives.progressive_adversarial,
    objectives.trajectory_regression,
    objectives.guidance_distillation,
    objectives.reward_backpropagation,
    objectives.diffusion_dpo,
    objectives.adjoint_matching,
    objectives.adjoint_sampling,
    objectives.log_variance,
    objectives.policy_gradient,
    objectives.diffusion_nft,
    objectives.cd,
    objectives.autoencoding.kl_autoencoder,
    objectives.representation_autoencoder.rae_decoder,
    objectives.image_text.contrastive_pretraining,
    objectives.latent_consistency_distillation,
    objectives.distribution_matching,
    objectives.score_identity,
    objectives.score_regularised_consistency,
    objectives.adversarial_generator,
    objectives.reflow,
    objectives.regression,
    objectives.concept_direction,
    objectives.concept_slider,
    objectives.erased_concept,
    classification.noisy_classification,
    manifolds.riemannian_flow_matching,
    manifolds.riemannian_score_matching,
    discrete.masked_diffusion,
    discrete.score_entropy,
    discrete.hybrid_bound,
    discrete.block_diffusion,
    discrete.discrete_flow_matching,
    discrete.duo,
    discrete.discrete_consistency,
    discrete.ratio_matching,
    discrete.noisy_symbol_classification,
    discrete.trained_masks,
)
PROCESSES = table(
    discrete.absorbing,
    discrete.uniform,
    discrete.mixture,
    discrete.rate_process,
    discrete.token_masks,
    discrete.metric_path,
)  # processes of symbols
# Schedules of the processes of symbols.
KEEPINGS = table(discrete.linear, discrete.polynomial, discrete.power, discrete.cosine)
RATES = table(discrete.banded_rates, discrete.gaussian_rates)  # the rates of "rate_process"
SYMBOL_DISTANCES = table(discrete.line_distances)  # the distances of "metric_path"
READINGS = constants(
    logits=discrete.from_logits,
    context=discrete.from_context,
    ratios=discrete.from_ratios,
    scaled_ratios=discrete.from_scaled_ratios,
    rates=discrete.from_rates,
)  # readings of the outputs of networks of symbols
MANIFOLDS = table(
    manifolds.euclidean,
    manifolds.sphere,
    manifolds.circle,
    manifolds.torus,
    manifolds.so3,
    manifolds.centred,
    manifolds.frames,
)
PRIORS = table(manifolds.frame_prior)  # prior distributions on manifolds
AUXILIARY = table(atom_losses.atoms_and_distances)  # losses of the x0 that a predicted velocity leads to
HEAT_KERNELS = table(
    manifolds.heat_kernels.sphere,
    manifolds.heat_kernels.torus,
    manifolds.heat_kernels.so3,
    manifolds.heat_kernels.varadhan,
)
SECOND_PLAYERS = table(  # objectives of second players
    objectives.fake_score,
    objectives.adversarial_discriminator,
    objectives.transition_judge,
    objectives.autoencoding.patch_critic,
    objectives.representation_autoencoder.rae_critic,
    objectives.end_to_end_critic,
)
CRITICS: dict[str, Callable] = {  # Linen modules: pictures, or features of the teacher -> logits
    "patch_discriminator": PatchDiscriminator,
    "feature_heads": FeatureHeads,
}
AUTOENCODERS: dict[str, Callable] = {"autoencoder_kl": AutoencoderKL}  # autoencoders that train with a model
PERCEPTUAL: dict[str, Callable] = {"lpips": LPIPS}  # Linen modules: pictures -> features
TERMS = table(  # terms on features
    objectives.alignment,
    objectives.structured_alignment,
    objectives.self_alignment,
    objectives.dispersive,
    objectives.early_prediction,
)
WRAPPERS: dict[str, Callable] = {  # (objective, ...) -> objective; a list of wrappers may name TERMS too
    "augmentation": objectives.with_augmentation,
    "condition_dropout": objectives.with_condition_dropout,
    "end_to_end": objectives.end_to_end,
    "masked_copy": objectives.with_masked_copy,
    "pictures": objectives.with_pictures,
    "prior_preservation": objectives.with_prior_preservation,
    "reward_weights": objectives.with_reward_weights,
    "uncertainty": functools.partial(objectives.with_uncertainty, network=objectives.uncertainty()),
}
UNCERTAINTIES = table(objectives.uncertainty)  # networks that predict the loss at each noise level
# Projectors of features, in a term.
PROJECTORS = table(objectives.projectors.mlp, objectives.projectors.convolution, objectives.projectors.final_layer)
ENCODERS: dict[str, Callable] = {  # Linen modules: pictures -> `image_features.ImageFeatures`
    "convnext": convnext.ConvNeXt,
    "dinov2": dinov2.DINOv2,
    "dinov3": dinov3.DINOv3,
    "ijepa": ijepa.IJEPA,
    "mae": mae.MAE,
    "siglip": siglip.SigLIP,
}
INTERPOLANTS = table(  # interpolants of "stochastic_interpolant"
    interpolants.brownian_bridge, interpolants.smooth_bridge, interpolants.encoding_decoding
)
DECODERS = table(decoders.levels, decoders.gaussian)  # decoders of "variational_bound"
# Pairs of times that consistency training compares.
PAIRS = table(consistency_times.discretised, consistency_times.shrinking)
CURRICULA = table(
    consistency_times.constant_curriculum,
    consistency_times.square_root_curriculum,
    consistency_times.doubling_curriculum,
)
SIMULATIONS = table(  # simulations of the generator's samples, for objectives of generators and "fake_score"
    objectives.one_step, objectives.backward_simulation, objectives.self_forcing, objectives.noised_chunks
)
F_DIVERGENCES = constants(  # f-divergences of "distribution_matching"
    reverse_kl=objectives.f_divergences.reverse_kl,
    softened_reverse_kl=objectives.f_divergences.softened_reverse_kl,
    jensen_shannon=objectives.f_divergences.jensen_shannon,
    squared_hellinger=objectives.f_divergences.squared_hellinger,
    forward_kl=objectives.f_divergences.forward_kl,
    jeffreys=objectives.f_divergences.jeffreys,
)
REWARDS = table(objectives.near_value)  # rewards of samples, for objectives of post-training
TARGETS = table(  # unnormalised densities
    objectives.gaussian_mixture, objectives.funnel, objectives.many_well, objectives.dw4
)
DISTANCES = {**constants(squared=few_step.squared), **table(few_step.pseudo_huber)}
PAIR_WEIGHTINGS = constants(inverse_gap=consistency.inverse_gap)
SOLVERS = constants(heun=flow_maps.heun, ddim=flow_maps.from_denoiser)  # solvers of the teacher's flow
TUNINGS = table(  # what a run teaches a base
    low_rank.lora,
    low_rank.dora,
    low_rank.loha,
    low_rank.lokr,
    full_tuning.full,
    textual_inversion.textual_inversion,
    custom_diffusion.custom_diffusion,
    image_prompt.ip_adapter,
    control.control_net,
    control.t2i_adapter,
    inpainting.inpainting,
    instruct_pix2pix.instruct_pix2pix,
)
OPTIMIZERS = optimizers.OPTIMIZERS
AVERAGES = table(power_ema.moving_average)  # averages of the parameters
SOURCES = table(
    sources.tfds,
    sources.class_folders,
    sources.picture_folder,
    sources.tar_shards,
    sources.parquet,
    sources.array_records,
    sources.tar_stream,
    sources.parquet_stream,
    sources.arrays,
    sources.spirals,
    sources.drawings,
    sources.arranged_drawings,
    sources.moving_drawings,
    sources.moving_pairs,
    sources.spelled_drawings,
    sources.sphere_mixture,
    sources.torsion_mixture,
    sources.rotation_mixture,
    sources.gaussian_series,
    sources.series_windows,
    sources.instruments,
    sources.wav_folder,
    sources.clip_folder,
    sources.clip_shards,
    sources.solid_points,
    sources.solid_distances,
    sources.mesh_clouds,
    sources.prose,
    sources.text_file,
    sources.ideal_folds,
    sources.mixture,
    sources.filtered,
    sources.controlled,
    sources.painted,
    sources.preferences,
    sources.paced,
)
# Picture -> its control, for the source "controlled".
CONTROLS = table(controls.downsampled, controls.edges, controls.sketch)
# Which part of a series is to be predicted.
HIDINGS = table(series_masks.forecast, series_masks.gaps, series_masks.missing)
# Forms of a clip of sound as an example.
SOUND_FORMS = table(sound.samples, sound.lapped_spectrum, sound.harmonics_and_rest)
FILTERS: dict[str, Callable] = {}  # functions that return (record -> whether it is kept), for "filtered"
DETECTORS: dict[str, Callable] = {}  # functions that return a `readers.Detector`, for prompt benchmarks
ANSWERERS: dict[str, Callable] = {}  # functions that return a `readers.Answerer`
DEPTHS: dict[str, Callable] = {}  # functions that return a `readers.Depth`
EMBEDDERS: dict[str, Callable] = {}  # functions that return a `readers.Embedder`
GRAMMARS: dict[str, Callable] = {}  # functions that return a `readers.Grammar`
ANSWER_LIKELIHOODS: dict[str, Callable] = {}  # functions that return an answer_log_probability, for "vqascore"
PARSERS: dict[str, Callable] = {}  # functions that return (bytes -> {column: value}), for "array_records"
WATERMARKS = watermarks.WATERMARKS  # functions (key, ...) -> `watermarks.Watermark`, for key files
AUGMENTATIONS = transforms.AUGMENTATIONS
CONDITIONING_AUGMENTATIONS = table(augmentation.edm_augmentation)  # augmentations whose parameters the network receives
FEATURES = features.FEATURES
