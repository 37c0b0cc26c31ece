"""Training: one state and one pure step, with shardings, checkpoints and a compilation cache."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.training import (
        alternating as alternating,
        checkpointing as checkpointing,
        codebooks as codebooks,
        coding as coding,
        ema as ema,
        gradient_norms as gradient_norms,
        micro_batches as micro_batches,
        optimizers as optimizers,
        parallel as parallel,
        power_ema as power_ema,
        runtime as runtime,
        sharding as sharding,
        stages as stages,
        state as state,
        step as step,
        training_means as training_means,
        warm_start as warm_start,
    )

public.declare(__name__)
