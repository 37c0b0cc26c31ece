"""Diffusion of symbols: processes, samplers and bounds on integers 0 .. K - 1, t = 0 data and t = 1 noise."""

from diffusion.discrete.block_by_block import (
    block_bound as block_bound,
    sample_blocks as sample_blocks,
    semi_autoregressive as semi_autoregressive,
)
from diffusion.discrete.bounds import (
    LogLikelihood as LogLikelihood,
    discrete_time_bound as discrete_time_bound,
    masked_bound as masked_bound,
    masked_bound_of as masked_bound_of,
    noised as noised,
    score_entropy_bound as score_entropy_bound,
    token_masked_bound as token_masked_bound,
)
from diffusion.discrete.categorical import draw as draw
from diffusion.discrete.chunked_likelihood import in_chunks as in_chunks
from diffusion.discrete.correcting_steps import corrected as corrected
from diffusion.discrete.duo_objectives import discrete_consistency as discrete_consistency, duo as duo
from diffusion.discrete.flow_paths import (
    between as between,
    flow as flow,
    flow_cross_entropy as flow_cross_entropy,
    flow_rates as flow_rates,
)
from diffusion.discrete.gaussian_duality import (
    diffusion_transformation as diffusion_transformation,
    gaussian_latents as gaussian_latents,
    latent_noise as latent_noise,
    underlying_gaussian as underlying_gaussian,
)
from diffusion.discrete.keeping import (
    Keeping as Keeping,
    cosine as cosine,
    linear as linear,
    polynomial as polynomial,
    power as power,
)
from diffusion.discrete.known_positions import infilling as infilling
from diffusion.discrete.metric_paths import (
    MetricPath as MetricPath,
    embedded_distances as embedded_distances,
    line_distances as line_distances,
    metric_path as metric_path,
)
from diffusion.discrete.metric_steps import metric_flow as metric_flow
from diffusion.discrete.parallel_unmasking import (
    Choice as Choice,
    blockwise as blockwise,
    confident as confident,
    low_entropy as low_entropy,
    mask_time as mask_time,
    surest as surest,
    unmasking as unmasking,
    until_unmasked as until_unmasked,
)
from diffusion.discrete.predictions import (
    Predictor as Predictor,
    Reading as Reading,
    from_context as from_context,
    from_logits as from_logits,
    from_rates as from_rates,
    from_ratios as from_ratios,
    from_scaled_ratios as from_scaled_ratios,
    predictor as predictor,
)
from diffusion.discrete.processes import (
    Process as Process,
    absorbing as absorbing,
    mixture as mixture,
    uniform as uniform,
)
from diffusion.discrete.rate_processes import (
    RateProcess as RateProcess,
    banded_rates as banded_rates,
    gaussian_rates as gaussian_rates,
    rate_process as rate_process,
)
from diffusion.discrete.ratio_matching import (
    marginal_cross_entropy as marginal_cross_entropy,
    ratio_matching as ratio_matching,
)
from diffusion.discrete.remasking_steps import (
    Remasking as Remasking,
    capped as capped,
    remasking as remasking,
    rescaled as rescaled,
)
from diffusion.discrete.sampling_loop import (
    SymbolSampler as SymbolSampler,
    check_steps as check_steps,
    prior as prior,
    sample as sample,
)
from diffusion.discrete.steps import (
    Law as Law,
    ancestral as ancestral,
    euler as euler,
    first_hitting as first_hitting,
    stepped as stepped,
    tau_leaping as tau_leaping,
    theta_trapezoidal as theta_trapezoidal,
)
from diffusion.discrete.symbol_classification import noisy_symbol_classification as noisy_symbol_classification
from diffusion.discrete.symbol_classifier import classifier as classifier, guided_rates as guided_rates
from diffusion.discrete.symbol_guidance import (
    PredictionBranches as PredictionBranches,
    classifier_free as classifier_free,
    separately as separately,
    together as together,
)
from diffusion.discrete.symbol_objectives import (
    block_diffusion as block_diffusion,
    discrete_flow_matching as discrete_flow_matching,
    hybrid_bound as hybrid_bound,
    masked_diffusion as masked_diffusion,
    score_entropy as score_entropy,
)
from diffusion.discrete.token_masks import TokenMasks as TokenMasks, token_masks as token_masks
from diffusion.discrete.trained_masks import TrainedMasks as TrainedMasks, trained_masks as trained_masks
from diffusion.discrete.truncation import nucleus as nucleus, tempered as tempered, top_k as top_k
from diffusion.package import public

public.declare(__name__, known_as={"masked": "absorbing", "mdlm": "masked_diffusion", "sedd": "score_entropy"})
