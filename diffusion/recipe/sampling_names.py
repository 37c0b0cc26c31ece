"""The names that a config can use for sampling: samplers, grids, plans, drivers, guidances, guides, measurements."""

from collections.abc import Callable

from diffusion import discrete, guidance, manifolds, samplers, timesteps
from diffusion.discrete import flow_paths, steps
from diffusion.guidance import measurements
from diffusion.recipe import steering_drivers
from diffusion.recipe.entries import constants, table
from diffusion.sampling import caching, editing

SAMPLERS = table(
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
    samplers.per_frame,
    samplers.clipped,
    manifolds.geodesic_euler,
    manifolds.geodesic_heun,
    manifolds.geodesic_rk4,
    manifolds.geodesic_random_walk,
    manifolds.frame_ancestral,
)
GRIDS = table(
    timesteps.uniform,
    timesteps.polynomial,
    timesteps.beta,
    timesteps.sigmoid,
    timesteps.uniform_log_snr,
    timesteps.exponential,
    timesteps.karras,
    timesteps.karras_levels,
    timesteps.kl_optimal,
    timesteps.leading,
    timesteps.trailing,
    timesteps.linspace,
    timesteps.align_your_steps,
    timesteps.optimal,
    timesteps.dimension_shifted,
)
SYMBOL_SAMPLERS: dict[str, Callable] = {
    **table(
        discrete.ancestral,
        discrete.tau_leaping,
        discrete.theta_trapezoidal,
        discrete.first_hitting,
        discrete.unmasking,
        discrete.remasking,
        discrete.corrected,
        discrete.metric_flow,
        discrete.semi_autoregressive,
    ),
    "symbol_euler": discrete.euler,
    "symbol_flow": discrete.flow,
}
# Orders of "unmasking": which symbols a step reveals.
UNMASKINGS = table(discrete.confident, discrete.low_entropy, discrete.surest, discrete.blockwise)
REMASKINGS = table(discrete.capped, discrete.rescaled)  # schedules of "remasking": the share that is masked again
LAWS: dict[str, Callable] = {  # distributions of a step, for "corrected"
    **constants(ancestral=steps.ancestral_law, euler=steps.euler_law, tau_leaping=steps.tau_leaping_law),
    "flow": flow_paths.flow_law,
}
PLANS = table(timesteps.plan, timesteps.staggered, samplers.restart_plan, editing.repaint)
DRIVERS = table(
    samplers.sample,
    samplers.picard,
    samplers.adaptive,
    steering_drivers.ddrm,
    steering_drivers.daps,
    steering_drivers.red_diff,
    steering_drivers.twisted,
    steering_drivers.das,
    steering_drivers.corrected,
    steering_drivers.mixed,
    steering_drivers.mcgdiff,
    steering_drivers.rejected,
    steering_drivers.searched_noise,
    steering_drivers.searched_paths,
    steering_drivers.optimised_noise,
)
GUIDANCES = table(  # guidances of two branches, condition and null, or of the branches that `with_conditions` names
    guidance.classifier_free,
    guidance.rescaled,
    guidance.renormalised,
    guidance.adaptive_projected,
    guidance.classifier_free_plus_plus,
    guidance.zero_star,
    guidance.composed,
    guidance.product,
    guidance.regional,
    guidance.perturbed_attention,
    guidance.skip_layer,
    guidance.internal,
)
RAMPS = table(guidance.power_cosine)  # t -> the share of the guidance scale that acts
GUIDES: dict[str, Callable] = {  # functions that change the guided denoiser, or the guided predictor of symbols
    **table(
        guidance.autoguidance,
        guidance.classifier,
        guidance.dynamic_threshold,
        guidance.manifold_preserving,
        guidance.multiplied,
        guidance.posterior_sampling,
        guidance.proximal,
        guidance.pseudoinverse,
    ),
    "symbol_classifier": discrete.classifier,
}
CACHES = caching.CACHES  # caches of a network's blocks between steps
LIKELIHOODS = table(  # likelihoods of measured pictures
    guidance.gaussian_likelihood, guidance.negative_distance, guidance.quantile_likelihood
)
MEASUREMENTS = table(measurements.masked, measurements.blurred, measurements.pooled, measurements.matrix)
MASKS = table(measurements.box, measurements.at_random)  # masks of "masked"
