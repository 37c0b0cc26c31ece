"""What numbers objectives take: each end of a range, and what lies beyond it, which the message names."""

import importlib
import re

import jax.numpy as jnp
import pytest

from diffusion import couplings, objectives, weightings
from diffusion.objectives import projectors
from tests.objectives.few_step_cases import EDM, UNIFORM, V, near

GRID = (1.0, 0.5, 0.0)
REWARD, RATE = objectives.near_value(0.3), weightings.constant(V)
TIMES = objectives.consistency_times
PLAIN = objectives.flow_matching(UNIFORM)
LEAST, NAN = 1e-9, float("nan")
part = lambda module, name: getattr(importlib.import_module(f"diffusion.objectives.{module}"), name)
buffer = part("replay_buffer", "replay_buffer")
adjoint_sampling = lambda **more: objectives.adjoint_sampling(V, RATE, UNIFORM, GRID, objectives.funnel(), **more)
ROW = {"x": jnp.zeros(2)}

RANGES = {  # name: (the call with a number, numbers at the ends of the range, numbers beyond)
    "adjoint_matching beta": (lambda v: objectives.adjoint_matching(V, V, RATE, GRID, REWARD, v), [LEAST], [0.0, NAN]),
    "adversarial r1": (lambda v: objectives.adversarial_discriminator(V, UNIFORM, v), [0.0], [-LEAST, NAN]),
    "alpha_flow total": (lambda v: objectives.alpha_flow(UNIFORM, v), [1], [0]),
    "alpha_flow start": (lambda v: objectives.alpha_flow(UNIFORM, 5, start=v, end=0.5), [0.0, 0.4], [-LEAST, 0.5, NAN]),
    "alpha_flow end": (lambda v: objectives.alpha_flow(UNIFORM, 5, end=v), [1.0, LEAST], [1.001, 0.0]),
    "alpha_flow gamma": (lambda v: objectives.alpha_flow(UNIFORM, 5, gamma=v), [LEAST], [0.0, NAN]),
    "alpha_flow clamp": (lambda v: objectives.alpha_flow(UNIFORM, 5, clamp=v), [0.0, 0.499], [0.5, -LEAST]),
    "cd N": (lambda v: objectives.cd(EDM, V, V, v), [2], [1]),
    "constant_curriculum": (TIMES.constant_curriculum, [2], [1]),
    "square_root_curriculum total": (lambda v: TIMES.square_root_curriculum(v), [1], [0]),
    "doubling_curriculum first": (lambda v: TIMES.doubling_curriculum(8, v, 4), [1, 4], [0, 5]),
    "shrinking stage": (lambda v: TIMES.shrinking(v, 2.0), [1], [0]),
    "shrinking q": (lambda v: TIMES.shrinking(3, v), [1 + LEAST], [1.0, NAN]),
    "continuous_consistency warmup": (lambda v: objectives.continuous_consistency(UNIFORM, warmup=v), [0], [-1]),
    "continuous_consistency c": (lambda v: objectives.continuous_consistency(UNIFORM, c=v), [0.0], [-LEAST, NAN]),
    "contrastive weight": (lambda v: objectives.contrastive_flow_matching(UNIFORM, v), [0.0, 0.999], [1.0, -LEAST]),
    "contrastive block": (lambda v: objectives.contrastive_flow_matching(UNIFORM, block=v), [2], [1]),
    "conditional transport": (lambda v: couplings.conditional_optimal_transport(v, 4), [0.251, 1.0], [0.25, 1.001]),
    "sinkhorn reg": (lambda v: couplings.sinkhorn(v), [LEAST], [0.0, NAN]),
    "schroedinger_bridge sigma": (lambda v: couplings.schroedinger_bridge(v), [LEAST], [0.0, NAN]),
    "optimal_transport block": (lambda v: couplings.optimal_transport(v), [2], [1]),
    "levels": (lambda v: objectives.decoders.levels(v), [2], [1]),
    "density_gradient": (
        lambda v: objectives.with_density_gradient(lambda *a: None, lambda x: x, limit=v),
        [LEAST],
        [0.0, NAN],
    ),
    "diffusion_dpo beta": (lambda v: objectives.diffusion_dpo(V, V, RATE, UNIFORM, beta=v), [LEAST], [0.0, NAN]),
    "diffusion_nft divergence": (
        lambda v: objectives.diffusion_nft(V, RATE, UNIFORM, GRID, REWARD, 2, V, divergence=v),
        [0.0, 1.0],
        [-LEAST, NAN],
    ),
    "diffusion_nft beta": (
        lambda v: objectives.diffusion_nft(V, RATE, UNIFORM, GRID, REWARD, 2, beta=v),
        [LEAST],
        [0.0, NAN],
    ),
    "diffusion_nft limit": (
        lambda v: objectives.diffusion_nft(V, RATE, UNIFORM, GRID, REWARD, 2, limit=v),
        [LEAST],
        [0.0, NAN],
    ),
    "discriminator's weight": (
        lambda v: objectives.distribution_matching(V, V, V, UNIFORM, block=2, adversarial=v),
        [LEAST],
        [-LEAST, NAN],
    ),
    "discriminator's block": (
        lambda v: objectives.distribution_matching(V, V, V, UNIFORM, block=v, adversarial=0.1),
        [1],
        [0],
    ),
    "ratios": (
        lambda v: objectives.distribution_matching(V, V, V, UNIFORM, ratios=v),
        [(LEAST, 1.0), (1.0, 1.0), (1.0, 20.0)],
        [(0.0, 1.0), (1.001, 2.0), (0.5, 0.999)],
    ),
    "drifting block": (lambda v: objectives.drifting(V, 1.0, v), [2], [1]),
    "drifting temperature": (lambda v: objectives.drifting(V, v, 2), [LEAST], [0.0, NAN]),
    "early_prediction layer": (lambda v: objectives.early_prediction(V, v), [1], [0]),
    "structured_alignment structure": (lambda v: objectives.structured_alignment(v, 0.1), [0.0], [-LEAST, NAN]),
    "structured_alignment adversarial": (lambda v: objectives.structured_alignment(0.1, v), [0.0], [-LEAST, NAN]),
    "self_alignment interval": (lambda v: objectives.self_alignment(V, interval=v), [LEAST], [0.0, NAN]),
    "self_alignment beta": (lambda v: objectives.self_alignment(V, beta=v), [LEAST], [0.0, NAN]),
    "dispersive block": (lambda v: objectives.dispersive(1, v), [2], [1]),
    "dispersive temperature": (lambda v: objectives.dispersive(1, 2, v), [LEAST], [0.0, NAN]),
    "dispersive layer": (lambda v: objectives.dispersive(v, 2), [1], [0]),
    "pseudo_huber c": (lambda v: part("few_step", "pseudo_huber")(v), [0.0], [-LEAST, NAN]),
    "guidance_distillation scales": (
        lambda v: objectives.guidance_distillation(V, V, RATE, UNIFORM, v, 3),
        [(1.0, 1.0), (0.0, 2.0)],
        [(1.0, 0.999)],
    ),
    "guidance_inputs largest": (
        lambda v: objectives.improved_mean_flow(UNIFORM, guidance=objectives.GuidanceInputs(3, largest=v)),
        [1.0],
        [0.999, NAN],
    ),
    "guidance_inputs dropout": (
        lambda v: objectives.improved_mean_flow(UNIFORM, guidance=objectives.GuidanceInputs(3, dropout=v)),
        [0.0, 1.0],
        [-LEAST, 1.001],
    ),
    "latent_consistency guidance": (
        lambda v: objectives.latent_consistency_distillation(V, V, 3, v),
        [(2.0, 2.0)],
        [(2.0, 1.999)],
    ),
    "latent_consistency solver_steps": (
        lambda v: objectives.latent_consistency_distillation(V, V, 3, solver_steps=v, T=10),
        [1, 10],
        [0, 11],
    ),
    "latent_consistency c": (lambda v: objectives.latent_consistency_distillation(V, V, 3, c=v), [LEAST], [0.0, NAN]),
    "adjoint_sampling noises": (lambda v: adjoint_sampling(noises=v), [1], [0]),
    "adjoint_sampling data_std": (lambda v: adjoint_sampling(data_std=v), [LEAST], [0.0, NAN]),
    "adjoint_sampling max_norm": (lambda v: adjoint_sampling(max_norm=v), [LEAST], [0.0, NAN]),
    "adjoint_sampling buffer": (lambda v: adjoint_sampling(buffer=v, every=2), [1], [0, -1]),
    "adjoint_sampling every": (lambda v: adjoint_sampling(buffer=4, every=v), [2], [1, 0]),
    "log_variance group": (lambda v: objectives.log_variance(V, GRID, objectives.funnel(), v), [2], [1]),
    "log_variance data_std": (
        lambda v: objectives.log_variance(V, GRID, objectives.funnel(), 2, v),
        [LEAST],
        [0.0, NAN],
    ),
    "mean_flow equal": (lambda v: objectives.mean_flow(UNIFORM, v), [0.0, 1.0], [-LEAST, 1.001, NAN]),
    "mean_flow p": (lambda v: objectives.mean_flow(UNIFORM, p=v), [0.0], [-LEAST, NAN]),
    "policy_gradient clip": (lambda v: objectives.policy_gradient(V, GRID, REWARD, 2, clip=v), [LEAST], [0.0, NAN]),
    "policy_gradient beta": (
        lambda v: objectives.policy_gradient(V, GRID, REWARD, 2, V, beta=v),
        [LEAST],
        [-LEAST, NAN],
    ),
    "policy_gradient group": (lambda v: objectives.policy_gradient(V, GRID, REWARD, v), [2], [1]),
    "prior_preservation weight": (lambda v: objectives.with_prior_preservation(PLAIN, v, "a"), [0.0], [-LEAST, NAN]),
    "prior_preservation number": (lambda v: objectives.with_prior_preservation(PLAIN, 1.0, "a", v), [1], [0]),
    "progressive N": (lambda v: objectives.progressive_distillation(V, V, v), [1], [0]),
    "progressive stage": (lambda v: objectives.progressive_adversarial(V, V, 4, v), [1], [0]),
    "mlp": (lambda v: projectors.mlp(v), [1], [0]),
    "convolution": (lambda v: projectors.convolution(v), [1, 3], [0, -1, 2]),
    "replay_buffer size": (lambda v: buffer(ROW, v, 1), [1], [0]),
    "replay_buffer every": (lambda v: buffer(ROW, 2, v), [1], [0]),
    "reward_backpropagation": (lambda v: objectives.reward_backpropagation(V, GRID, REWARD, v), [1, 2], [0, 3]),
    "reward_weights beta": (lambda v: objectives.with_reward_weights(PLAIN, REWARD, v), [LEAST], [0.0, NAN]),
    "shortcut M": (lambda v: objectives.shortcut(v), [2, 8], [1, 3, 0]),
    "shortcut share": (lambda v: objectives.shortcut(8, v), [0.0, 1.0], [-LEAST, 1.001, NAN]),
    "trajectory solver_steps": (lambda v: objectives.trajectory_regression(V, V, GRID, 1, v), [1, 4], [0]),
    "trajectory chunk": (lambda v: objectives.trajectory_regression(V, V, GRID, v), [1], [0]),
    "truncated boundary": (
        lambda v: objectives.truncated_consistency(V, V, UNIFORM, near(0.1), v),
        [LEAST],
        [0.0, NAN],
    ),
    "truncated share": (
        lambda v: objectives.truncated_consistency(V, V, UNIFORM, near(0.1), 1.0, v),
        [0.001, 0.999],
        [0.0, 1.0],
    ),
    "truncated weight": (
        lambda v: objectives.truncated_consistency(V, V, UNIFORM, near(0.1), 1.0, 0.5, v),
        [0.0],
        [-LEAST, NAN],
    ),
    "gaussian_mixture number": (lambda v: objectives.gaussian_mixture(v), [1], [0]),
    "gaussian_mixture dimension": (lambda v: objectives.gaussian_mixture(2, v), [1], [0]),
    "gaussian_mixture side": (lambda v: objectives.gaussian_mixture(2, 2, v), [LEAST], [0.0, NAN]),
    "funnel dimension": (lambda v: objectives.funnel(v), [2], [1]),
    "funnel std": (lambda v: objectives.funnel(3, v), [LEAST], [0.0, NAN]),
    "many_well": (lambda v: objectives.many_well(v), [1], [0]),
    "with_pictures share": (lambda v: objectives.with_pictures(PLAIN, v), [0.001, 0.999], [0.0, 1.0]),
    "condition dropout": (lambda v: objectives.with_condition_dropout(PLAIN, 3, v), [0.0, 0.999], [-LEAST, 1.0]),
    "min_snr": (weightings.min_snr, [LEAST], [0.0, NAN]),
    "soft_min_snr": (weightings.soft_min_snr, [LEAST], [0.0, NAN]),
    "at_most": (lambda v: weightings.at_most(RATE, v), [LEAST], [0.0, NAN]),
    "p2 k": (lambda v: weightings.p2(k=v), [LEAST], [0.0, NAN]),
    "p2 gamma": (lambda v: weightings.p2(gamma=v), [0.0], [-LEAST, NAN]),
    "edm sigma_data": (weightings.edm, [LEAST], [0.0, NAN]),
}


@pytest.mark.parametrize("name", RANGES)
def test_numbers_at_the_ends_of_a_range_are_taken_and_beyond_it_refused(name):
    make, valid, invalid = RANGES[name]
    for number in valid:
        make(number)
    for number in invalid:
        with pytest.raises(ValueError, match=re.escape(str(number))):
            make(number)
