"""Checks that a device computes correctly: compares small networks' losses and samples with the CPU's in float32.

    python -m benchmarks.gpu.correctness --out=correctness.json

Both devices run in this process with the same random numbers, since JAX's random bits do not depend on the device. The
command ends with an error if a difference exceeds its tolerance, so that no wrong device is measured.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    OUT = flags.DEFINE_string("out", None, "file for the rows, as JSON", required=True)
    TINY = flags.DEFINE_bool("tiny", False, "use smaller networks, for a rehearsal")
    command_line.begin()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import rows
from diffusion import objectives, parameterizations, samplers, schedules, timesteps, weightings
from diffusion.models.dit import DiT
from diffusion.models.song_unet import SongUNet
from diffusion.training import ema, optimizers, state
from diffusion.training.step import make_train_step

STEPS = 5  # updates whose losses are compared
SAMPLING_STEPS = 10  # steps of Heun's sampler
BATCH = 16


class Check(NamedTuple):
    """One way to compute, and the tolerances of its losses and samples, relative to the CPU's values.

    Attributes:
        network: the network, "dit" or "unet".
        attention: the implementation of attention.
        dtype: the compute type.
        precision: the precision of float32 matrix products and convolutions, "highest" or "default" (tf32 on NVIDIA
            GPUs).
        loss: the relative tolerance of every loss. float32 differs by the order of its sums, tf32 rounds operands to 11
            bits, bfloat16 to 8; a loss averages over many such errors, and Adam's updates feed them back.
        sample: the tolerance of |x - x_cpu| / |x_cpu|.
    """

    network: str
    attention: str
    dtype: str
    precision: str
    loss: float
    sample: float


CHECKS = {
    "DiT, float32, highest precision": Check("dit", "xla", "float32", "highest", 1e-4, 1e-3),
    "DiT, float32 as JAX computes it": Check("dit", "xla", "float32", "default", 3e-3, 1e-2),
    "DiT, bfloat16, attention xla": Check("dit", "xla", "bfloat16", "default", 5e-3, 5e-2),
    "DiT, bfloat16, attention matmul": Check("dit", "matmul", "bfloat16", "default", 5e-3, 5e-2),
    "DiT, bfloat16, attention cudnn": Check("dit", "cudnn", "bfloat16", "default", 5e-3, 5e-2),
    "DDPM++, float32, highest precision": Check("unet", "xla", "float32", "highest", 1e-4, 1e-3),
    "DDPM++, bfloat16": Check("unet", "xla", "bfloat16", "default", 1e-2, 5e-2),
}


def computed(check: Check, tiny: bool) -> tuple[np.ndarray, np.ndarray]:
    """The losses [STEPS] and the samples [B, H, W, C] of a check, computed on the default device."""
    model, shape, schedule, parameterization, objective = _network(check, tiny)
    optimizer = optimizers.adamw(1e-3, steps=100)
    average = ema.exponential_moving_average()
    step = jax.jit(make_train_step(objective, model.apply, schedule, optimizer, average))
    labels = jnp.arange(BATCH) % 10
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1), labels[:1])
    carried = state.create(params, optimizer, average)
    losses = []
    x = jax.random.normal(jax.random.key(1), (BATCH, *shape))
    batch = {"x": x, "condition": labels, "index": jnp.arange(BATCH)}
    for _ in range(STEPS):
        carried, metrics = step(carried, batch, jax.random.key(2))
        losses.append(float(metrics["loss"]))

    @jax.jit
    def sample(params, keys):
        denoise = parameterizations.denoiser(
            lambda x, clock, condition: model.apply(params, x, clock, condition), schedule, parameterization, labels
        )
        grid = timesteps.karras if check.network == "unet" else timesteps.uniform
        plan = timesteps.plan(grid(schedule, steps=SAMPLING_STEPS))
        return samplers.sample(samplers.heun(), denoise, schedule, samplers.prior(schedule, keys, shape), plan, keys)

    return np.array(losses), np.asarray(sample(carried.params, jax.random.split(jax.random.key(3), BATCH)), np.float64)


def _network(check: Check, tiny: bool):
    options = {"attention": check.attention, "dtype": check.dtype, "num_classes": 10}
    if check.network == "dit":
        size = {"width": 32, "depth": 2, "heads": 2} if tiny else {"width": 256, "depth": 4, "heads": 4}
        model = DiT(patch=2, **size, **options)
        shape = (8, 8, 4) if tiny else (32, 32, 4)
        schedule = schedules.rectified_flow()
        return (
            model,
            shape,
            schedule,
            parameterizations.velocity(),
            objectives.flow_matching(timesteps.uniform_density(schedule)),
        )
    side, size = (8, {"width": 8, "multipliers": (1,)}) if tiny else (32, {"width": 64, "multipliers": (1, 2)})
    model = SongUNet(
        resolution=side, blocks=1, attention_resolutions=(side // len(size["multipliers"]),), **size, **options
    )
    schedule = schedules.edm()
    read = parameterizations.edm()
    objective = objectives.denoising(read, weightings.edm(), timesteps.log_normal(schedule))
    return model, (side, side, 3), schedule, read, objective


def main(argv: list[str]) -> None:
    """Compares, prints and writes the results, and fails if a tolerance is exceeded."""
    cpu = jax.devices("cpu")[0]
    references, lines, wrong = {}, [], []
    for name, check in CHECKS.items():
        if check.network not in references:
            plain = Check(check.network, "xla", "float32", "highest", 0, 0)
            references[check.network] = on(lambda: jax.default_device(cpu), plain)
        if check.attention == "cudnn" and jax.default_backend() != "gpu":
            print(f"{name}: not measured, no GPU")
            continue
        try:
            losses, samples = on(contextlib.nullcontext, check)
        except Exception as error:  # a missing kernel of cuDNN does not end the checks, since "xla" can be used
            if check.attention != "cudnn":
                raise
            print(f"{name}: {type(error).__name__}: {error}")
            lines.append(rows.Row(name, "ppm", False, (float("nan"),), note=f"failed: {str(error)[:200]}"))
            continue
        expected, wanted = references[check.network]
        loss = float(np.max(np.abs(losses / expected - 1)))
        sample = float(np.linalg.norm(samples - wanted) / np.linalg.norm(wanted))
        for what, difference, tolerance in (("losses", loss, check.loss), ("samples", sample, check.sample)):
            note = f"tolerance {1e6 * tolerance:,.0f}"
            lines.append(rows.Row(f"{name}: {what}, beside the CPU's", "ppm", False, (1e6 * difference,), note=note))
            if not difference <= tolerance:
                wrong.append(f"{name}: {what} differ by {difference:.2e}, tolerance {tolerance:.0e}")
        print(f"{name}: losses {loss:.2e} of {check.loss:.0e}, samples {sample:.2e} of {check.sample:.0e}", flush=True)
    if wrong:
        raise SystemExit("\n".join(wrong))
    title = f"first {STEPS} losses and samples beside the CPU's, {jax.devices()[0].device_kind}"
    pathlib.Path(OUT.value).write_text(json.dumps({"title": title, "rows": [row._asdict() for row in lines]}))


def on(where: Callable[[], contextlib.AbstractContextManager], check: Check) -> tuple[np.ndarray, np.ndarray]:
    """The result of `computed` at the check's precision, in a context that sets the device."""
    with where(), jax.default_matmul_precision(check.precision):
        return computed(check, TINY.value)


if __name__ == "__main__":
    command_line.run(main)
