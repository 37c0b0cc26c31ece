"""Training: one state and one pure step, with shardings, checkpoints and a compilation cache."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.training import (
        alternating,
        checkpointing,
        codebooks,
        coding,
        ema,
        gradient_norms,
        micro_batches,
        optimizers,
        parallel,
        power_ema,
        runtime,
        sharding,
        stages,
        state,
        step,
        training_means,
        warm_start,
    )

__all__ = [
    "alternating",
    "checkpointing",
    "codebooks",
    "coding",
    "ema",
    "gradient_norms",
    "micro_batches",
    "optimizers",
    "parallel",
    "power_ema",
    "runtime",
    "sharding",
    "stages",
    "state",
    "step",
    "training_means",
    "warm_start",
]

public.declare(__name__)
