"""What training takes where nothing is said: a config that leaves a field out trains alike in every version."""

import inspect

import pytest

from diffusion.training import alternating, coding, micro_batches, optimizers, power_ema, sharding, step
from diffusion.training.checkpointing import checkpoint_writer, checkpoints
from diffusion.training.runtime import agreement, compilation_cache, progress

DEFAULTS = [
    (alternating.Player, {"every": 1}),
    (alternating.alternating, {"accumulate": 1, "shards": 1}),
    (step.make_train_step, {"accumulate": 1, "shards": 1, "axis": None, "base": ""}),
    (coding.parameters, {"log_variance": 0.0}),
    (micro_batches.number, {"block": 1}),
    (optimizers.adamw, {"warmup": 0, "decay": "constant", "clip": None}),
    (optimizers.muon, {"warmup": 0, "decay": "constant", "clip": None}),
    # Xie et al. 2022, the authors' code
    (
        optimizers.adan,
        {"learning_rate": 3e-4, "warmup": 0, "weight_decay": 0.0, "b1": 0.98, "b2": 0.92, "b3": 0.99, "clip": None},
    ),
    (power_ema.moving_average, {"decay": 0.9999, "warmup": True, "sigma_rel": 0.0}),
    (sharding.check_batch_size, {"accumulate": 1}),
    (checkpoint_writer.Checkpoints, {"keep": 3, "keep_every": 0}),
    (agreement.gather, {"text": "", "seconds": float("inf")}),
    (progress.Display, {"speaks": True}),
    (progress.Display.report, {"skipped": 0}),
    (progress.bar, {"speaks": True}),
]


@pytest.mark.parametrize("function, expected", DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_constants():
    """Of a run that cools down, of a plain mean (Karras et al. 2024), of curves, and of the files of a run."""
    assert optimizers.COOLDOWN == 0.2
    assert power_ema.WIDEST == pytest.approx(1 / 12**0.5, rel=1e-15)
    assert step.BINS == 10
    assert sharding.SMALLEST_SPLIT == 1024
    assert checkpoints.FORMAT == 1
    assert compilation_cache.LIMIT == 2 * 1024**3
    seconds = {name: default for name, (_, default) in sharding.LIMITS.items()}
    assert seconds == {"heartbeat_timeout_seconds": 100, "shutdown_timeout_seconds": 300}  # JAX's own
