"""The costs in a compiled program, each with the lines of Python that it comes from.

Entries of the same kind, type and place are merged: their bytes, operations and times are summed.
"""

import collections
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from diffusion.experiments.planning.compiled.communication import collectives
from diffusion.experiments.planning.compiled.hlo import Array, Instruction, Module, loop_parts, turns
from diffusion.experiments.planning.compiled.kernels import FREE, Kernel, size, updated
from diffusion.experiments.planning.compiled.tensor_products import product, products_of, target

LARGE = 1_000_000  # bytes of a result from which a copy is listed
TENSOR_CORES = {"bf16", "f16"}  # products of these, and of eight bits, run at the full rate of the matrix units
FUSED_ATTENTION = re.compile(
    r"__cudnn\$fmha\w*|\w*(?:splash|flash|ring)_?\w*attention\w*|\w*splash_mha\w*|attention_tangent", re.I
)
ATTENTION = "diffusion/models/layers/attention.py"
SHOWN = 3  # lines of Python of an entry: the innermost of this repository and their callers
MOVES = {  # operations that only move values, by their name here; a kernel with several has the first one's name
    "transpose": "transpose",
    "dynamic-update-slice": "row into a stack",
    "dynamic-slice": "row of a stack",
    "concatenate": "concatenation",
    "pad": "padding",
    "reverse": "reverse",
    "slice": "slice",
    "slice-start": "slice",
    "copy": "copy",
    "copy-start": "copy",
    "broadcast": "fill",
    "convert": "cast",
}
UNSEEN = {"bitcast", "reshape", "iota", "compare", "select"}  # operations on indices and masks that accompany a move


class Place(NamedTuple):
    """The origin of an entry: lines of Python, and functions.

    Attributes:
        lines: "FILE:LINE" in this repository, or else anywhere, innermost first.
        path: the functions and modules that it comes from, without what JAX adds.
    """

    lines: tuple[str, ...]
    path: str


def place(module: Module, instruction: Instruction, root: pathlib.Path) -> Place:
    """The origin of an instruction.

    Args:
        module: the program.
        instruction: an instruction of the program.
        root: folder of the repository.
    """
    path = re.sub(r"^jit\(\w+\)/|while/body/|closed_call/", "", instruction.path)
    return Place(tuple(lines_inside(module, instruction, root)[:SHOWN] or module.lines(instruction)[:1]), path)


def lines_inside(module: Module, instruction: Instruction, root: pathlib.Path) -> list[str]:
    """The lines of this repository that an instruction comes from, "FILE:LINE" relative to root, innermost first."""
    inside = lambda line: line.startswith(f"{root}/") and "/site-packages/" not in line  # an environment may lie there
    return [line.removeprefix(f"{root}/") for line in module.lines(instruction) if inside(line)]


def products(module: Module, kernels: Iterable[Kernel], root: pathlib.Path) -> list[dict[str, Any]]:
    """The matrix products: [{"kinds", "precision", "flops", "times", "lines", "path"}], the largest first."""
    entries = []
    for kernel in kernels:
        for instruction, computation in kernel.inside:
            if multiplied := product(instruction, computation):
                entry = {
                    "kinds": multiplied.kinds,
                    "precision": multiplied.precision,
                    **_where(module, instruction, root),
                }
                entries.append((entry, {"flops": multiplied.flops * kernel.times, "times": kernel.times}))
    return _summed(entries, "flops")


def outside_tensor_cores(products: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The products that are not in bfloat16, float16 or eight bits."""
    return [entry for entry in products if not all(_is_short(kind) for kind in entry["kinds"])]


def _is_short(kind: str) -> bool:
    return kind in TENSOR_CORES or kind in ("s8", "u8") or kind.startswith("f8")


def copies(module: Module, kernels: Iterable[Kernel], root: pathlib.Path) -> list[dict[str, Any]]:
    """The kernels that only move data, and transposes inside other kernels, of more than a megabyte each.

    Returns:
        [{"kind": a value of `MOVES`, or "transpose, fused", "type": the result's type, "bytes": how much is moved in
        all, "times", "lines", "path"}], the largest first.
    """
    entries = []
    for kernel in kernels:
        kind = movement(kernel)
        moved = max(kernel.instruction.results, key=lambda array: array.bytes, default=None)
        if kind and moved and moved.bytes > LARGE and kernel.bytes > LARGE:
            source = _source(module, kernel)
            entry = {"kind": kind, "type": _type(moved), **_where(module, source, root)}
            entries.append((entry, {"bytes": kernel.bytes * kernel.times, "times": kernel.times}))
    return _summed(entries, "bytes")


def movement(kernel: Kernel) -> str:
    """The kind of move of a kernel, a value of `MOVES`; "" if it computes, "transpose, fused" if it also transposes."""
    operations = {
        instruction.operation
        for instruction, _ in kernel.inside
        if instruction.operation not in FREE and any(array.sizes for array in instruction.results)
    }
    moves = [name for name in MOVES if name in operations]
    if moves and operations <= MOVES.keys() | UNSEEN:
        reads = any(array.sizes for arrays in kernel.computation.operands(kernel.instruction) for array in arrays)
        return MOVES[moves[0]] if reads else "fill"
    transposes = [instruction for instruction, _ in kernel.inside if instruction.operation == "transpose"]
    large = any(size(instruction.results) > LARGE for instruction in transposes)
    if large and not products_of(kernel):
        return "transpose, fused"
    return ""


def _source(module: Module, kernel: Kernel) -> Instruction:
    """The instruction that says what a kernel moves: the one that makes a row of a stack, or the kernel's own."""
    for instruction, computation in kernel.inside:
        if name := updated(instruction):
            source = _through(computation.instructions, name)
            if source.operation == "parameter" and computation is not kernel.computation:
                operand = kernel.instruction.operands[int(source.argument)]
                source = _through(kernel.computation.instructions, operand)
            return source if module.lines(source) else kernel.instruction
    return kernel.instruction


def _through(instructions: Mapping[str, Instruction], name: str) -> Instruction:
    """The instruction behind a chain of names, copies and casts."""
    origin = instructions[name]
    while origin.operation in ("bitcast", "convert", "copy", "get-tuple-element", "reshape") and origin.operands:
        origin = instructions[origin.operands[0]]
    return origin


def slowest(
    module: Module, kernels: Iterable[Kernel], seconds: Callable[[Kernel], float], root: pathlib.Path
) -> list[dict[str, Any]]:
    """The kernels by the time that they take: {"kernel", "seconds", "bytes", "flops", "times", "lines", "path"}.

    Args:
        module: the program.
        kernels: the kernels of the program.
        seconds: a function kernel -> the seconds of all its runs, see `roofline.resources`.
        root: folder of the repository.
    """
    entries = []
    for kernel in kernels:
        flops = sum(multiplied.flops for multiplied in products_of(kernel))
        entry = {
            "kernel": re.sub(r"[.\d]+$", "", kernel.instruction.name),
            **_where(module, _source(module, kernel), root),
        }
        sums = {"bytes": kernel.bytes, "flops": flops, "times": 1}
        entries.append(
            (entry, {"seconds": seconds(kernel)} | {name: kernel.times * value for name, value in sums.items()})
        )
    return _summed(entries, "seconds")


def fused_attention(module: Module, kernels: Sequence[Kernel], root: pathlib.Path) -> dict[str, Any]:
    """How attention is computed.

    Returns:
        {"fused": {kernel of a library: how often it runs}, "products": the entries of `products` that belong to
        attention outside such kernels}.
    """
    fused = collections.Counter()
    rest = []
    for kernel in kernels:
        called = target(kernel.instruction)
        named = FUSED_ATTENTION.search(f"{called} {kernel.instruction.path} {kernel.instruction.name}")
        if called and named:
            fused[called if called.startswith("__cudnn") else named.group()] += kernel.times
        else:
            rest.append(kernel)
    unfused = [
        entry for entry in products(module, rest, root) if any(line.startswith(ATTENTION) for line in entry["lines"])
    ]
    return {"fused": dict(fused), "products": unfused}


def recomputed(module: Module, kernels: Iterable[Kernel], root: pathlib.Path) -> list[dict[str, Any]]:
    """The computations that are repeated, by `jax.checkpoint` ("remat") or by XLA because memory is short ("XLA").

    Returns:
        [{"by", "flops": the FLOPs of its products, "bytes", "times", "lines", "path"}] for the kernels of a megabyte or
        more, the most bytes first.
    """
    entries = []
    for kernel in kernels:
        renamed = re.search(r"\.remat\d*", kernel.instruction.name)
        if kernel.bytes < LARGE or (not renamed and "rematted_computation" not in kernel.instruction.path):
            continue
        flops = sum(multiplied.flops for multiplied in products_of(kernel))
        entry = {"by": "XLA" if renamed else "remat", **_where(module, kernel.instruction, root)}
        sums = {"flops": flops, "bytes": kernel.bytes, "times": 1}
        entries.append((entry, {name: kernel.times * value for name, value in sums.items()}))
    return _summed(entries, "bytes")


def stacks(module: Module, kernels: Iterable[Kernel], root: pathlib.Path) -> list[dict[str, Any]]:
    """The arrays that loops fill, one row in each iteration: values for the backward pass, and gradients.

    Returns:
        [{"type", "bytes": the size of the whole stack, "times": how many such stacks, "lines", "path"}], the largest
        first.
    """
    by_name = {kernel.instruction.name: kernel for kernel in kernels}
    entries = []
    for computation in module.computations.values():
        for loop in (
            instruction for instruction in computation.instructions.values() if instruction.operation == "while"
        ):
            body = module.computations[loop_parts(loop)[1]]
            root_of_body = body.instructions[body.root]
            for array, name in zip(root_of_body.results, root_of_body.operands, strict=False):
                update = body.instructions[name]
                kernel = by_name.get(name)
                if update.operation == "get-tuple-element" and update.operands[0] in by_name:  # one of several results
                    kernel = by_name[update.operands[0]]
                if kernel and array.bytes > LARGE and array.sizes[0] == turns(module, loop):
                    source = _source(module, kernel)
                    entry = {"type": _type(array), **_where(module, source, root)}
                    entries.append((entry, {"bytes": array.bytes, "times": 1}))
    return _summed(entries, "bytes")


def communication(module: Module, kernels: Iterable[Kernel], devices: int, root: pathlib.Path) -> list[dict[str, Any]]:
    """The collectives: [{"kind", "types", "group", "overlapped", "bytes" sent by a device, "times", "lines", ..}]."""
    entries = []
    for collective in collectives(kernels, devices):
        entry = {
            "kind": collective.kind,
            "types": collective.types,
            "group": collective.group,
            "overlapped": collective.overlapped,
        }
        entry |= _where(module, collective.instruction, root)
        entries.append((entry, {"bytes": collective.bytes * collective.times, "times": collective.times}))
    return _summed(entries, "bytes")


def _type(array: Array) -> str:
    return f"{array.kind}[{','.join(map(str, array.sizes))}]"


def _where(module: Module, instruction: Instruction, root: pathlib.Path) -> dict[str, Any]:
    return place(module, instruction, root)._asdict()


def _summed(entries: Iterable[tuple[dict[str, Any], dict[str, float]]], by: str) -> list[dict[str, Any]]:
    """Entries with the sums over the entries that are equal, the largest first."""
    sums: dict[str, tuple[dict[str, Any], collections.Counter]] = {}
    for entry, values in entries:
        _, total = sums.setdefault(repr(entry), (entry, collections.Counter()))
        total.update(values)
    return sorted((entry | dict(total) for entry, total in sums.values()), key=lambda entry: -entry[by])
