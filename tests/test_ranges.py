"""The ends of the ranges of arguments: what stands at a valid end is taken, and what is beyond is refused by name."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import (
    couplings,
    editing,
    flow_maps,
    guidance,
    likelihood,
    objectives,
    ode,
    parameterizations,
    samplers,
    schedules,
    timesteps,
    videos,
    weightings,
)
from diffusion.guidance import measurement_guidance, measurements, strength
from diffusion.metrics import (
    attribute_reader,
    attribution,
    bootstrap,
    bradley_terry,
    caption_retrieval,
    clip_score,
    clip_sets,
    crps,
    detection,
    features,
    frechet,
    inception_score,
    kernel_distance,
    manifold,
    membership,
    memorisation,
    mind,
    pairwise,
    permutation,
    point_clouds,
    reconstruction_error,
    representation_ratio,
    vector_distances,
)
from diffusion.metrics.prompt_following import geneval
from diffusion.objectives import (
    classification,
    consistency_times,
    equivariance,
    feature_losses,
    few_step,
    interpolants,
    projectors,
    representation_autoencoder,
)
from diffusion.parameterizations import Prediction
from diffusion.sampling import steering
from diffusion.sampling.watermarks import degradations
from diffusion.training import ema, optimizers, power_ema
from diffusion.training.step import make_train_step
from tests.training import toys

FLOW = schedules.rectified_flow()
SHORT = FLOW._replace(t_max=0.5)
LATE = FLOW._replace(t_min=0.25)
X0 = parameterizations.x0()
V = parameterizations.velocity()
UNIFORM = timesteps.uniform_density(FLOW)
GRID = np.array([1.0, 0.8, 0.5, 0.2, 0.0])
BRANCHES = lambda x, t: (Prediction(x, x), Prediction(x, x))
DENOISE = lambda x, t: Prediction(x, x)
KEYS = jax.random.split(jax.random.key(0), 2)
ROWS = np.random.default_rng(0).standard_normal((6, 2))
shortcut = lambda **more: objectives.shortcut(**more)
latent_consistency = lambda **more: objectives.latent_consistency_distillation(V, V, 0, **more)
progressive = lambda **more: objectives.progressive_distillation(X0, X0, **{"N": 4, **more})
momentum = lambda value: guidance.adaptive_projected(BRANCHES, FLOW, 2.0, momentum=value)
norm_threshold = lambda value: guidance.adaptive_projected(BRANCHES, FLOW, 2.0, norm_threshold=value)
pseudoinverse = lambda **more: guidance.pseudoinverse(DENOISE, FLOW, measurements.pooled(2), jnp.ones((1, 2)), **more)
restart = lambda *values: samplers.restart_plan(schedules.edm(), np.array([1.0, 0.02, 0.0]), [(1, 1, *values)])

adapt = lambda **more: samplers.adaptive(DENOISE, LATE, jnp.ones((1, 2)), **more)
picard = lambda **more: samplers.picard(
    samplers.ddim(), DENOISE, FLOW, jnp.ones((2, 1)), timesteps.plan(GRID[:3]), KEYS, **more
)
PAIR = (jnp.ones((2, 1)), jnp.ones((2, 1)))
region = lambda one: guidance.regional(BRANCHES, 2.0, [one])
self_alignment = lambda **more: feature_losses.self_alignment(V, **more)
masked = lambda **more: objectives.masked_denoising(V, weightings.min_snr(), UNIFORM, **more)
preserved = lambda **more: objectives.with_prior_preservation(objectives.flow_matching(UNIFORM), **more)

# (function of a value, values that it takes, values that it refuses, words of the error)
RANGES = {
    "cosine": (schedules.cosine, [1e-6], [0.0, -1.0], "s = "),
    "sigmoid tau": (lambda tau: schedules.sigmoid(0, 0.5, tau), [1.0, 0.5 / 80], [0.0, 0.5 / 80.1], "tau = "),
    "sigmoid range": (lambda end: schedules.sigmoid(0.0, end), [1.0, 80.0], [0.0, 80.1], "end = "),
    "shifted": (lambda factor: schedules.shifted(FLOW, factor), [1e-3, 1e3], [0.0, math.inf], "factor = "),
    "ending_at": (lambda t_max: schedules.ending_at(LATE, t_max), [0.26, 1.0], [0.25, 1.1, math.nan], "t_max = "),
    "scaled_linear": (lambda beta: schedules.scaled_linear(beta, 0.01, 4), [1e-4], [0.0], "beta_start = 0"),
    "scaled_linear end": (lambda beta: schedules.scaled_linear(0.01, beta, 4), [1e-4], [0.0], "beta_end = 0"),
    "from_betas": (lambda beta: schedules.from_betas(np.array([beta])), [1e-4, 0.9], [0.0, 1.0], "betas"),
    "discrete T": (lambda T: schedules.scaled_linear(T=T), [1], [0], "T = 0"),
    "from_log_snr": (lambda n: schedules.from_log_snr(np.arange(n)[::-1]), [2], [1], "log_snr"),
    "from_log_snr values": (lambda end: schedules.from_log_snr(np.array([1.0, end])), [0.9], [1.0], "decreasing"),
    "from_log_snr times": (
        lambda middle: schedules.from_log_snr(np.array([3.0, 2.0, 1.0]), np.array([0.0, middle, 1.0])),
        [0.1, 0.9],
        [0.0, 1.0],
        "times",
    ),
    "init_learned": (
        lambda low: schedules.init_learned(jax.random.key(0), 1.0, low, features=2),
        [0.9],
        [1.0],
        "log_snr_min",
    ),
    "edm sigma_min": (lambda sigma: schedules.variance_exploding(sigma, 80.0), [1e-3], [0.0, 80.0], "sigma_min"),
    "edm sigma_max": (lambda sigma: schedules.variance_exploding(1.0, sigma), [1.1], [1.0, math.inf], "sigma_max"),
    "linear beta": (lambda beta: schedules.variance_preserving(0.1, beta), [0.1, 20.0], [0.09, math.inf], "beta_max"),
    "linear beta_min": (lambda beta: schedules.variance_preserving(beta, 20.0), [0.1], [0.0], "beta_min"),
    # times
    "strata": (lambda strata: timesteps.uniform_density(FLOW, strata), [1], [0], "strata = 0"),
    "discrete_density": (lambda T: timesteps.discrete_density(FLOW, T), [1], [0], "T = 0"),
    "discrete_density t_min": (lambda T: timesteps.discrete_density(LATE, T), [4], [5], "times 1 / T"),
    "discrete_density t_max": (
        lambda t_max: timesteps.discrete_density(FLOW._replace(t_max=t_max), 4),
        [1.0, 2.0],
        [0.99],
        "times 1 / T",
    ),
    "mode": (lambda scale: timesteps.mode(FLOW, scale), [-1.0, 2 / (math.pi - 2)], [-1.01, 1.76], "scale = "),
    "per_frame": (lambda frames: timesteps.per_frame(UNIFORM, frames), [1], [0], "frames = 0"),
    "trailing": (lambda steps: timesteps.trailing(FLOW, steps, 4), [1, 4], [0, 5], "steps = "),
    "discrete grid t_max": (
        lambda t_max: timesteps.trailing(FLOW._replace(t_max=t_max), 2, 4),
        [1.0],
        [0.99],
        "t_max = 0.99",
    ),
    "offset": (lambda offset: timesteps.leading(FLOW, 2, 4, offset), [0, 1], [2], "lower the offset"),
    "staggered": (lambda frames: timesteps.staggered(GRID, frames, 1), [1], [0], "frames"),
    "staggered delay": (lambda delay: timesteps.staggered(GRID, 2, delay), [0], [-1], "delay"),
    "staggered chunk": (lambda chunk: timesteps.staggered(GRID, 4, 1, chunk), [1, 2, 4], [0, -1, 3, 8], "chunk = "),
    "uniform last": (lambda last: timesteps.uniform(FLOW, 2, last), [0.5], [0.0, 1.0], "last = "),
    "sigmoid grid": (lambda end: timesteps.sigmoid(FLOW, 2, 0.0, end), [0.1], [0.0], "end = 0"),
    "steps": (lambda steps: timesteps.uniform(FLOW, steps), [1], [0, 1.5], "steps = "),
    "rho": (lambda rho: timesteps.karras(FLOW, 2, 0.1, 1.0, rho), [0.5], [0.0], "rho = 0"),
    "karras sigma_min": (lambda sigma: timesteps.karras(FLOW, 2, sigma, 1.0), [0.1], [0.0, 1.0], "sigma_min"),
    "karras sigma_max": (
        lambda sigma: timesteps.karras(schedules.edm(), 2, 0.1, sigma),
        [80.0],
        [0.1, 80.1],
        "sigma_max",
    ),
    "importance bins": (lambda bins: timesteps.loss_second_moment(FLOW, bins), [1], [0], "bins = 0"),
    "importance history": (
        lambda history: timesteps.loss_second_moment(FLOW, history=history),
        [1],
        [0],
        "history = 0",
    ),
    "importance share": (
        lambda share: timesteps.loss_second_moment(FLOW, uniform_prob=share),
        [1e-3, 1.0],
        [0.0, 1.01],
        "uniform_prob",
    ),
    "importance t_min": (lambda bins: timesteps.loss_second_moment(LATE, bins, discrete=True), [4], [5], "leave the"),
    "importance t_max": (
        lambda t_max: timesteps.loss_second_moment(FLOW._replace(t_max=t_max), 4, discrete=True),
        [1.0],
        [0.99],
        "leave the",
    ),
    "plan": (lambda size: timesteps.plan(GRID[:size]), [2], [1], "at least two times"),
    "plan times": (lambda end: timesteps.plan([1.0, end]), [0.0], [-1e-9, math.nan], "not negative"),
    "optimal steps": (
        lambda steps: timesteps.optimal(DENOISE, FLOW, GRID[:3], jnp.arange(12.0).reshape(3, 2, 2), steps),
        [1, 2],
        [0, 3],
        "steps = ",
    ),
    "karras_levels": (
        lambda n: timesteps.karras_levels(schedules.edm(), n, levels=4),
        [1, 4],
        [5],
        "the number of levels, 4",
    ),
    "number of karras_levels": (
        lambda n: timesteps.karras_levels(schedules.edm(), 2, levels=n),
        [10**6],
        [10**6 + 1],
        "levels = 1000001",
    ),
    "align_your_steps": (
        lambda sigma: timesteps.align_your_steps(schedules.variance_exploding(0.01, sigma), 10, "stable_diffusion_1.5"),
        [14.6147, 80.0],
        [14.6],
        "sigma_max <= 14.6",
    ),
    "chosen levels": (
        lambda last: timesteps.karras_levels(schedules.edm(), 2, levels=4, chosen=(0, last)),
        [1, 3],
        [0, 4],
        "chosen = ",
    ),
    "shares of frames": (
        lambda share: timesteps.given_frames(FLOW, UNIFORM, ("1.", ".."), (share, 1.0)),
        [0.0, 2.0],
        [-1e-9],
        "shares = ",
    ),
    "flow's noise": (schedules.rectified_flow, [1e-3, 10.0], [0.0, math.inf], "noise_scale"),
    "interpolated": (
        lambda last: schedules.interpolated(schedules.cosine(), 0.5, last),
        [0.5, 2.0],
        [0.49, math.inf],
        "last = ",
    ),
    "interpolated first": (lambda first: schedules.interpolated(schedules.cosine(), first, 1.0), [1.0], [0.0], "first"),
    # guidance
    "together": (
        lambda count: guidance.together(lambda x, t, c: x, FLOW, V, (jnp.zeros(1),) * count),
        [2],
        [1],
        "two conditions",
    ),
    "channels": (lambda count: guidance.classifier_free(BRANCHES, 2.0, channels=count), [1], [0, 1.5], "channels = "),
    "noise_std": (lambda std: guidance.gaussian_likelihood(lambda x: x, KEYS, std), [1e-3], [0.0], "noise_std = 0"),
    "pseudoinverse noise": (lambda std: pseudoinverse(noise_std=std), [0.0], [-1e-9], "noise_std"),
    "pseudoinverse data": (lambda std: pseudoinverse(data_std=std), [1e-3], [0.0], "data_std"),
    "pooled": (measurements.pooled, [1], [0], "factor = 0"),
    "windows": (lambda stride: guidance.windows(DENOISE, (4,), (stride,)), [1, 4], [0, 5], "stride"),
    "norm_threshold": (norm_threshold, [1e-3], [0.0], "norm_threshold = 0"),
    "momentum": (momentum, [-0.99, 0.99], [-1.0, 1.0], "momentum = "),
    "rescaled": (lambda share: guidance.rescaled(BRANCHES, FLOW, 2.0, share), [0.0, 1.0], [-0.1, 1.1], "rescale = "),
    "interval": (lambda end: guidance.classifier_free(BRANCHES, 2.0, (0.5, end)), [0.5], [0.4], "interval"),
    "percentile": (lambda p: guidance.dynamic_threshold(DENOISE, FLOW, p), [0.1, 1.0], [0.0, 1.1], "percentile"),
    "maximum": (lambda m: guidance.dynamic_threshold(DENOISE, FLOW, 0.9, m), [1.0], [0.9], "maximum"),
    "attention's repeats": (
        lambda n: guidance.attend_and_excite(DENOISE, None, jnp.ones((2, 1, 1)), repeats=n),
        [1],
        [0, 1.5],
        "repeats = ",
    ),
    "renormalised": (lambda n: guidance.renormalised(BRANCHES, FLOW, 2.0, n), [1], [0, 2.0], "patch = "),
    "zero_above": (lambda t: guidance.zero_star(BRANCHES, FLOW, 2.0, t), [0, None], [-0.1, math.nan], "zero_above = "),
    "power_cosine": (strength.power_cosine, [1e-3], [0.0], "power = 0"),
    "quantile level": (
        lambda level: measurement_guidance.quantile_likelihood(lambda x: x, jnp.ones(2), level),
        [1e-3, 0.999],
        [0.0, 1.0],
        "level = ",
    ),
    "random share": (lambda share: measurements.at_random((2, 2, 1), share), [0.1, 1.0], [0.0, 1e-9, 1.01], "share = "),
    "blur": (measurements.blurred, [1e-3], [0.0, math.inf], "std = "),
    "matrix": (lambda a: measurements.matrix(np.full((1, 2), a)), [1, 0.5], [math.nan, 1j], "must hold finite real"),
    "box corner": (lambda row: measurements.box((4, 4, 1), (row, 1), (2, 2)), [0, 2], [-1, 3], "corner = "),
    "box size": (lambda rows: measurements.box((4, 4, 1), (1, 1), (rows, 2)), [1, 3], [0, 4], "size = "),
    "region": (lambda right: region((0.5, 0.0, right, 1.0)), [0.51, 1.0], [0.5, 1.01], "the box"),
    "region's top": (lambda top: region((0.0, top, 1.0, 0.5)), [0.0, 0.49], [-0.01, 0.5], "the box"),
    "region's bottom": (lambda bottom: region((0.0, 0.5, 1.0, bottom)), [1.0], [1.01], "the box"),
    "region's left": (lambda left: region((left, 0.0, 1.0, 1.0)), [0.0], [-0.01], "the box"),
    "region's weights": (lambda w: region(np.full((2, 2), w)), [0.0, 1.0], [-0.01, 1.01], r": 0 \.\. 1"),
    # samplers
    "dpmpp_sde r": (lambda r: samplers.dpmpp_sde(r=r), [0.1, 1.0], [0.0, 1.1], "r = "),
    "eta of the reverse equation": (samplers.dpmpp_2m_sde, [0.0, 2.0], [-0.1], "eta = "),
    "eta of ddim": (samplers.ddim, [0.0, 1.0], [-0.1, 1.1], "eta = "),
    "churn": (samplers.edm, [0.0], [-0.1], "s_churn"),
    "churn range": (lambda end: samplers.edm(1.0, 0.5, end), [0.5], [0.4], "edm:"),
    "tcd": (samplers.tcd, [0.0, 1.0], [-0.1, 1.1], "gamma = "),
    "ddim_inversion": (samplers.ddim_inversion, [1], [0], "iterations = 0"),
    "ddim_inversion clip": (lambda clip: samplers.ddim_inversion(clip=clip), [1e-3], [0.0], "clip = 0"),
    "snr": (lambda snr: samplers.predictor_corrector(snr=snr), [1e-3], [0.0], "snr = 0"),
    "corrections": (lambda count: samplers.predictor_corrector(corrections=count), [1], [0], "corrections = 0"),
    "interpolant_sde": (lambda scale: samplers.interpolant_sde(scale=scale), [0.0], [-0.1], "scale = "),
    "lms order": (samplers.lms, [1, 4], [0, 5], "order"),
    "deis order": (samplers.deis, [1, 4], [0, 5], "order"),
    "deis variable": (lambda name: samplers.deis(variable=name), ["t", "log-SNR"], ["x"], "unknown variable 'x'"),
    "unipc order": (samplers.unipc, [1, 3], [0, 4], "order"),
    "dpmpp_2s": (samplers.dpmpp_2s, ["log-SNR", "grid"], ["t"], "unknown middle 't'"),
    "dpmpp_2s last": (lambda middle: samplers.dpmpp_2s(middle, True), ["grid"], ["log-SNR"], "needs middle='grid'"),
    "restart sigma_max": (lambda sigma: restart(1.0, sigma), [80.0], [1.0, 80.1], "sigma_max"),
    "restart sigma_min": (lambda sigma: restart(sigma, 2.0), [0.1], [0.0], "sigma_min"),
    "spacing of a restart": (
        lambda rho: samplers.restart_plan(schedules.edm(), GRID, [(1, 1, 0.5, 20.0)], rho),
        [0.5],
        [0.0, 0.001, -7.0],
        "rho = ",
    ),
    "restart grid": (
        lambda size: samplers.restart_plan(schedules.edm(), GRID[-size:], [(1, 1, 0.5, 20.0)]),
        [3],
        [2],
        "no time between",
    ),
    "restart steps": (
        lambda n: samplers.restart_plan(schedules.edm(), GRID, [(n, 1, 1.0, 20.0)]),
        [1],
        [0],
        "one step and one",
    ),
    "restart repeats": (
        lambda n: samplers.restart_plan(schedules.edm(), GRID, [(1, n, 1.0, 20.0)]),
        [1],
        [0],
        "one step and one",
    ),
    "clipped": (lambda largest: samplers.clipped(samplers.ddim(), largest), [1e-3], [0.0], "largest = 0"),
    "consistency": (samplers.consistency, [0.0], [-1e-9], "sigma_min = "),
    "edict": (
        lambda mix: samplers.edict(DENOISE, LATE, PAIR, timesteps.plan(GRID[1:4]), mix),
        [1e-3, 1.0],
        [0.0, 1.01],
        "mix = ",
    ),
    "bdia": (lambda gamma: samplers.bdia(DENOISE, FLOW, PAIR, GRID[:3], gamma), [1e-3, 1.0], [0.0, 1.01], "gamma = "),
    "adaptive's attempts": (lambda n: adapt(most=n), [1], [0], "most"),
    "adaptive's tolerance": (lambda rtol: adapt(rtol=rtol), [1e-3], [0.0], "rtol"),
    "adaptive's end": (lambda t: adapt(t_end=t), [0.25, 0.5], [0.24, 1.01], "t_end"),
    "picard's window": (lambda n: picard(window=n), [1, 2], [0, 3], "window = "),
    "picard's tolerance": (lambda tolerance: picard(tolerance=tolerance), [0.0], [-1e-9], "tolerance = "),
    # objectives
    "discriminator": (lambda r1: objectives.adversarial_discriminator(V, UNIFORM, r1), [0.0], [-1e-9], "r1 = "),
    "condition dropout": (
        lambda rate: objectives.with_condition_dropout(objectives.flow_matching(UNIFORM), None, rate),
        [0.0, 0.9],
        [-0.1, 1.0],
        "rate = ",
    ),
    "cd": (lambda N: objectives.cd(schedules.edm(), X0, X0, N), [2], [1], "N = 1"),
    "shrinking stage": (consistency_times.shrinking, [1], [0], "stage = 0"),
    "shrinking q": (lambda q: consistency_times.shrinking(1, q), [1.1], [1.0], "q = 1"),
    "warmup": (lambda warmup: objectives.continuous_consistency(UNIFORM, warmup=warmup), [0], [-1], "warmup = -1"),
    "tangent c": (lambda c: objectives.continuous_consistency(UNIFORM, c=c), [0.0], [-1e-9], "c = "),
    "contrast": (
        lambda weight: objectives.contrastive_flow_matching(UNIFORM, weight),
        [0.0, 0.9],
        [-0.1, 1.0],
        "weight = ",
    ),
    "contrast block": (lambda block: objectives.contrastive_flow_matching(UNIFORM, block=block), [2], [1], "block = 1"),
    "dispersive": (lambda block: objectives.dispersive(1, block), [2], [1], "block = 1"),
    "dispersive layer": (lambda layer: objectives.dispersive(layer, 2), [1], [0], "layer = 0"),
    "temperature": (lambda tau: objectives.dispersive(1, 2, tau), [0.1], [0.0], "temperature = 0"),
    "pseudo_huber": (few_step.pseudo_huber, [0.0, None], [-1e-9], "c = "),
    "brownian_bridge": (interpolants.brownian_bridge, [0.1], [0.0], "sigma = 0"),
    "strengths": (lambda high: latent_consistency(guidance=(2.0, high)), [2.0], [1.9], "guidance = "),
    "boundary": (
        lambda scaling: flow_maps.latent_consistency(V, scaling=scaling),
        [1e-3],
        [0.0, -10.0, math.nan],
        "scaling = ",
    ),
    "layout": (
        lambda left: guidance.layout(None, FLOW, None, jnp.zeros((1, 1, 1), int), ((left, 0.0, 1.0, 1.0),)),
        [0.0, 0.5],
        [-0.1, 1.0, math.nan],
        "layout: the box",
    ),
    "latent consistency c": (lambda c: latent_consistency(c=c), [1e-6], [0.0, -0.001, math.nan], "c = "),
    "solver_steps": (lambda n: latent_consistency(solver_steps=n, T=5), [1, 5], [0, 6], "solver_steps = "),
    "mean flow share": (lambda share: objectives.mean_flow(UNIFORM, equal=share), [0.0, 1.0], [-0.1, 1.1], "equal = "),
    "mean flow power": (lambda p: objectives.mean_flow(UNIFORM, p=p), [0.0], [-0.1], "p = "),
    "progressive": (lambda N: progressive(N=N), [1, 3], [0], "N = 0"),
    "progressive stage": (lambda stage: progressive(stage=stage), [1], [0], "stage = 0"),
    "progressive halves": (lambda N: progressive(N=N, stage=10), [1, 4], [3], "N = 3"),
    "shortcut": (lambda M: shortcut(M=M), [2, 4], [0, 1, 3], "M = "),
    "shortcut share": (lambda share: shortcut(share=share), [0.0, 1.0], [-0.1, 1.1], "share = "),
    "uncertainty": (objectives.uncertainty, [1], [0], "channels = 0"),
    "number of the classes": (lambda n: classification.noisy_classification(UNIFORM, V, n), [2], [1], "at least 2"),
    "dropped alone": (
        lambda rate: objectives.with_condition_dropout(objectives.flow_matching(UNIFORM), None, rate, ("a", "b")),
        [1 / 3],
        [0.34],
        "rate = ",
    ),
    "decoder's noise": (lambda tau: representation_autoencoder.rae_decoder(tau=tau), [0.0], [-1e-9], "tau"),
    "direction": (lambda weight: objectives.flow_matching(UNIFORM, direction=weight), [0.0], [-1e-9], "direction"),
    "early layer": (lambda layer: objectives.early_prediction(V, layer), [1], [0], "layer = 0"),
    "equivariance": (
        lambda share: equivariance.Equivariance(probability=share).check(),
        [0.0, 1.0],
        [-0.1, 1.1],
        "probability",
    ),
    "low resolution": (
        lambda share: equivariance.Equivariance(low_resolution=share).check(),
        [0.0, 1.0],
        [-0.1, 1.1],
        "resolution",
    ),
    "equivariance scales": (
        lambda scale: equivariance.Equivariance(scales=(0.5, scale)).check(),
        [0.1, 1.0],
        [0.0, 1.1],
        "scales",
    ),
    "alignment": (lambda layer: feature_losses.alignment(layer), [1], [0], "layer = 0"),
    "decoder levels": (objectives.decoders.levels, [2, 256], [1, 0], "count = "),
    "structure": (lambda value: feature_losses.structured_alignment(value, 0.0), [0.0], [-1e-9], "structure = "),
    "structured critic": (
        lambda value: feature_losses.structured_alignment(0.0, value),
        [0.0],
        [-1e-9],
        "adversarial = ",
    ),
    "structured layer": (lambda layer: feature_losses.structured_alignment(0.0, 0.0, layer), [1], [0], "layer = 0"),
    "self interval": (lambda value: self_alignment(interval=value), [1e-3], [0.0], "interval = 0"),
    "self beta": (lambda value: self_alignment(beta=value), [1e-3], [0.0], "beta = 0"),
    "self layer": (lambda layer: self_alignment(teacher_layer=layer), [1], [0], "layer = 0"),
    "self decay": (lambda start: self_alignment(decay=(start, 1)), [0], [-1], "decay = "),
    "self decay steps": (lambda steps: self_alignment(decay=(0, steps)), [1], [0], "decay = "),
    "masked patch": (lambda patch: masked(patch=patch), [1], [0], "patch = 0"),
    "masked share": (lambda ratio: masked(ratio=ratio), [0.01, 0.99], [0.0, 1.0], "ratio = "),
    "masked reconstruction": (lambda weight: masked(reconstruction=weight), [0.0], [-1e-9], "reconstruction = "),
    "masked copy": (
        lambda most: objectives.with_masked_copy(objectives.flow_matching(UNIFORM), least=0.3, most=most),
        [0.3, 0.99],
        [0.29, 1.0],
        "most = ",
    ),
    "prior preservation": (lambda weight: preserved(weight=weight), [0.0], [-1e-9], "weight"),
    "prior's pictures": (lambda number: preserved(number=number), [1], [0], "number"),
    "projector": (projectors.mlp, [1], [0], "hidden = 0"),
    "convolution": (projectors.convolution, [1, 3], [-1, 0, 2], "side = "),
    "share of pictures": (
        lambda share: objectives.with_pictures(objectives.flow_matching(UNIFORM), share),
        [1e-3, 0.999],
        [0.0, 1.0],
        "share = ",
    ),
    # the files of the top
    "edm parameterization": (parameterizations.edm, [1e-3], [0.0], "sigma_data = 0"),
    "min_snr": (weightings.min_snr, [1e-3], [0.0], "gamma = 0"),
    "soft_min_snr": (weightings.soft_min_snr, [1e-3], [0.0], "gamma = 0"),
    "p2 k": (weightings.p2, [1e-3], [0.0], "k = 0"),
    "p2 gamma": (lambda gamma: weightings.p2(gamma=gamma), [0.0], [-0.1], "gamma = "),
    "edm weighting": (weightings.edm, [1e-3], [0.0], "sigma_data = 0"),
    "sinkhorn": (couplings.sinkhorn, [1e-3], [0.0], "reg = 0"),
    "schroedinger": (couplings.schroedinger_bridge, [1e-3], [0.0], "sigma = 0"),
    "coupling block": (couplings.optimal_transport, [2], [1], "block = 1"),
    "boundary sigma_data": (flow_maps.consistency_boundary, [1e-3], [0.0], "sigma_data = 0"),
    "boundary sigma_min": (
        lambda sigma: flow_maps.consistency_boundary(sigma_min=sigma),
        [0.0],
        [-0.1],
        "sigma_min = ",
    ),
    "runge_kutta": (lambda size: ode.runge_kutta(np.arange(size)), [2], [1], "two increasing times"),
    "runge_kutta times": (lambda end: ode.runge_kutta([0.0, end]), [0.1], [0.0], "increasing"),
    "dormand_prince": (lambda end: ode.dormand_prince(0.0, end), [0.1], [0.0], "after the start"),
    "rtol": (lambda rtol: ode.dormand_prince(0.0, 1.0, rtol=rtol), [1e-9], [0.0], "rtol > 0"),
    "atol": (lambda atol: ode.dormand_prince(0.0, 1.0, atol=atol), [1e-9], [0.0], "atol > 0"),
    "most": (lambda most: ode.dormand_prince(0.0, 1.0, most=most), [1], [0], "most >= 1"),
    "likelihood steps": (lambda steps: likelihood.times(LATE, steps), [1], [0], "steps = 0"),
    "t_start": (lambda t: likelihood.times(LATE, 2, t), [0.25, 0.99], [0.24, 1.0], "t_start = "),
    "ratio of couplings": (
        lambda ratio: couplings.conditional_optimal_transport(ratio, 4),
        [0.26, 1.0],
        [0.25, 1.01],
        "ratio",
    ),
    "conditional block": (lambda block: couplings.conditional_optimal_transport(1.0, block), [2], [1], "block = 1"),
    "jump": (lambda jump: editing.repaint(GRID, jump, 2), [1], [0], "jump = 0"),
    "resamplings": (lambda n: editing.repaint(GRID, 2, n), [1], [0], "resamplings = 0"),
    "sdedit": (
        lambda t: editing.sdedit(samplers.ddim(), DENOISE, SHORT, jnp.ones((2, 1)), np.array([0.5, 0.25]), t, KEYS),
        [0.5],
        [0.25, 0.51],
        "t_0 = ",
    ),
    # training and metrics
    "ema": (ema.exponential_moving_average, [0.0, 0.99], [-0.1, 1.0], "ema.decay"),
    "peak": (lambda peak: optimizers.learning_rate_schedule(peak, 0, "constant", 1), [1e-9], [0.0], "learning_rate"),
    "warmup steps": (lambda n: optimizers.learning_rate_schedule(1.0, n, "constant", 1), [0], [-1], "warmup"),
    "cosine steps": (lambda n: optimizers.learning_rate_schedule(1.0, 0, "cosine", n), [1], [0], "steps"),
    "sigma_rel": (power_ema.gamma, [0.01, power_ema.WIDEST], [0.0, 0.3], "sigma_rel"),
    "weight decay": (lambda decay: optimizers.adamw(weight_decay=decay), [0.0], [-1e-9], "weight_decay"),
    "clip": (lambda clip: optimizers.adamw(clip=clip), [1e-3, None], [0.0], "clip = 0"),
    "b1": (lambda b1: optimizers.adan(b1=b1), [0.0, 0.99], [-0.1, 1.0], "b1 = "),
    "muon": (lambda momentum: optimizers.muon(momentum=momentum), [0.0, 0.99], [-0.1, 1.0], "momentum = "),
    "accumulate": (
        lambda n: make_train_step(toys.objective, toys.apply, FLOW, toys.optimizer(), toys.ema(), accumulate=n),
        [1],
        [0],
        "accumulate = 0",
    ),
    "reconstruction": (
        lambda step: power_ema.reconstruction_weights([1, 4], 0.1, step, 0.1),
        [1, 4],
        [0, 5],
        "step = ",
    ),
    "stored steps": (lambda step: power_ema.reconstruction_weights([step, 4], 0.1, 4, 0.1), [1], [0, 4], "steps"),
    "trak": (lambda damping: attribution.trak(ROWS, ROWS, ROWS[:, None], damping), [0.0], [-1e-9], "damping"),
    "bradley_terry": (lambda prior: bradley_terry.bradley_terry(1 - np.eye(2), prior), [0.0], [-1e-9], "prior"),
    "wins": (lambda wins: bradley_terry.bradley_terry(wins * (1 - np.eye(2)), 1.0), [0], [-1], "wins must be"),
    "deviations": (lambda std: crps.gaussian(0.0, std, 1.0), [0.0], [-1e-9], "std has"),
    "coverage": (lambda level: crps.coverage(ROWS, ROWS[0], level), [1e-3, 0.999], [0.0, 1.0], "level = "),
    "covering samples": (lambda n: crps.coverage(ROWS[:n], ROWS[0], 0.5), [2], [1], "S >= 2"),
    "quantile samples": (lambda n: crps.quantile_form(ROWS[:n], ROWS[0]), [1], [0], "S >= 1"),
    "sizes of targets": (lambda y: crps.quantile_form(ROWS, np.full(2, y)), [1e-3], [0.0], "is relative to the size"),
    "mind": (lambda n: mind.mind(ROWS, ROWS[::-1], n), [2], [1], "at least 2 directions"),
    "manifold": (lambda k: manifold.overlap(ROWS, ROWS[::-1], k, 1), [1, 5], [0, 6], "must be at least 1|at least 7"),
    "copied ratio": (
        lambda ratio: memorisation.copied_by_ratio(ROWS[:2], ROWS[2:], ratio),
        [1e-3, 0.999],
        [0.0, 1.0],
        "ratio",
    ),
    "copied cosine": (
        lambda cosine: memorisation.copied_by_similarity(ROWS[:2], ROWS[2:], cosine),
        [-0.99, 0.99],
        [-1.0, 1.0],
        r"in \(",
    ),
    "least of a cell": (
        lambda n: memorisation.data_copying(ROWS[:2], ROWS[2:4], ROWS[4:], least=n),
        [1, 2],
        [0],
        "least = 0",
    ),
    "neighbours of clouds": (
        lambda n: point_clouds.nearest_neighbour_accuracy(*[1 - np.eye(n)] * 3),
        [2],
        [1],
        "at least 2",
    ),
    "window": (
        lambda side: jax.jit(reconstruction_error.ssim)(*np.zeros((2, 1, side, 16, 3), np.uint8)),
        [11],
        [10],
        "at least 11",
    ),
    "floor": (
        lambda floor: representation_ratio.representation_ratio({"adm": 1.0}, {"adm": floor}),
        [1e-3],
        [0.0],
        "Valid: a positive number",
    ),
    "detected": (lambda n: detection.auroc(np.arange(n), np.arange(2)), [2], [1], "two finite scores"),
    "bootstrap rows": (
        lambda rows: bootstrap.replicates(np.sum, rows, 1, np.random.default_rng(0)),
        [2],
        [1],
        "at least 2 rows",
    ),
    "bootstrap draws": (
        lambda draws: bootstrap.replicates(np.sum, 2, draws, np.random.default_rng(0)),
        [1],
        [0],
        "draws",
    ),
    "level": (lambda level: bootstrap.percentile_interval(ROWS[:, 0], level), [0.1, 0.9], [0.0, 1.0], "level"),
    "successes": (lambda n: bootstrap.wilson_interval(n, 1), [0, 1], [-1, 2], "successes"),
    "trials": (lambda n: bootstrap.wilson_interval(0, n), [1], [0], "trials"),
    "clip_score": (lambda weight: clip_score.clip_score(ROWS, ROWS, weight), [1e-3], [0.0], "weight"),
    "moments": (frechet.init, [1], [0], "dim = 0"),
    "splits": (lambda splits: inception_score.inception_score(ROWS, splits), [1], [0], "splits"),
    "logits": (lambda k: inception_score.inception_score(ROWS[:, :k], 1), [2], [1], "2 classes"),
    "kernel": (kernel_distance.gaussian, [1e-3], [0.0], "sigma = 0"),
    "kid subsets": (lambda n: kernel_distance.kid(ROWS, ROWS[::-1], n, 2), [2], [1], "subsets >= 2"),
    "kid size": (lambda n: kernel_distance.kid(ROWS, ROWS[::-1], 2, n), [2, 6], [1, 7], "subset"),
    "neighbours": (lambda k: pairwise.smallest(ROWS, None, k), [1, 5], [0, 6], "k = "),
    "permutations": (
        lambda n: permutation.p_value(lambda a, b: 0.0, 1, 1, n, np.random.default_rng(0)),
        [1],
        [0],
        "draws",
    ),
}


PICTURES = np.zeros((2, 4, 4, 3), np.uint8)
CAPTIONS = ["a", "b", "c"]
SCORES = np.eye(3)
BASE = lambda x: -jnp.sum(x**2, axis=-1)
NAN = math.nan
loss_scores = lambda t=0.5, draws=1: jax.eval_shape(
    lambda x: membership.loss_scores(DENOISE, FLOW, x, t, KEYS, draws), jnp.ones((2, 1))
)
inverted = lambda steps: membership.inversion_scores(DENOISE, FLOW, jnp.ones((2, 1)), 0.4, KEYS, steps)
ladder = lambda leapfrogs: steering.annealing_ladder(
    BASE, BASE, jnp.ones((4, 1)), jax.random.key(0), 0.1, leapfrogs=leapfrogs
)
clips = lambda **more: clip_sets.from_array(np.zeros((1, 4, 2, 2, 3), np.uint8), **{"frames": 2, **more})
trained_reader = lambda **more: attribute_reader.train(
    np.zeros((1, 8, 8, 3), np.uint8), {"a": np.zeros(1, int)}, **more
)
trained_towers = lambda **more: caption_retrieval.train(np.zeros((1, 8, 8, 3), np.uint8), ["a"], **more)

# (function of a value, values that it takes, values that it refuses, words of the error)
COUNTS_AND_SHARES = {
    "draws of a loss": (lambda n: loss_scores(draws=n), [1], [0, -1, 1.5], "draws = .* at least 1"),
    "time of a loss": (lambda t: loss_scores(t=t), [1e-3, 1.0], [0.0, 1.1, NAN], "t = "),
    "steps of an inversion": (inverted, [], [0, -1], "steps = .* at least 1"),
    "captions among which": (
        lambda n: caption_retrieval.retrieved(SCORES, CAPTIONS, n), [2, 3], [1, 0, -1, 1.5], "among = .* at least 2",
    ),
    "steps of a reader": (lambda n: trained_reader(steps=n), [], [0], "steps = 0 .* at least 1"),
    "pictures of a reader": (lambda n: trained_reader(batch_size=n), [], [0, -1], "batch_size = .* at least 1"),
    "steps of two towers": (lambda n: trained_towers(steps=n), [], [0], "steps = 0 .* at least 1"),
    "pictures of two towers": (lambda n: trained_towers(batch_size=n), [], [0, -1], "batch_size = .* at least 1"),
    "frames of a clip": (lambda n: clips(frames=n), [1, 4], [0, -1], "frames = .* at least 1"),
    "steps between frames": (lambda n: clips(every=n), [1, 3], [0, -1], "every = .* at least 1"),
    "damping": (
        lambda share: attribution.trak(ROWS, ROWS, ROWS[:, None], share), [0.0], [-1e-9, NAN], "damping = ",
    ),
    "quantile of Wilson": (lambda z: bootstrap.wilson_interval(1, 2, z), [1e-3], [0.0, NAN], "z = "),
    "images of a call": (lambda n: features.rows(np.asarray, PICTURES, n), [1, 5], [0, -1], "batch_size = "),
    "images of a call for moments": (
        lambda n: features.moments(lambda x: ROWS[: len(x)], PICTURES, n), [1, 5], [0, -1], "batch_size = ",
    ),
    "margin of boxes": (
        lambda share: geneval.relations((0, 0, 1, 1), (5, 5, 6, 6), share), [0.0, 1.0], [-0.1, NAN], "margin = ",
    ),
    "directions": (lambda n: vector_distances.directions(n, 2), [1], [0, -1], "number = "),
    "dimensions": (lambda n: vector_distances.directions(2, n), [1], [0], "dim = "),
    "rows of samples": (lambda n: vector_distances.sliced_to(ROWS, n), [1], [0], "count = "),
    "positives": (lambda n: detection.hits_at(np.ones(n), np.zeros(2), 0.5), [1], [0], "needs positives"),
    "scores": (lambda x: detection.hits_at([x], [0.0], 0.5), [1.0, math.inf], [NAN], "no score that is NaN"),
    "first step": (
        lambda first: editing.repaint_quarters(timesteps.plan(GRID), first, 1), [0, 3], [-1, 4, 0.5], r"0 \.\. 3",
    ),
    "resamplings of quarters": (
        lambda n: editing.repaint_quarters(timesteps.plan(GRID), 0, n), [1, 2], [0, -1, 1.5], "resamplings = ",
    ),
    "until": (lambda t: editing.prompt_to_prompt(None, None, t), [-1.0, 0.5], [NAN], "until = nan"),
    "time of known frames": (
        lambda t: videos.completing(DENOISE, FLOW, jnp.ones((1, 2)), np.array([True, False]), t),
        [0.0, 1.0], [-0.1, 1.1, NAN], "t = ",
    ),
    "leapfrogs": (ladder, [], [0, -1, 1.5], "leapfrogs = "),
    "quality": (lambda q: degradations.jpeg(PICTURES, q), [1, 95], [0, 96], "quality = "),
    "factor": (lambda x: degradations.resized(PICTURES, x), [0.1, 2.0], [0.0, 17.0, NAN], "factor = "),
    "crop": (lambda x: degradations.cropped(PICTURES, x), [0.5, 1.0], [0.0, 1.1, NAN], "share = "),
    "noise": (lambda x: degradations.noisy(PICTURES, x), [0.0, 0.1], [-0.1, NAN], "deviation = "),
    "width of a blur": (lambda x: degradations.blurred(PICTURES, x), [0.0, 1.0], [-0.1, NAN], "deviation = "),
}  # fmt: skip


def check_ends(call, valid, refused, words):
    for value in valid:
        call(value)
    for value in refused:
        with pytest.raises(ValueError, match=words):
            call(value)


@pytest.mark.parametrize("name", COUNTS_AND_SHARES)
def test_counts_and_shares_of_metrics_and_sampling(name):
    check_ends(*COUNTS_AND_SHARES[name])


def has_nan(valid, refused):
    """Whether all values of a range are floats, so that NaN is a value beyond it."""
    values = [value for value in (*valid, *refused) if value is not None]
    return bool(values) and all(isinstance(value, float) for value in values)


FLOATS = [name for name, (_, valid, refused, _) in RANGES.items() if has_nan(valid, refused)]
BEFORE = ("region's weights", "peak", "deviations", "weight decay", "clip")  # took NaN in earlier versions


@pytest.mark.parametrize(
    "name", [name if name in BEFORE else pytest.param(name, marks=pytest.mark.extended) for name in FLOATS]
)
def test_nan_lies_in_no_range(name):
    with pytest.raises(ValueError):
        RANGES[name][0](NAN)


@pytest.mark.extended
@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_a_range(name):
    check_ends(*RANGES[name])
