"""Training objectives: pure functions (networks, schedule, keys, batch, step) -> (losses `[B]`, metrics)."""

from diffusion.objectives.conditioning import drop_condition, with_condition_dropout
from diffusion.objectives.denoising import denoising
from diffusion.objectives.flow_matching import flow_matching
from diffusion.objectives.hybrid import hybrid
from diffusion.objectives.inputs import Objective

__all__ = ["Objective", "denoising", "drop_condition", "flow_matching", "hybrid", "with_condition_dropout"]
