"""The measurements of each stage: its cases, which separate workers measure one after another.

The sizes are for a device of 80 GB or more; `tiny` has sizes for a rehearsal on a CPU.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

SHARED = {"attention": ["cudnn", "xla"]}  # the first implementation that runs on the device is used
XL = {"kind": "train", "model": "XL/2", "batch": 64, "count": 8, **SHARED}  # the spec that other cases vary
B = {"kind": "train", "model": "B/2", "batch": 128, "count": 16, **SHARED}
MATMUL = {"kind": "matmul", "size": 8192, "count": 300, "dtype": "bfloat16"}
FLAGS = {  # accepted by jaxlib 0.10.2 and 0.11.2; XLA ends a process with an unknown flag
    "no_triton_gemm": "--xla_gpu_enable_triton_gemm=false",
    "no_command_buffers": "--xla_gpu_enable_command_buffer=",
    "latency_hiding": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "block_level_fusion": "--xla_gpu_experimental_enable_fusion_block_level_rewriter=true",
    "double_buffering": "--xla_gpu_enable_while_loop_double_buffering=true",
    "exhaustive_tiling": "--xla_gpu_exhaustive_tiling_search=true",
    "none": "--xla_gpu_autotune_level=4",  # the default value; shows how much a flag without effect seems to change
}


FIRST = {"environment": 20.0, "correctness": 240.0, "tangent": 50.0}  # seconds of the stages before all measurements


class Measurement(NamedTuple):
    """The measurement of one stage.

    Attributes:
        title: the title of the rows, which says what is measured.
        cases: {name: spec of a worker}: either "ours" with its peer "torch" and its limit "matmul", or "base" and its
            variants; a row for each variant compares it with the base.
        seconds: the approximate time of the stage, most of which is compilation.
        apart: whether each case does all of its rounds alone on the device, since the device's memory does not hold all
            cases at once.
    """

    title: str
    cases: Mapping[str, dict[str, Any]]
    seconds: float
    apart: bool = False


def _train(model: str, batch: int, count: int, seconds: float) -> Measurement:
    ours = {"kind": "train", "model": model, "batch": batch, "count": count, **SHARED}
    cases = {"matmul": MATMUL, "ours": ours, "torch": {**ours, "kind": "torch"}}
    title = f"DiT-{model}, 256 tokens, bfloat16, batch {batch}, train step"
    return Measurement(title, cases, seconds, apart=True)


def _sample(steps: int) -> Measurement:
    ours = {"kind": "sample", "model": "XL/2", "batch": 32, "steps": steps, **SHARED}
    title = f"DiT-XL/2, {steps} Euler steps with guidance, batch 32, sampling"
    return Measurement(title, {"matmul": MATMUL, "ours": ours}, 60)


def _flag(name: str) -> Measurement:
    base = {**XL, "batch": 32}  # a small batch, since both cases are on the device at once
    flags = FLAGS[name]
    return Measurement(
        f"DiT-XL/2, batch 32, train step, XLA flag {name}",
        {"base": base, flags.lstrip("-"): {**base, "flags": flags}},
        100,
    )


def measurements() -> dict[str, Measurement]:
    """All stages that workers measure, the most important first."""
    jvp = {**B, "batch": 64, "attention": ["cudnn_jvp", "xla"]}
    recipe = {**XL, "batch": 256, "count": 4, "remat": "elementwise"}  # the settings of configs/imagenet256_dit.py
    return {
        "matmul": Measurement(
            "matrix product, 8192^3", {"base": MATMUL, "float32 by tf32": {**MATMUL, "dtype": "tf32", "count": 100}}, 25
        ),
        "train_xl": _train("XL/2", 64, 8, 150),
        "train_b": _train("B/2", 256, 16, 90),
        "train_s": _train("S/2", 512, 20, 80),
        "attention": Measurement(
            "DiT-XL/2, batch 48, train step, attention",
            {"base": {**XL, "batch": 48, "attention": ["cudnn"]}, "xla": {**XL, "batch": 48, "attention": ["xla"]}},
            110,
            apart=True,
        ),
        "remat": Measurement(
            "DiT-XL/2, batch 48, train step, rematerialised",
            {
                "base": {**XL, "batch": 48},
                "elementwise": {**XL, "batch": 48, "remat": "elementwise"},
                "dots": {**XL, "batch": 48, "remat": "dots"},
                "narrow": {**XL, "batch": 48, "remat": "narrow"},
                "full": {**XL, "batch": 48, "remat": "full"},
            },
            175,
            apart=True,
        ),
        "recipe": Measurement(
            "DiT-XL/2, batch 256, train step, every product kept",
            {"base": recipe, "layers scanned": {**recipe, "unroll": 1}},
            170,
            apart=True,
        ),
        "sample_50": _sample(50),
        "sample_250": _sample(250),
        "fsdp": Measurement(
            "DiT-B/2, batch 128, train step, FSDP", {"base": B, "on one device": {**B, "mesh": True}}, 80
        ),
        "jvp": Measurement(
            "DiT-B/2, batch 64, train step with forward mode",
            {
                "base": jvp,
                "MeanFlow": {**jvp, "objective": "mean_flow"},
                "sCM": {**jvp, "objective": "continuous_consistency"},
            },
            120,
        ),
        "unet": Measurement(
            "DDPM++ on CIFAR-10, batch 512, train step",
            {"matmul": MATMUL, "ours": {"kind": "unet", "batch": 512, "count": 8, "width": 128, "blocks": 4, **SHARED}},
            170,
        ),
        "unroll": Measurement(
            "DiT-B/2, batch 128, train step, layers in one turn of the scan",
            {"base": B, "4": {**B, "unroll": 4}, "1": {**B, "unroll": 1}},
            130,
            apart=True,
        ),
        **{f"flag_{name}": _flag(name) for name in FLAGS},
    }


def calls(seconds: float) -> list[list[str]]:
    """The names of the stages in each call, if every stage takes its estimated seconds.

    Args:
        seconds: the time of a call; a stage that would take longer than the rest of this time begins the next call.
    """
    parts, left = [], 0.0
    for name, takes in {**FIRST, **{name: what.seconds for name, what in measurements().items()}}.items():
        if not parts or takes > left:
            parts.append([])
            left = seconds
        parts[-1].append(name)
        left -= takes
    return parts


def tiny(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec of the same case in a size that a CPU measures in a second."""
    small = {"size": 256, "model": "tiny", "batch": 4, "steps": 3, "count": 2, "width": 8, "blocks": 1}
    return {name: small.get(name, value) for name, value in spec.items()} | {"shape": [8, 8, 4]}
