"""Facts about devices: peak rates, memory and links from their data sheets, and the passes of compiled steps."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from diffusion.experiments.planning import gpu_targets


class Passes(NamedTuple):
    """The number of passes of a compiled training step over each kind of array, besides its matrix products.

    A pass reads or writes an array once. Its time is the bytes of the array divided by the bandwidth of the memory. The
    numbers differ by machine, as they leave out passes that run during products, and passes over arrays that stay in a
    cache or in a TPU's scratch memory. `python -m benchmarks.programs.planned` fits the numbers to the compiled
    programs of docs/programs.json.

    Attributes:
        state: passes over parameters, optimizer and averages on a device.
        weights: passes over the kernels of all layers in the compute type, as a device uses them.
        tokens: passes over the tokens of all layers, [examples on a device, tokens, width] in the compute type.
        scores: passes over the scores of attention in float32, where attention is not fused.
        exchanged: passes over the arrays that an all-to-all sends, before and after it.
        windows: further passes over the tokens, where a TPU's products use one shard of the kernels after the other,
            while the next shard is sent.
    """

    state: float
    weights: float
    tokens: float
    scores: float
    exchanged: float
    windows: float


# The passes over the state are counted from its update (docs/programs.md). Those over the tokens lie between the 98 of
# S/2 and the 90 of XL/2.
GPU = Passes(state=2.75, weights=0.0, tokens=94.0, scores=0.0, exchanged=0.0, windows=0.0)
V5P = Passes(state=3.6, weights=4.9, tokens=25.3, scores=17.0, exchanged=12.1, windows=73.2)
# Fitted to two compiled steps, both over a whole torus. These steps do not determine state, exchanged and windows, so
# these are the v5p's.
V6E = Passes(state=3.6, weights=7.2, tokens=0.0, scores=0.0, exchanged=12.1, windows=73.2)


class Machine(NamedTuple):
    """One kind of device by its data sheet. Rates are peaks, per second and in one direction."""

    platform: str  # JAX's name, "gpu" or "tpu"
    kind: str  # pattern of `jax.Device.device_kind`, which no other machine's devices match
    flops: float  # dense bfloat16 operations, summed in float32, without sparsity
    memory: float  # bytes
    bandwidth: float  # bytes a second of that memory
    link: float  # bytes that a device sends to its neighbours, over all of its links
    neighbours: int = 0  # devices that these links join: 8 of a GPU node; 0 on a TPU, whose torus joins all of a slice
    network: float = 0.0  # bytes that a device sends beyond its neighbours; 0 on a TPU
    torus: int = 0  # dimensions; 0 where there is none
    topology: str = ""  # what libtpu calls the kind; "" on a GPU
    measured: float = 0.0  # bfloat16 operations a second of a large product, where one was measured
    target: str = ""  # what XLA's compiler reads of a GPU, see `gpu_targets`; "" where none is written down
    fp8: float = 1.0  # products of fp8 in the time of one of bfloat16, by the data sheet; 1 where XLA has none
    passes: Passes = GPU  # passes over arrays in a compiled train step, besides its products


MACHINES = {
    # "NVIDIA A100 Tensor Core GPU" data sheet, SXM: 312 TFLOP/s bfloat16 dense; 40 GB at 1,555 GB/s or 80 GB at
    # 2,039 GB/s; NVLink 600 GB/s both ways. "NVIDIA DGX A100" data sheet: 8 GPUs, 8 ConnectX-6, 200 Gb/s.
    "a100-40gb": Machine("gpu", "NVIDIA A100-SXM4-40GB", 312e12, 40e9, 1.555e12, 300e9, neighbours=8, network=25e9),
    "a100-80gb": Machine("gpu", "NVIDIA A100-SXM4-80GB", 312e12, 80e9, 2.039e12, 300e9, neighbours=8, network=25e9),
    # "NVIDIA H100 Tensor Core GPU" data sheet, SXM5: 1,979 TFLOP/s bfloat16 with sparsity, half of it dense; 80 GB,
    # 3.35 TB/s; NVLink 900 GB/s both ways. "NVIDIA DGX H100" data sheet: 8 GPUs, 8 single-port ConnectX-7, 400 Gb/s.
    "h100": Machine(
        "gpu",
        "NVIDIA H100 80GB HBM3",
        989.4e12,
        80e9,
        3.35e12,
        450e9,
        neighbours=8,
        network=50e9,
        measured=790e12,  # measured on an H200, which has the same cores
        fp8=2.0,
        target=gpu_targets.H100,
    ),
    # "NVIDIA H200 Tensor Core GPU" data sheet, SXM: as H100, with 141 GB and 4.8 TB/s; nodes as DGX H200.
    "h200": Machine(
        "gpu", "NVIDIA H200", 989.4e12, 141e9, 4.8e12, 450e9, neighbours=8, network=50e9, measured=790e12, fp8=2.0
    ),
    # "NVIDIA DGX B200" data sheet, of 8 GPUs: 1,440 GB, 64 TB/s, NVLink 14.4 TB/s both ways, 8 single-port ConnectX-7,
    # 400 Gb/s. "NVIDIA Blackwell Architecture Technical Brief", HGX B200: 2.25 PFLOP/s bfloat16 dense a GPU.
    "b200": Machine("gpu", "NVIDIA B200", 2250e12, 180e9, 8e12, 900e9, neighbours=8, network=50e9, fp8=2.0),
    # These three have no NVLink. Their sheets name the bus alone, which bounds what a device sends to any other.
    # "NVIDIA L40S" data sheet: 362.05 TFLOP/s bfloat16 dense, 48 GB, 864 GB/s, PCIe Gen4 x16, 64 GB/s both ways.
    "l40s": Machine("gpu", "NVIDIA L40S", 362.05e12, 48e9, 0.864e12, 32e9, network=32e9, fp8=2.0),
    # "NVIDIA Ada GPU Architecture" white paper, RTX 4090: 165.2 TFLOP/s bfloat16 dense with FP32 accumulate, 24 GB,
    # 1,008 GB/s; PCIe Gen4 x16.
    "rtx4090": Machine("gpu", "NVIDIA GeForce RTX 4090", 165.2e12, 24e9, 1.008e12, 32e9, network=32e9, fp8=2.0),
    # "NVIDIA RTX Blackwell GPU Architecture" white paper, RTX 5090: 209.5 TFLOP/s bfloat16 dense with FP32 accumulate
    # (170 multiprocessors x 512 FLOP a cycle x 2.407 GHz, the boost clock; cards that clock higher exceed it), 32 GB,
    # 1,792 GB/s; PCIe Gen5 x16, 128 GB/s both ways.
    "rtx5090": Machine("gpu", "NVIDIA GeForce RTX 5090", 209.5e12, 32e9, 1.792e12, 64e9, network=64e9, fp8=2.0),
    # "TPU v5p", docs.cloud.google.com/tpu/docs/v5p: 459 TFLOP/s bfloat16, 95 GiB, 2,765 GB/s, interconnect 1,200 GB/s
    # both ways, 3D torus.
    "v5p": Machine("tpu", "TPU v5p?", 459e12, 95 * 2**30, 2.765e12, 600e9, torus=3, topology="v5p", passes=V5P),
    # "TPU v6e", docs.cloud.google.com/tpu/docs/v6e: 918 TFLOP/s bfloat16, 32 GB, 1,600 GB/s, interconnect 800 GB/s both
    # ways, 2D torus.
    "v6e": Machine("tpu", "TPU v6( lite|e)", 918e12, 32e9, 1.6e12, 400e9, torus=2, topology="v6e", passes=V6E),
}


# How many times the time of a bfloat16 product a float32 product takes, by its precision. A GPU computes it in
# TensorFloat-32 at half the rate, and for "highest" on its vector units (67 instead of 989 TFLOP/s on an H100). A TPU
# computes it by one, three or six products of bfloat16.
FLOAT32 = {"gpu": {"default": 2.0, "high": 2.0, "highest": 14.8}, "tpu": {"default": 1.0, "high": 3.0, "highest": 6.0}}
USABLE = 0.9  # share of a device's memory that a plan may fill; fragmentation and the compiler's buffers take the rest


def product_rate(machine: Machine, dtype: str) -> float:
    """Returns the operations a second of a machine's matrix units, for products of float32 or bfloat16 operands."""
    return machine.flops / (FLOAT32[machine.platform]["default"] if dtype == "float32" else 1.0)


def product_seconds(machine: Machine, operations: float, dtype: str, in_fp8: float = 0.0) -> float:
    """The time in seconds that a device's matrix units need.

    Args:
        machine: the machine.
        operations: number of floating-point operations in total.
        dtype: compute type of the operations outside fp8.
        in_fp8: number of these operations that are products of arrays in fp8.
    """
    return (operations - in_fp8) / product_rate(machine, dtype) + in_fp8 / (machine.fp8 * machine.flops)


def refusal(machine: Machine, products: str) -> str:
    """The reason why a machine computes no products of the type `config.train.products`; "" if it computes them."""
    if products != "fp8" or machine.fp8 > 1:
        return ""
    return "config.train.products = 'fp8', but XLA computes products in fp8 only on NVIDIA GPUs from Ada and Hopper on"


def machine_of(kind: str) -> str | None:
    """Returns the key in `MACHINES` of the machine whose devices are of a `jax.Device.device_kind`; None for others."""
    return next((name for name, machine in MACHINES.items() if re.fullmatch(machine.kind, kind)), None)


def ring_bandwidth(machine: Machine, mesh: Mapping[str, int], axes: tuple[str, ...]) -> float:
    """Returns the bytes a second that each device of a group can send, one way; an estimate.

    NVLink connects the 8 GPUs of a node. A group that spans several nodes uses the network cards of all its members in
    each node. On a TPU, a group of n of N devices uses log(n) / log(N) of the torus's dimensions, rounded, and at least
    one.

    Args:
        machine: the device's data sheet.
        mesh: size of each axis by name, the nearest neighbours last.
        axes: the axes whose devices form a group.
    """
    names = list(mesh)
    group = math.prod(mesh[axis] for axis in axes)
    if machine.torus:
        logarithm = math.log(max(math.prod(mesh.values()), 2))
        dimensions = min(max(round(machine.torus * math.log(max(group, 2)) / logarithm), 1), machine.torus)
        return machine.link * dimensions / machine.torus
    stride = math.prod(mesh[name] for name in names[names.index(axes[-1]) + 1 :])
    if group * stride <= machine.neighbours:
        return machine.link
    return min(machine.link, machine.network * max(machine.neighbours // stride, 1))


def topology_name(machine: Machine, devices: int) -> str:
    """Returns XLA's name for a number of devices: the most cubic slice of a TPU ("v5p:4x4x4"), or GPU nodes ("1x2x8").

    Raises:
        ValueError: if the GPUs do not fill whole nodes, or XLA has no description of the machine.
    """
    if machine.target:
        node = min(devices, machine.neighbours)
        if devices % node:
            raise ValueError(f"{devices} GPUs do not fill whole nodes of {node}. Choose a multiple of {node}.")
        return f"1x{devices // node}x{node}"
    if not machine.topology:
        known = ", ".join(name for name, other in MACHINES.items() if other.topology or other.target)
        raise ValueError(f"XLA has no description of this machine to compile for. Valid for --machine: {known}.")
    sides = []
    rest = devices
    for left in range(machine.torus, 0, -1):
        side = max(side for side in range(1, round(rest ** (1 / left)) + 1) if rest % side == 0)
        sides.append(side)
        rest //= side
    sides.sort(key=lambda side: (side == 1, side))
    return f"{machine.topology}:{'x'.join(map(str, sides))}"
