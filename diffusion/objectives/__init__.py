"""Training objectives: pure functions (networks, schedule, keys, batch, step) -> (losses `[B]`, metrics)."""

from diffusion import public
from diffusion.objectives import autoencoding, decoders, image_text, interpolants, projectors, recipes
from diffusion.objectives.adversarial import adversarial_discriminator, adversarial_generator
from diffusion.objectives.augmented import Augmentation, with_augmentation
from diffusion.objectives.backward_simulation import Simulation, backward_simulation, one_step, self_forcing
from diffusion.objectives.concept_direction import concept_direction, concept_slider, erased_concept
from diffusion.objectives.conditioning import drop_condition, with_condition_dropout
from diffusion.objectives.consistency import cd, consistency_distillation, consistency_training, ct, ect, ict
from diffusion.objectives.continuous_consistency import continuous_consistency
from diffusion.objectives.contrastive_flow_matching import contrastive_flow_matching
from diffusion.objectives.denoising import denoising
from diffusion.objectives.distribution_matching import distribution_matching, fake_score, regression
from diffusion.objectives.early_prediction import early_prediction
from diffusion.objectives.end_to_end import end_to_end, end_to_end_critic
from diffusion.objectives.feature_losses import (
    Seen,
    Term,
    added,
    alignment,
    dispersive,
    self_alignment,
    structured_alignment,
)
from diffusion.objectives.flow_matching import flow_matching
from diffusion.objectives.hybrid import hybrid
from diffusion.objectives.latent_consistency import latent_consistency_distillation
from diffusion.objectives.masked import masked_denoising, with_masked_copy
from diffusion.objectives.mean_flow import Guidance, improved_mean_flow, mean_flow
from diffusion.objectives.objective import Denoises, Head, Jumps, Moves, Objective, Second, Stages, Teacher
from diffusion.objectives.padded_examples import with_padding
from diffusion.objectives.pictures_of_clips import with_pictures
from diffusion.objectives.prior_preservation import with_prior_preservation
from diffusion.objectives.progressive import progressive_distillation
from diffusion.objectives.reflow import reflow, reflow_pairs
from diffusion.objectives.shortcut import shortcut
from diffusion.objectives.stochastic_interpolant import schroedinger_bridge, stochastic_interpolant
from diffusion.objectives.trained_schedule import with_trained_schedule
from diffusion.objectives.uncertainty import uncertainty, with_uncertainty
from diffusion.objectives.variational_bound import variational_bound

__all__ = [
    "Augmentation",
    "Denoises",
    "Guidance",
    "Head",
    "Jumps",
    "Moves",
    "Objective",
    "Second",
    "Seen",
    "Simulation",
    "Stages",
    "Teacher",
    "Term",
    "added",
    "adversarial_discriminator",
    "adversarial_generator",
    "alignment",
    "autoencoding",
    "backward_simulation",
    "cd",
    "concept_direction",
    "concept_slider",
    "consistency_distillation",
    "consistency_training",
    "continuous_consistency",
    "contrastive_flow_matching",
    "ct",
    "decoders",
    "denoising",
    "dispersive",
    "distribution_matching",
    "drop_condition",
    "early_prediction",
    "ect",
    "end_to_end",
    "end_to_end_critic",
    "erased_concept",
    "fake_score",
    "flow_matching",
    "hybrid",
    "ict",
    "image_text",
    "improved_mean_flow",
    "interpolants",
    "latent_consistency_distillation",
    "masked_denoising",
    "mean_flow",
    "one_step",
    "progressive_distillation",
    "projectors",
    "recipes",
    "reflow",
    "reflow_pairs",
    "regression",
    "schroedinger_bridge",
    "self_alignment",
    "self_forcing",
    "shortcut",
    "stochastic_interpolant",
    "structured_alignment",
    "uncertainty",
    "variational_bound",
    "with_augmentation",
    "with_condition_dropout",
    "with_masked_copy",
    "with_padding",
    "with_pictures",
    "with_prior_preservation",
    "with_trained_schedule",
    "with_uncertainty",
]

public.declare(__name__)
