"""The kernels of a compiled program as a device runs them: how often each runs, and the bytes that it moves."""

from collections.abc import Iterator
from typing import NamedTuple

from diffusion.experiments.planning.compiled.hlo import Array, Computation, Instruction, Module, loop_parts, turns

# Operations that launch no kernel, as they only name, group or wait for the results of others.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency", "domain",
        "optimization-barrier", "partition-id", "replica-id"}  # fmt: skip
NO_CALLS = ('custom_call_target="AllocateBuffer"',)  # calls that compute nothing
EXPANDED = {"call", "conditional", "async-start", "call-start"}  # operations that run the kernels of a computation


class Kernel(NamedTuple):
    """The work of one launch on a device.

    Attributes:
        instruction: a fusion, a call of a library, a collective, or a single operation.
        computation: the computation that holds the instruction.
        inside: (instruction, its computation) for everything that it computes; itself, unless it is a fusion.
        times: how often it runs in one run of the program.
        bytes: how much one run reads from and writes to the device's memory, if no cache helps.
    """

    instruction: Instruction
    computation: Computation
    inside: tuple[tuple[Instruction, Computation], ...]
    times: int
    bytes: int


def kernels(module: Module) -> list[Kernel]:
    """The kernels in the order of the text. Those of a loop run in each iteration, those of each branch once.

    Each operand is read once, and each result written once. If a kernel slices or gathers from an operand, only the
    slice counts. If it updates an array in its place, only the update counts.
    """
    return [
        Kernel(
            instruction, computation, tuple(_inside(module, instruction, computation)), times,
            _bytes(module, instruction, computation),
        )
        for instruction, computation, times in _executed(module, module.entry, 1)
    ]  # fmt: skip


def _executed(module: Module, name: str, times: int) -> Iterator[tuple[Instruction, Computation, int]]:
    """The instructions of a computation that launch a kernel, and how often each runs; loops and calls are expanded."""
    computation = module.computations[name]
    for instruction in computation.instructions.values():
        if instruction.operation == "while":
            yield from _executed(module, loop_parts(instruction)[1], times * turns(module, instruction))
        elif instruction.operation in EXPANDED:
            for called in instruction.called:
                yield from _executed(module, called, times)
        elif not is_free(instruction):
            yield instruction, computation, times


def is_free(instruction: Instruction) -> bool:
    """Whether an instruction launches no kernel of its own."""
    if instruction.operation in FREE or instruction.operation.endswith(("-done", "-update")):
        return True
    return any(call in instruction.attributes for call in NO_CALLS)


def _inside(
    module: Module, instruction: Instruction, computation: Computation
) -> Iterator[tuple[Instruction, Computation]]:
    if instruction.operation != "fusion":
        yield instruction, computation
        return
    fused = module.computations[instruction.called[0]]
    for inner in fused.instructions.values():
        yield from _inside(module, inner, fused)


def _bytes(module: Module, instruction: Instruction, computation: Computation) -> int:
    """The bytes that one run of an instruction reads and writes."""
    operands = computation.operands(instruction)
    if instruction.operation == "fusion":
        fused = module.computations[instruction.called[0]]
        parts = [_read_by(module, fused, number, size(arrays)) for number, arrays in enumerate(operands)]
        return _once(instruction, parts) + _written(module, fused, fused.root)
    read = _once(instruction, [_part(instruction, number, size(arrays)) for number, arrays in enumerate(operands)])
    if instruction.operation == "copy-start":  # the copy, what is copied, and a context
        return read + size(instruction.results[:1])
    if instruction.operation.endswith("-start"):  # an asynchronous operation: what it reads, and then what it makes
        results = instruction.results[sum(len(arrays) for arrays in operands) :]
        return read + size(results or instruction.results)
    return read + _written(module, computation, instruction.name)


def _once(instruction: Instruction, parts: list[int]) -> int:
    """The sum of the bytes that are read of operands; an operand that stands in several places is read once."""
    by_name: dict[str, int] = {}
    for name, part in zip(instruction.operands, parts, strict=False):
        by_name[name] = max(part, by_name.get(name, 0))
    return sum(by_name.values())


def size(arrays: tuple[Array, ...]) -> int:
    """The bytes of the arrays that lie in the device's memory."""
    return sum(array.bytes for array in arrays if array.space == 0)


def _part(user: Instruction, number: int, operand_bytes: int) -> int:
    """The bytes that an instruction reads of its operand of this number."""
    if number == 0 and user.operation in ("slice", "dynamic-slice", "gather"):
        return min(operand_bytes, sum(array.bytes for array in user.results))
    if number == 0 and user.operation in ("dynamic-update-slice", "scatter"):
        return 0
    return operand_bytes


def _read_by(module: Module, fused: Computation, number: int, operand_bytes: int) -> int:
    """The bytes that a fusion reads of its operand of this number."""
    parameters = (instruction for instruction in fused.instructions.values() if instruction.operation == "parameter")
    names = [instruction.name for instruction in parameters if instruction.argument == str(number)]
    total = 0
    while names:
        name = names.pop()
        total += operand_bytes if name == fused.root else 0
        for user in fused.users(name):
            for place in (place for place, operand in enumerate(user.operands) if operand == name):
                if user.operation == "bitcast":
                    names.append(user.name)
                elif user.operation == "fusion":
                    total += _read_by(module, module.computations[user.called[0]], place, operand_bytes)
                else:
                    total += _part(user, place, operand_bytes)
    return min(total, operand_bytes)


def _written(module: Module, computation: Computation, name: str) -> int:
    """The bytes that an instruction writes, or the parts of a tuple."""
    instruction = computation.instructions[name]
    result_bytes = size(instruction.results)
    if instruction.operation == "tuple":
        return sum(_written(module, computation, operand) for operand in instruction.operands)
    if instruction.operation == "bitcast":
        return min(result_bytes, _written(module, computation, instruction.operands[0]))
    if instruction.operation == "fusion":
        fused = module.computations[instruction.called[0]]
        return _written(module, fused, fused.root)
    if update := updated(instruction):
        return min(result_bytes, sum(array.bytes for array in computation.instructions[update].results))
    return result_bytes


def updated(instruction: Instruction) -> str:
    """The name of what an instruction writes into a part of another array, in its place; "" for other instructions."""
    places = {"dynamic-update-slice": 1, "scatter": -1}
    return instruction.operands[places[instruction.operation]] if instruction.operation in places else ""
