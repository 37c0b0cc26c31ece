"""The collectives of a compiled program: kinds, types, sizes, groups, and how often each runs."""

import collections
import re
from collections.abc import Iterable
from typing import NamedTuple

from diffusion.experiments.planning.compiled import kernels as launches
from diffusion.experiments.planning.compiled.hlo import Computation, Instruction, parse
from diffusion.models.budget.collectives import sent

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """A collective.

    Attributes:
        kind: the collective's kind, one of `KINDS`.
        types: the types of the arrays, "bf16" or "f32" ...
        bytes: how much each device sends in one run of it.
        group: number of devices that take part in it together.
        times: how often it runs in one run of the program.
        overlapped: whether kernels that do not wait for it run between its start and its end.
        instruction: the instruction of the program that starts it.
    """

    kind: str
    types: tuple[str, ...]
    bytes: float
    group: int
    times: int
    overlapped: bool
    instruction: Instruction


def collective_bytes(text: str, devices: int) -> dict[str, float]:
    """Returns the bytes that each device sends in one run of a program, {kind of collective: bytes}.

    Args:
        text: the text of a compiled program, `compiled.as_text()`.
        devices: the number of devices of the whole program: the group of a collective that names none.
    """
    sent_by_kind: dict[str, float] = collections.defaultdict(float)
    for collective in collectives(launches.kernels(parse(text)), devices):
        sent_by_kind[collective.kind] += collective.times * collective.bytes
    return dict(sent_by_kind)


def collectives(kernels: Iterable[launches.Kernel], devices: int) -> list[Collective]:
    """The collectives of a program, without those in groups of one device.

    An all-reduce whose result is sliced within the same fusion, as XLA for TPU writes a reduce-scatter, counts as a
    reduce-scatter.

    Args:
        kernels: the kernels of the program.
        devices: the number of devices of the whole program: the group of a collective that names none.
    """
    program_collectives = []
    for kernel in kernels:
        for instruction, computation in kernel.inside:
            kind = instruction.operation.removesuffix("-start")
            group = _group(instruction.attributes, devices)
            if kind not in KINDS or group == 1:
                continue
            size = _size(instruction, kind, group)
            if kind == "all-reduce" and "all-reduce-scatter" in computation.name:
                kind = "reduce-scatter"
            sent_bytes = size if kind == "collective-permute" else sent(kind, size, group)
            types = tuple(sorted({array.kind for array in instruction.results if array.sizes}))
            overlapped = _overlapped(kernel.instruction, kernel.computation)
            program_collectives.append(
                Collective(kind, types, sent_bytes, group, kernel.times, overlapped, instruction)
            )
    return program_collectives


def _size(instruction: Instruction, kind: str, group: int) -> int:
    """The bytes of the whole array that a collective makes or takes, as `sent` counts them."""
    results = instruction.results
    if instruction.operation.endswith("-start"):  # some name their operands before their results, and contexts after
        results = tuple(array for array in results if array.sizes or array.kind != "u32")
        results = results[len(instruction.operands) :] or results
    array_bytes = sum(array.bytes for array in results)
    return array_bytes * group if kind == "reduce-scatter" else array_bytes  # the result is a part


def _overlapped(start: Instruction, computation: Computation) -> bool:
    """Whether any kernel stands between the start of an asynchronous operation and its end."""
    if not start.operation.endswith("-start"):
        return False
    names = list(computation.instructions)
    for name in names[names.index(start.name) + 1 :]:
        instruction = computation.instructions[name]
        if instruction.operation.endswith("-done") and start.name in instruction.operands:
            return False
        if not launches.is_free(instruction) and not instruction.operation.endswith("-start"):
            return True
    return False


def _group(attributes: str, devices: int) -> int:
    """The number of devices of a collective's group, in any of the ways in which XLA writes it."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(match.group(1))
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return match.group(1).count(",") + 1
    if match := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(.*?\))? \{(.*?)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match.group(1))}
        group = 1
        for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match.group(2)):
            group *= int(part) if part else sizes[name]
        return group
    if match := re.search(r"replica_groups=(?!\{\})\S+", attributes):
        raise ValueError(f"{match.group()} states the devices of a group in a form that this parser does not know.")
    return devices
