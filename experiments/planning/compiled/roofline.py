"""The time of a compiled program if every kernel runs at the limits of its device: products, memory and links.

A kernel takes the longer of two times: of its products at the device's rate, and of its bytes at the bandwidth of the
memory. Kernels run one after the other. Collectives that XLA starts early run at the same time as kernels, all others
alone. Launches and operations outside the matrix units cost nothing.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from diffusion.experiments.planning.compiled.kernels import Kernel
from diffusion.experiments.planning.compiled.tensor_products import Product, products_of
from diffusion.experiments.planning.machines import FLOAT32, Machine, ring_bandwidth


class Roofline(NamedTuple):
    """Seconds of one run on each device.

    Attributes:
        compute: seconds of the products at the device's rate, if nothing else took time.
        memory: seconds of all bytes at its bandwidth, if nothing else took time.
        network: seconds of all collectives at its links, if nothing else took time.
        seconds: time of the kernels one after the other, and of the collectives that do not run at the same time.
        memory_bound: the part of `seconds` in kernels whose bytes take longer than their products.
    """

    compute: float
    memory: float
    network: float
    seconds: float
    memory_bound: float


def passes(product: Product, platform: str) -> float:
    """How many times the time of a bfloat16 product a product takes."""
    if "f32" in product.kinds or "f64" in product.kinds:
        return FLOAT32[platform][product.precision]
    return 0.5 if all(kind.startswith("f8") or kind in ("s8", "u8") for kind in product.kinds) else 1.0


def resources(kernel: Kernel, machine: Machine, rate: float) -> tuple[float, float]:
    """The time that a kernel needs for its products, and for its bytes, in all its runs; see `roofline`.

    Args:
        kernel: the kernel.
        machine: the machine whose data sheet states the memory bandwidth.
        rate: operations per second at which products run, > 0.

    Returns:
        (seconds of the products, seconds of the bytes).
    """
    work = sum(product.flops * passes(product, machine.platform) for product in products_of(kernel)) / rate
    return kernel.times * work, kernel.times * kernel.bytes / machine.bandwidth


def roofline(
    kernels: Iterable[Kernel], collectives: Iterable[Mapping[str, Any]], machine: Machine, devices: int, rate: float
) -> Roofline:
    """The roofline of a program.

    Args:
        kernels: the kernels of the program.
        collectives: the entries of `findings.communication`.
        machine: the device's data sheet.
        devices: the number of devices that run the program together.
        rate: bfloat16 operations a second of its matrix units.
    """
    compute = 0.0
    memory = 0.0
    seconds = 0.0
    memory_bound = 0.0
    for kernel in kernels:
        work, moved = resources(kernel, machine, rate)
        compute += work
        memory += moved
        seconds += max(work, moved)
        memory_bound += moved if moved > work else 0.0
    sent = [
        (collective["overlapped"], collective["bytes"] / links(machine, devices, collective["group"]))
        for collective in collectives
    ]
    network = sum(taken for _, taken in sent)
    beside = sum(taken for overlapped, taken in sent if overlapped)
    return Roofline(compute, memory, network, max(seconds, beside) + network - beside, memory_bound)


def links(machine: Machine, devices: int, group: int) -> float:
    """Bytes that a device sends per second in a ring of `group` of the `devices`, if these are nearest neighbours."""
    return ring_bandwidth(machine, {"others": math.ceil(devices / group), "group": group}, ("group",))
