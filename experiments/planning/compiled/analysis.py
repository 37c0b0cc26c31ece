"""The figures of a compiled program that are known without running it, as one dict that can be written as JSON."""

import pathlib
import re
from collections.abc import Iterable
from typing import Any

from diffusion.experiments.planning.compiled import findings, hlo, roofline
from diffusion.experiments.planning.compiled.kernels import Kernel, kernels
from diffusion.experiments.planning.machines import Machine

ROOT = pathlib.Path(__file__).parents[4]
# Operations outside the matrix units. XLA's own count of FLOPs has one for each value of the result.
ARITHMETIC = {
    "add",
    "subtract",
    "multiply",
    "divide",
    "maximum",
    "minimum",
    "negate",
    "abs",
    "exponential",
    "log",
    "exponential-minus-one",
    "log-plus-one",
    "logistic",
    "tanh",
    "erf",
    "sqrt",
    "rsqrt",
    "cbrt",
    "power",
    "sine",
    "cosine",
    "tan",
    "atan2",
    "floor",
    "ceil",
    "remainder",
    "sign",
    "clamp",
    "select",
    "compare",
}
REDUCED = {"reduce", "reduce-window"}  # one for each value of the operand
SLOWEST = 40  # kernels that are listed
MEMORY = ("argument_size", "output_size", "alias_size", "temp_size", "peak_memory")


def analyse(text: str, machine: Machine, devices: int, model_flops: float, root: pathlib.Path = ROOT) -> dict[str, Any]:
    """Analyses the text of a program.

    Args:
        text: `compiled.as_text()`.
        machine: the machine that the program is compiled for.
        devices: the number of devices that run it together.
        model_flops: the model's operations in one run of the program on all devices, without repeated ones;
            utilisation counts these.
        root: the folder of the Python files whose lines are named.

    Returns:
        The figures of one run on each device: {"kernels", "flops", "tensor_share": the share of the FLOPs in products
        of bfloat16 or less; "bytes"; "roofline": the roofline by the peak of the data sheet; "measured": the roofline
        by the rate of a measured product, None where none was measured; and from `findings`: "slowest" kernels,
        "products" that are not in bfloat16, "copies", "collectives", "attention", "recomputed", "stacks"}. Both
        rooflines have "mfu", the largest share of the data sheet's peak that the program can reach.
    """
    module = hlo.parse(text)
    run = kernels(module)
    products = findings.products(module, run, root)
    others = findings.outside_tensor_cores(products)
    collectives = findings.communication(module, run, devices, root)
    in_products = sum(entry["flops"] for entry in products)
    flops = in_products + elementwise(run)

    slow = lambda kernel: max(roofline.resources(kernel, machine, machine.flops))

    def bound(rate: float) -> dict[str, float] | None:
        if not rate:
            return None
        times = roofline.roofline(run, collectives, machine, devices, rate)
        return {**times._asdict(), "mfu": model_flops / devices / machine.flops / times.seconds}

    return {
        "kernels": sum(kernel.times for kernel in run),
        "flops": flops,
        "model_flops": model_flops / devices,
        "tensor_share": (in_products - sum(entry["flops"] for entry in others)) / max(flops, 1),
        "bytes": sum(kernel.times * kernel.bytes for kernel in run),
        "roofline": bound(machine.flops),
        "measured": bound(machine.measured),
        "slowest": findings.slowest(module, run, slow, root)[:SLOWEST],
        "products": others,
        "copies": findings.copies(module, run, root),
        "collectives": collectives,
        "attention": findings.fused_attention(module, run, root),
        "recomputed": findings.recomputed(module, run, root),
        "stacks": findings.stacks(module, run, root),
    }


def elementwise(run: Iterable[Kernel]) -> int:
    """The number of operations outside the products: one for each value that is computed, or summed."""
    total = 0
    for kernel in run:
        for instruction, computation in kernel.inside:
            if instruction.operation in ARITHMETIC:
                total += kernel.times * instruction.results[0].elements
            elif instruction.operation in REDUCED:
                total += kernel.times * computation.operands(instruction)[0][0].elements
    return total


def memory(compiled: Any) -> dict[str, int]:
    """XLA's figures of a program's memory on each device, in bytes: arguments, outputs, temporaries, peak."""
    statistics = compiled.memory_analysis()
    return {re.sub("_size|_memory", "", name): getattr(statistics, f"{name}_in_bytes") for name in MEMORY}
