"""Training objectives: pure functions (networks, schedule, keys, batch, step) -> (losses `[B]`, metrics)."""

from diffusion.objectives import (
    autoencoding as autoencoding,
    couplings as couplings,
    decoders as decoders,
    f_divergences as f_divergences,
    image_text as image_text,
    interpolants as interpolants,
    projectors as projectors,
    recipes as recipes,
    representation_autoencoder as representation_autoencoder,
    weightings as weightings,
)
from diffusion.objectives.adjoint_matching import adjoint_matching as adjoint_matching
from diffusion.objectives.adjoint_sampling import adjoint_sampling as adjoint_sampling
from diffusion.objectives.adversarial import (
    adversarial_discriminator as adversarial_discriminator,
    adversarial_generator as adversarial_generator,
)
from diffusion.objectives.alpha_flow import alpha_flow as alpha_flow
from diffusion.objectives.augmented import Augmentation as Augmentation, with_augmentation as with_augmentation
from diffusion.objectives.backward_simulation import (
    Simulation as Simulation,
    backward_simulation as backward_simulation,
    noised_chunks as noised_chunks,
    one_step as one_step,
    self_forcing as self_forcing,
)
from diffusion.objectives.concept_direction import (
    concept_direction as concept_direction,
    concept_slider as concept_slider,
    erased_concept as erased_concept,
)
from diffusion.objectives.conditioning import (
    drop_condition as drop_condition,
    with_condition_dropout as with_condition_dropout,
    with_padding as with_padding,
)
from diffusion.objectives.consistency import (
    cd as cd,
    consistency_distillation as consistency_distillation,
    consistency_training as consistency_training,
    ct as ct,
    ect as ect,
    ict as ict,
)
from diffusion.objectives.continuous_consistency import continuous_consistency as continuous_consistency
from diffusion.objectives.contrastive_flow_matching import contrastive_flow_matching as contrastive_flow_matching
from diffusion.objectives.denoising import denoising as denoising
from diffusion.objectives.density_gradient import with_density_gradient as with_density_gradient
from diffusion.objectives.diffusion_dpo import diffusion_dpo as diffusion_dpo
from diffusion.objectives.diffusion_nft import diffusion_nft as diffusion_nft
from diffusion.objectives.distribution_matching import (
    distribution_matching as distribution_matching,
    fake_score as fake_score,
    regression as regression,
)
from diffusion.objectives.double_well_particles import dw4 as dw4
from diffusion.objectives.drift import drift as drift, drifting as drifting
from diffusion.objectives.early_prediction import early_prediction as early_prediction
from diffusion.objectives.end_to_end import end_to_end as end_to_end, end_to_end_critic as end_to_end_critic
from diffusion.objectives.feature_losses import (
    Seen as Seen,
    Term as Term,
    added as added,
    alignment as alignment,
    dispersive as dispersive,
    self_alignment as self_alignment,
    structured_alignment as structured_alignment,
)
from diffusion.objectives.flow_matching import flow_matching as flow_matching
from diffusion.objectives.guidance_distillation import guidance_distillation as guidance_distillation
from diffusion.objectives.guidance_inputs import GuidanceInputs as GuidanceInputs
from diffusion.objectives.hybrid import hybrid as hybrid
from diffusion.objectives.latent_consistency import latent_consistency_distillation as latent_consistency_distillation
from diffusion.objectives.log_variance import log_variance as log_variance
from diffusion.objectives.masked import masked_denoising as masked_denoising, with_masked_copy as with_masked_copy
from diffusion.objectives.mean_flow import (
    Guidance as Guidance,
    improved_mean_flow as improved_mean_flow,
    mean_flow as mean_flow,
)
from diffusion.objectives.network_dropout import with_dropout as with_dropout
from diffusion.objectives.objective import (
    Denoises as Denoises,
    Jumps as Jumps,
    Moves as Moves,
    Objective as Objective,
    Restores as Restores,
    Second as Second,
    Stages as Stages,
    Teacher as Teacher,
)
from diffusion.objectives.objective_facts import (
    Beside as Beside,
    Blocks as Blocks,
    Buffer as Buffer,
    Condition as Condition,
    Examples as Examples,
    Head as Head,
    Prior as Prior,
    Trained as Trained,
)
from diffusion.objectives.pictures_of_clips import with_pictures as with_pictures
from diffusion.objectives.policy_gradient import policy_gradient as policy_gradient
from diffusion.objectives.prior_preservation import with_prior_preservation as with_prior_preservation
from diffusion.objectives.progressive import progressive_distillation as progressive_distillation
from diffusion.objectives.progressive_adversarial import (
    progressive_adversarial as progressive_adversarial,
    transition_judge as transition_judge,
)
from diffusion.objectives.reflow import reflow as reflow, reflow_pairs as reflow_pairs
from diffusion.objectives.reward_backpropagation import reward_backpropagation as reward_backpropagation
from diffusion.objectives.reward_weighting import with_reward_weights as with_reward_weights
from diffusion.objectives.rewards import CaptionReward as CaptionReward, Reward as Reward, near_value as near_value
from diffusion.objectives.score_identity import score_identity as score_identity
from diffusion.objectives.score_regularised_consistency import (
    score_regularised_consistency as score_regularised_consistency,
)
from diffusion.objectives.shortcut import shortcut as shortcut
from diffusion.objectives.stochastic_interpolant import (
    schroedinger_bridge as schroedinger_bridge,
    stochastic_interpolant as stochastic_interpolant,
)
from diffusion.objectives.trained_schedule import with_trained_schedule as with_trained_schedule
from diffusion.objectives.trajectory_regression import trajectory_regression as trajectory_regression
from diffusion.objectives.truncated_consistency import truncated_consistency as truncated_consistency
from diffusion.objectives.uncertainty import uncertainty as uncertainty, with_uncertainty as with_uncertainty
from diffusion.objectives.unnormalised_targets import (
    Target as Target,
    funnel as funnel,
    gaussian_mixture as gaussian_mixture,
    many_well as many_well,
)
from diffusion.objectives.variational_bound import variational_bound as variational_bound
from diffusion.package import public

public.declare(__name__)
