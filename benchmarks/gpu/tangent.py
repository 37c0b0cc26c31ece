"""Measures the kernel of attention's tangent on a GPU: its error against float32, and its time by block size.

    python -m benchmarks.gpu.tangent --out=tangent.json

The error is that against XLA's plain products in float32. The time is compared with XLA's plain products in bfloat16,
which write all scores to memory. A time includes both the value and its tangent.
"""

import json
import pathlib
from collections.abc import Callable

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    OUT = flags.DEFINE_string("out", None, "file for the rows, as JSON", required=True)
    TINY = flags.DEFINE_bool("tiny", False, "use small arrays, for a rehearsal")
    command_line.begin()

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import rows
from diffusion.models.layers import attention_tangent
from diffusion.models.layers.attention import cudnn, xla

SHAPES = {"head width 64": (32, 256, 12, 64), "head width 72": (16, 256, 16, 72)}  # [B, N, H, D] of B/2 and XL/2
BLOCKS = ((64, 32), (64, 64), (128, 32), (128, 64), (32, 32), (64, 16))  # numbers of queries and of keys in a block
TOLERANCE = 2e-2  # largest |x - x_float32| / |x_float32|, for sums of 256 products in bfloat16
CALLS, ROUNDS = 20, 7


def arrays(shape: tuple[int, ...]) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """((q, k, v), (dq, dk, dv)), each bfloat16 [B, N, H, D]."""
    draws = [jax.random.normal(key, shape, jnp.bfloat16) for key in jax.random.split(jax.random.key(0), 6)]
    return tuple(draws[:3]), tuple(draws[3:])


def seconds(function: Callable, arguments: tuple) -> float:
    """The seconds of a call: the median of `ROUNDS` rounds of `CALLS` calls, after a call that compiles."""
    jax.block_until_ready(function(*arguments))
    timed = rows.seconds(lambda: jax.block_until_ready([function(*arguments) for _ in range(CALLS)]))
    return float(np.median([timed() / CALLS for _ in range(ROUNDS)]))


def main(argv: list[str]) -> None:
    """Compares and measures; fails if an error exceeds the tolerance."""
    on_gpu = jax.default_backend() == "gpu"
    attend = attention_tangent.with_tangent(cudnn if on_gpu else xla, interpret=not on_gpu)
    lines, wrong = [], []
    for what, shape in SHAPES.items():
        primals, tangents = arrays((1, 40, 2, shape[-1]) if TINY.value else shape)
        wide = lambda some: tuple(x.astype(jnp.float32) for x in some)
        plain = jax.jit(lambda p, t: jax.jvp(xla, p, t))
        with jax.default_matmul_precision("highest"):
            expected = plain(wide(primals), wide(tangents))
        base = seconds(plain, (primals, tangents))
        for queries, keys in BLOCKS[:1] if TINY.value else BLOCKS:
            attention_tangent.QUERIES, attention_tangent.KEYS = queries, keys
            function = jax.jit(lambda p, t: jax.jvp(attend, p, t))
            name = f"attention and its tangent, {what}, blocks of {queries} queries and {keys} keys"
            try:
                out = function(primals, tangents)
                errors = [
                    float(jnp.linalg.norm(x.astype(jnp.float32) - y) / jnp.linalg.norm(y))
                    for x, y in zip(out, expected)
                ]
                taken = seconds(function, (primals, tangents))
            except Exception as error:  # a block size that does not fit the device does not end the others
                print(f"{name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                lines.append(rows.Row(name, "ms", False, (float("nan"),), note=f"failed: {str(error)[:200]}"))
                continue
            note = f"plain product {1e3 * base:.3f} ms; error of value {errors[0]:.1e}, tangent {errors[1]:.1e}"
            print(f"{name}: {1e3 * taken:.3f} ms; {note}", flush=True)
            lines.append(rows.Row(name, "ms", False, (1e3 * taken,), note=note))
            if not max(errors) <= TOLERANCE:
                wrong.append(f"{name}: errors {errors}, tolerance {TOLERANCE}")
    title = f"attention's tangent, {jax.devices()[0].device_kind}"
    pathlib.Path(OUT.value).write_text(json.dumps({"title": title, "rows": [row._asdict() for row in lines]}))
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    command_line.run(main)
