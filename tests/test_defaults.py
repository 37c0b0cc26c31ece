"""Defaults are the numbers of the papers and of their authors' code, written down from there."""

import inspect
import math

import pytest

from diffusion import (
    couplings,
    editing,
    flow_maps,
    guidance,
    likelihood,
    objectives,
    parameterizations,
    samplers,
    schedules,
    steering,
    timesteps,
    weightings,
)
from diffusion.guidance import attention_losses, measurement_guidance, measurements, strength
from diffusion.metrics import bootstrap, clip_score, inception_score, kernel_distance, manifold, memorisation
from diffusion.objectives import (
    autoencoding,
    consistency_times,
    decoders,
    equivariance,
    feature_losses,
    interpolants,
    objective_facts,
    projectors,
    recipes,
    vision_foundation,
)
from diffusion.objectives.end_to_end import followed, normalised
from diffusion.objectives.mean_flow import Guidance
from diffusion.objectives.objective import Jumps, Second, Teacher
from diffusion.training import codebooks, ema, optimizers

SIGMAS = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}  # Karras et al. 2022, table 1
BETAS = {"beta_min": 0.1, "beta_max": 20.0}  # Song et al. 2021, appendix C
SINKHORN = {"block": 64, "tolerance": 0.001, "iterations": 1000}
SHIFT = {"base": 4096}  # Zheng et al. 2025, section 4.2: 32 x 32 x 4 latents
REVERSE = {"eta": 1.0, "s_noise": 1.0}
DEFAULTS = [
    (schedules.cosine, {"s": 0.008}),
    (schedules.sigmoid, {"start": -3.0, "end": 3.0, "tau": 1.0}),
    (schedules.linear_beta, {"beta_start": 1e-4, "beta_end": 0.02, "T": 1000}),
    (schedules.scaled_linear, {"beta_start": 0.00085, "beta_end": 0.012, "T": 1000}),
    (schedules.init_learned, {"log_snr_max": 13.3, "log_snr_min": -5.0, "features": 1024}),
    (schedules.variance_exploding, {"sigma_min": 0.01, "sigma_max": 50.0}),
    (schedules.edm, {"sigma_min": 0.002, "sigma_max": 80.0}),
    (schedules.variance_preserving, BETAS),
    (schedules.sub_vp, BETAS),
    (timesteps.discrete_density, {"T": 1000, "shift": 1.0}),
    (timesteps.logit_normal, {"mean": 0.0, "std": 1.0}),
    (timesteps.mode, {"scale": 1.29}),
    (timesteps.log_normal, {"mean": -1.2, "std": 1.2}),
    (timesteps.laplace, {"mean": 0.0, "scale": 0.5}),
    (timesteps.leading, {"T": 1000, "offset": 0}),
    (timesteps.trailing, {"T": 1000}),
    (timesteps.linspace, {"T": 1000}),
    (timesteps.polynomial, {"rho": 2.0}),
    (timesteps.beta, {"a": 0.6, "b": 0.6}),
    (timesteps.sigmoid, {"start": -3.0, "end": 3.0, "tau": 1.0}),
    (timesteps.exponential, {"rho": 1.0}),
    (timesteps.karras, SIGMAS),
    (timesteps.kl_optimal, {"sigma_data": 1.0}),
    (timesteps.loss_second_moment, {"bins": 1000, "discrete": False, "history": 10, "uniform_prob": 0.001}),
    (timesteps.flux_shift, {"base": (256, 0.5), "largest": (4096, 1.15)}),
    (timesteps.karras_levels, {**SIGMAS, "levels": 40}),  # Song et al. 2023, appendix C: 40 of ImageNet 64
    (timesteps.dimension_shift, SHIFT),
    (timesteps.dimension_shifted, SHIFT),
    (timesteps.dimension_shifted_density, SHIFT),
    (timesteps.staggered, {"chunk": 1}),
    (schedules.rectified_flow, {"noise_scale": 1.0}),
    (objectives.adversarial_generator, {"weight": 2.5}),
    (objectives.adversarial_discriminator, {"r1": 1e-5}),
    (autoencoding.adaptive_weight, {"limit": 1e4, "delta": 1e-4}),
    (autoencoding.kl_autoencoder, {"kl": 1e-6, "perceptual": 1.0, "adversarial": 0.5, "start": 50001}),
    (
        autoencoding.vq_autoencoder,
        {"codebook": 1.0, "commitment": 0.25, "perceptual": 1.0, "adversarial": 0.75, "start": 250001},
    ),
    (autoencoding.rae_decoder, {"perceptual": 1.0, "adversarial": 0.75, "start": 20018, "tau": 0.8}),  # as its config
    (autoencoding.patch_critic, {"start": 0}),
    (autoencoding.rae_critic, {"start": 15013, "tau": 0.8}),
    (equivariance.Equivariance, {"probability": 0.5, "low_resolution": 0.25, "scales": (0.25, 0.5, 0.75)}),
    # Yao, Yang and Wang 2025, section 3.2
    (
        vision_foundation.VisionFoundation,
        {"weight": 0.1, "cosine_margin": 0.5, "distance_margin": 0.25, "adaptive": True},
    ),
    (vision_foundation.marginal_cosine, {"margin": 0.5}),
    (vision_foundation.marginal_distance_matrix, {"margin": 0.25}),
    # Gandikota et al. 2023: eta = 4 in the code of the sliders, 1 in equation 6 of ESD
    (objectives.concept_direction, {"scale": 1.0}),
    (objectives.concept_slider, {"scale": 4.0}),
    (objectives.erased_concept, {"scale": 1.0}),
    (objectives.early_prediction, {"layer": 8, "weight": 1.0}),
    (feature_losses.alignment, {"layer": 8, "weight": 0.5}),  # Yu et al. 2025
    (feature_losses.structured_alignment, {"layer": 8, "weight": 0.5}),
    (
        feature_losses.self_alignment,  # Jiang et al. 2025, for XL: 8 to 20
        {"layer": 8, "teacher_layer": 20, "interval": 0.2, "beta": 0.05, "weight": 0.2},
    ),
    (feature_losses.Term, {"encoder": False, "predicts": False, "block": 1}),
    (projectors.mlp, {"hidden": 2048}),  # Yu et al. 2025, REPA
    (projectors.convolution, {"side": 3}),  # Singh et al. 2025, iREPA
    (normalised, {"epsilon": 1e-4}),
    (followed, {"momentum": 0.1}),
    (
        objectives.end_to_end,  # Leng et al. 2025, the authors' code
        {
            "alignment": 1.5,
            "perceptual": 1.0,
            "kl": 1e-6,
            "adversarial": 0.1,
            "start": 0,
            "momentum": 0.1,
            "epsilon": 1e-4,
            "condition_dropout": 0.0,
        },
    ),
    (objectives.end_to_end_critic, {"start": 0}),
    (decoders.levels, {"count": 256}),  # of bytes
    (objectives.flow_matching, {"direction": 0.0}),
    (interpolants.brownian_bridge, {"sigma": 1.0}),
    (objectives.masked_denoising, {"patch": 2, "ratio": 0.5, "reconstruction": 0.1}),  # Zheng et al. 2023, MaskDiT
    (objectives.with_masked_copy, {"patch": 2, "least": 0.3, "most": 0.5}),  # Gao et al. 2023, MDTv2
    (Guidance, {"omega": 1.0, "kappa": 0.5, "dropout": 0.1}),
    (objectives.with_pictures, {"share": 0.25}),
    (objectives.with_prior_preservation, {"weight": 1.0, "number": 200}),  # Ruiz et al. 2023
    (objective_facts.Prior, {"prompt": "", "number": 200}),
    (
        objective_facts.Trained,
        {
            "name": "model",
            "kind": "backbone",
            "channels": None,
            "times": 1,
            "forward_mode": False,
            "judges": None,
            "schedule": False,
        },
    ),
    (
        objective_facts.Condition,
        {"dropout": 0.0, "strength": None, "augmentations": 0, "masks": 0, "masks_vary": False},
    ),
    (objective_facts.Blocks, {"features": (), "terms": (), "aligned": (), "early": None}),
    (objective_facts.Beside, {"encoder": False, "autoencoder": False, "perceptual": False, "prior": None}),
    (objective_facts.Examples, {"block": 1, "real": False, "score": True}),
    (Jumps, {"one_step": False}),
    (Teacher, {"pairs": False}),
    (Second, {"logit": False, "optional": False, "separate": False}),
    (recipes.ddpm, {"T": 1000}),
    (recipes.latent_diffusion, {"T": 1000}),
    (recipes.min_snr, {"T": 1000, "gamma": 5.0}),
    (recipes.edm, {"sigma_data": 0.5}),
    (recipes.vdm_plus_plus, {"bias": 2.0}),
    (objectives.cd, {"N": 18}),
    (objectives.ect, {"q": 4.0, "sigma_data": 0.5, "c": 0.0}),
    (consistency_times.square_root_curriculum, {"first": 2, "last": 150}),
    (consistency_times.doubling_curriculum, {"first": 10, "last": 1280}),
    (consistency_times.discretised, SIGMAS),
    (consistency_times.ramp_density, SIGMAS),
    (consistency_times.shrinking, {"q": 4.0, "k": 8.0, "b": 1.0}),
    (objectives.continuous_consistency, {"sigma_data": 0.5, "warmup": 10000, "c": 0.1}),
    (objectives.contrastive_flow_matching, {"weight": 0.05, "block": 2}),
    (objectives.distribution_matching, {"normalise": True, "ratios": (0.1, 20.0), "adversarial": 0.0}),
    (objectives.fake_score, {"adversarial": 0.0}),
    (objectives.dispersive, {"temperature": 1.0, "weight": 0.5}),
    (objectives.hybrid, {"T": 1000, "vlb_weight": 1.0}),
    (
        objectives.latent_consistency_distillation,
        {"guidance": (2.0, 14.0), "solver_steps": 50, "T": 1000, "c": 0.001, "shift": 1.0},
    ),
    (objectives.mean_flow, {"equal": 0.75, "p": 1.0, "c": 0.01}),
    (objectives.improved_mean_flow, {"equal": 0.5, "p": 1.0, "c": 0.01}),
    # class_dropout_prob, cfg_beta, and s_max of 7 above 1, of the authors' code
    (objectives.GuidanceInputs, {"largest": 8.0, "beta": 1.0, "interval": True, "dropout": 0.1}),
    (
        objectives.alpha_flow,
        {"equal": 0.5, "p": 1.0, "c": 0.01, "start": 0.0, "end": 1.0, "gamma": 25.0, "clamp": 0.005},
    ),
    (objectives.progressive_distillation, {"teacher_scale": 1.0}),
    (objectives.progressive_adversarial, {"teacher_scale": 1.0}),
    (objectives.transition_judge, {"teacher_scale": 1.0}),
    (objectives.trajectory_regression, {"solver_steps": 4}),
    (objectives.drifting, {"similarity": "laplace"}),
    (objectives.score_identity, {"alpha": 1.2, "normalise": True, "adversarial": 0.0}),
    (objectives.score_regularised_consistency, {"weight": 0.01, "sigma_data": 0.5, "warmup": 1000, "c": 0.1}),
    (objectives.shortcut, {"M": 128, "share": 0.25, "clip": math.inf}),
    (objectives.truncated_consistency, {"boundary": 1.0, "share": 0.25, "weight": 0.1}),
    (objectives.uncertainty, {"channels": 128}),
    (samplers.ddim, {"eta": 0.0}),
    (samplers.euler_ancestral, REVERSE),
    (samplers.dpm_2_ancestral, REVERSE),
    (samplers.dpmpp_sde, {**REVERSE, "r": 0.5}),
    (samplers.dpmpp_2m_sde, {**REVERSE, "solver": "midpoint", "lower_order_final": False}),
    (samplers.dpmpp_3m_sde, REVERSE),
    (samplers.dpmpp_2s, {"middle": "log-SNR", "lower_order_final": False}),
    (samplers.dpmpp_2m, {"lower_order_final": False}),
    (samplers.dpmpp_3m, {"lower_order_final": False}),
    (samplers.edm, {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}),
    (samplers.tcd, {"gamma": 0.3}),
    (samplers.ddim_inversion, {"iterations": 1}),
    (samplers.edict, {"mix": 0.93}),
    (samplers.bdia, {"gamma": 1.0}),
    (samplers.predictor_corrector, {"snr": 0.16, "corrections": 1}),
    (samplers.lms, {"order": 4}),
    (samplers.deis, {"order": 3, "variable": "t", "lower_order_final": False}),
    (samplers.unipc, {"order": 2, "variant": "bh2", "lower_order_final": False}),
    (samplers.restart_plan, {"rho": 7.0}),
    (samplers.interpolant_sde, {"scale": 1.0}),
    (guidance.proximal, {"noise_std": 0.0, "scale": 1.0}),
    (guidance.manifold_preserving, {"scale": 1.0, "interval": None}),
    (steering.ddrm, {"noise_std": 0.0, "eta": 0.85, "eta_b": 1.0, "smallest": 1e-3}),  # Kawar et al. 2022, section 5
    (steering.daps, {"steps": 1, "data_std": 1.0}),
    (steering.gaussian_draw, {"noise_std": 0.0}),
    (steering.red_diff, {"scale": 0.25}),  # the authors' code, of noise-free measurements
    (samplers.adaptive, {"rtol": 1e-3, "atol": 1e-3, "most": 1000}),
    (samplers.picard, {"tolerance": 1e-3}),
    (samplers.clipped, {"largest": 1.0, "keeps_eps": True}),
    (samplers.consistency, {"sigma_min": 0.0}),
    (samplers.Sampler, {"reads_variance": False, "frames": False}),
    (guidance.attend_and_excite, {"scale": 20.0, "first": 1, "repeats": 1}),  # Chefer et al. 2023, the authors' code
    (attention_losses.excited, {"first": 1}),
    (guidance.layout, {"scale": 30.0, "repeats": 1}),  # Chen et al. 2023, section 4
    (measurement_guidance.quantile_likelihood, {"level": 0.5}),
    (measurements.at_random, {"seed": 0}),
    (guidance.renormalised, {"patch": 1}),
    (strength.power_cosine, {"power": 4.0}),  # Gao et al. 2023, the authors' code
    (guidance.classifier, {"scale": 1.0}),
    (guidance.posterior_sampling, {"scale": 1.0}),
    (guidance.pseudoinverse, {"noise_std": 0.0, "data_std": 1.0, "scale": 1.0}),
    (guidance.adaptive_projected, {"eta": 0.0, "momentum": -0.5}),
    (guidance.rescaled, {"rescale": 0.7}),
    (guidance.dynamic_threshold, {"percentile": 0.995, "maximum": math.inf}),
    (bootstrap.percentile_interval, {"level": 0.95}),
    (bootstrap.wilson_interval, {"z": 1.959964}),
    (clip_score.clip_score, {"weight": 100.0}),
    (inception_score.inception_score, {"splits": 10}),
    (kernel_distance.mmd2, {"unbiased": True}),
    (kernel_distance.kid, {"subsets": 100, "size": 1000}),
    (manifold.overlap, {"manifold_k": 3, "density_k": 5}),
    (memorisation.copied_by_ratio, {"ratio": 1 / 3}),
    (memorisation.copied_by_similarity, {"threshold": 0.5}),
    (memorisation.data_copying, {"least": 20}),
    (codebooks.following, {"decay": 0.99, "threshold": 1.0}),
    (ema.exponential_moving_average, {"decay": 0.9999, "warmup": True}),
    (optimizers.adamw, {"learning_rate": 1e-4, "warmup": 0, "weight_decay": 0.0, "b1": 0.9, "b2": 0.999}),
    (optimizers.muon, {"learning_rate": 1e-3, "weight_decay": 0.0, "momentum": 0.95, "b1": 0.9, "b2": 0.999}),
    (parameterizations.edm, {"sigma_data": 0.5}),
    (weightings.min_snr, {"gamma": 5.0}),
    (weightings.soft_min_snr, {"gamma": 4.0}),
    (weightings.p2, {"k": 1.0, "gamma": 1.0}),
    (weightings.sigmoid, {"bias": 2.0}),
    (weightings.edm, {"sigma_data": 0.5}),
    (couplings.optimal_transport, {"block": 64}),
    (couplings.equivariant_optimal_transport, {"block": 16, "permutation": True, "rotation": True}),
    (couplings.sinkhorn, SINKHORN),
    (couplings.schroedinger_bridge, SINKHORN),
    (couplings.entropic_plan, {"tolerance": 0.001, "iterations": 1000}),
    (couplings.Coupling, {"block": 1, "independent": False}),
    (couplings.conditional_optimal_transport, {"block": 64}),
    (likelihood.rademacher, {"count": 1}),
    (likelihood.normal, {"count": 1}),
    (flow_maps.consistency_boundary, {"sigma_data": 0.5, "sigma_min": 0.002}),
    (flow_maps.latent_consistency, {"sigma_data": 0.5, "scaling": 10.0, "T": 1000}),
    (editing.repaint, {"jump": 10, "resamplings": 10}),
]


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected
