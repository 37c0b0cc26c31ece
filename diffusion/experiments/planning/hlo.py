"""What a compiled program's text says of its collectives: kinds, sizes, and how often each is run."""

import collections
import math
import re
from collections.abc import Mapping

from diffusion.models.budget.collectives import sent

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all)(-start)?\(")
ARRAY = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")
LOOP = re.compile(r"\bwhile\(.*?condition=%?([\w.\-]+), body=%?([\w.\-]+)")
CALLED = re.compile(r"\b(?:calls|to_apply|called_computations=\{)=?%?([\w.\-]+)")


def collective_bytes(text: str, devices: int) -> dict[str, float]:
    """Returns the bytes that each device sends in one run of a program, {kind of collective: bytes}.

    A loop's body counts as often as its condition's constant says. An all-reduce whose result is sliced within the
    same fusion, as XLA for TPU writes a reduce-scatter, counts as a reduce-scatter.

    Args:
        text: of a compiled program, `compiled.as_text()`.
        devices: of the whole program: the group of a collective that names none.
    """
    computations, entry = _computations(text)
    times = _times(computations, entry)
    sent_by_kind = collections.Counter()
    for name, lines in computations.items():
        for line in lines:
            match = COLLECTIVE.search(line)
            if not match or not times[name]:
                continue
            kind = match.group(2)
            group = _group(line, devices)
            arrays = [_bytes(*array) for array in ARRAY.findall(match.group(1))]
            size = sum(arrays)
            if match.group(3):  # asynchronous: the operands stand before the results
                size = size / 2 if kind == "all-reduce" else max(arrays, default=0)
            if kind == "reduce-scatter":
                size *= group  # the result is a part
            if kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            if group > 1:
                sent_by_kind[kind] += times[name] * sent(kind, size, group)
    return dict(sent_by_kind)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by name, and the name of the one where the program begins."""
    computations: dict[str, list[str]] = {}
    entry = ""
    name = ""
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            name = match.group(1)
            computations[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            computations[name].append(line)
    return computations, entry


def _times(computations: Mapping[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation is run."""
    times = collections.Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for line in computations.get(name, ()):
            if loop := LOOP.search(line):
                visit(loop.group(2), count * _turns(line, computations.get(loop.group(1), ())))
            elif not COLLECTIVE.search(line):
                for called in CALLED.findall(line):
                    visit(called, count)

    visit(entry, 1)
    return times


def _turns(line: str, condition: list[str]) -> int:
    """How often a loop turns, by what XLA knows of it, else by the constant that its counter is compared with."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', line):
        return int(known.group(1))
    constants = [int(n) for text in condition for n in re.findall(r"s32\[\]\S* constant\((\d+)\)", text)]
    return max(constants, default=1)


def _group(line: str, devices: int) -> int:
    """The number of devices of a collective's group, in any of the three ways in which XLA writes it."""
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(match.group(1))
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match.group(1).count(",") + 1
    if match := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match.group(1))}
        group = 1
        for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match.group(2)):
            group *= int(part) if part else sizes[name]
        return group
    return devices


def _bytes(kind: str, dimensions: str) -> int:
    """The bytes of an array: "pred" takes one an element, other kinds say their bits, as "bf16" and "s32" do."""
    width = 1 if kind == "pred" else int(re.search(r"\d+", kind)[0]) // 8
    return width * math.prod(int(dimension) for dimension in dimensions.split(",") if dimension)
