"""The text of a compiled program, `compiled.as_text()`: its instructions, and the lines of Python that they come from.

module = hlo.parse(compiled.as_text())
for instruction in module.computations[module.entry].instructions.values():
    print(instruction.operation, instruction.results, module.lines(instruction))
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
ARRAY = re.compile(r"\b(pred|[a-z]+\d\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(
    r"\b(?:calls|to_apply|called_computations|branch_computations|(?:true|false)_computation)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
LOOP = re.compile(r"\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
ROW = re.compile(r"^(\d+) (.*)$")


class Array(NamedTuple):
    """The type of an array.

    Attributes:
        kind: "bf16", "f32", "pred" ...
        sizes: the size of each axis.
        space: the memory that XLA puts it in: 0 for the device's, 1 for a TPU's scratch memory beside its cores.
    """

    kind: str
    sizes: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        """Its size in bytes; "pred" takes one for each element, other kinds have their bits in their name."""
        bits = 8 if self.kind == "pred" else int("".join(re.findall(r"\d+", self.kind)[:1]))
        return math.ceil(self.elements * bits / 8)


class Instruction(NamedTuple):
    """One instruction of a computation.

    Attributes:
        name: the instruction's name without "%".
        operation: "dot", "fusion", "all-gather-start" ...
        results: the arrays that it makes; the members of a tuple in their order, nested tuples flattened.
        operands: names of instructions of the same computation.
        argument: the text between the parentheses, e.g. the number of a parameter.
        attributes: the text after the parentheses.
    """

    name: str
    operation: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    argument: str
    attributes: str

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls, except those of a loop."""
        groups = (several or one for several, one in CALLED.findall(self.attributes))
        return tuple(name.strip("% ") for group in groups for name in group.split(","))

    @property
    def path(self) -> str:
        """The functions and modules that it comes from, "jit(step)/jvp(DiT)/blocks/mlp/out/dot_general"."""
        name = re.search(r'op_name="([^"]*)"', self.attributes)
        return name.group(1).replace("\\'", "'") if name else ""


class Computation(NamedTuple):
    """A computation: its instructions by name, in the order in which they run, and the name of its result."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> list[tuple[Array, ...]]:
        """The operands of one of its instructions."""
        return [self.instructions[name].results for name in instruction.operands if name in self.instructions]

    def users(self, name: str) -> list[Instruction]:
        """The instructions that read one of its instructions."""
        return [instruction for instruction in self.instructions.values() if name in instruction.operands]


class Module(NamedTuple):
    """A program.

    Attributes:
        computations: the program's computations by name.
        entry: the name of the computation where it begins.
        frames: {number: "FILE:LINE" of the call, and of its callers, innermost first}.
    """

    computations: Mapping[str, Computation]
    entry: str
    frames: Mapping[int, tuple[str, ...]]

    def lines(self, instruction: Instruction) -> tuple[str, ...]:
        """The lines of Python that an instruction comes from, "FILE:LINE", innermost first; () if XLA does not say."""
        if match := re.search(r"stack_frame_id=(\d+)", instruction.attributes):
            return self.frames.get(int(match.group(1)), ())
        match = re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.attributes)
        return (f"{match.group(1)}:{match.group(2)}",) if match else ()


def parse(text: str) -> Module:
    """Reads the text of a compiled program.

    Raises:
        ValueError: if it has no computation where it begins.
    """
    computations: dict[str, Computation] = {}
    tables: dict[str, dict[int, str]] = {}
    table: dict[int, str] = {}
    entry = ""
    current: Computation | None = None
    for line in text.splitlines():
        if match := COMPUTATION.match(line):
            current = Computation(match.group(2), {}, "")
            computations[current.name] = current
            entry = current.name if match.group(1) else entry
        elif current and (match := INSTRUCTION.match(line)):
            instruction = _instruction(match.group(1), line[match.end() :])
            current.instructions[instruction.name] = instruction
            if line.lstrip().startswith("ROOT "):
                current = current._replace(root=instruction.name)
                computations[current.name] = current
        elif not computations and (row := ROW.match(line)):
            table[int(row.group(1))] = row.group(2)
        elif not computations and re.fullmatch(r"[A-Z][A-Za-z]+", line):
            table = tables.setdefault(line, {})
    if not entry:
        raise ValueError("this is not the text of a compiled program: no line begins with ENTRY")
    return Module(computations, entry, _frames(tables))


def _instruction(name: str, text: str) -> Instruction:
    """Reads an instruction from the text after "NAME = "."""
    end = _closed(text) if text.startswith("(") else text.index(" ")
    results = tuple(_array(*parts) for parts in ARRAY.findall(text[:end]))
    rest = text[end:].lstrip()
    operation, _, rest = rest.partition("(")
    end = _closed("(" + rest) - 1
    argument = rest[: end - 1]
    return Instruction(name, operation, results, tuple(NAME.findall(argument)), argument, rest[end:])


def _closed(text: str) -> int:
    """The index after the parenthesis that closes the first one."""
    depth = 0
    for place in re.finditer(r"[()]", text):
        depth += 1 if place.group() == "(" else -1
        if depth == 0:
            return place.end()
    return len(text)


def _array(kind: str, sizes: str, layout: str) -> Array:
    space = re.search(r"S\((\d+)\)", layout)
    lengths = tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size)
    return Array(kind, lengths, int(space.group(1)) if space else 0)


def _frames(tables: Mapping[str, Mapping[int, str]]) -> dict[int, tuple[str, ...]]:
    """{number of a frame: its lines}. XLA writes the number of a frame's parent plus one, 1 for none."""
    number = lambda key, row: int(match.group(1)) if (match := re.search(rf"\b{key}=(\d+)", row)) else 0
    files = tables.get("FileNames", {})
    lines = {
        key: f"{files[number('file_name_id', row)].strip(chr(34))}:{number('line', row)}"
        for key, row in tables.get("FileLocations", {}).items()
    }
    frames: dict[int, tuple[str, ...]] = {}
    for key, row in sorted(tables.get("StackFrames", {}).items()):  # parents come first
        callers = frames.get(number("parent_frame_id", row) - 1, ())
        line = lines[number("file_location_id", row)]
        frames[key] = callers if callers[:1] == (line,) else (line, *callers)
    return frames


def turns(module: Module, loop: Instruction) -> int:
    """The number of iterations of a loop.

    It is XLA's own count, or the constant that the loop's counter is compared with, divided by the counter's step. In a
    loop of products and collectives, XLA for TPU counts in unsigned integers, often in steps of two.
    """
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known.group(1))
    condition, body = (module.computations[name] for name in loop_parts(loop))
    limits = [
        int(instruction.argument)
        for instruction in condition.instructions.values()
        if instruction.operation == "constant" and instruction.results in ((Array("s32", ()),), (Array("u32", ()),))
    ]
    return math.ceil(max(limits, default=1) / _step(condition, body))


def _step(condition: Computation, body: Computation) -> int:
    """The increment of the counter in the loop's condition; 1 if it is not written beside it."""
    for name in condition.instructions[condition.root].operands:
        counter = condition.instructions.get(name)
        if counter and (place := re.search(r"\bindex=(\d+)", counter.attributes)):
            following = body.instructions[body.instructions[body.root].operands[int(place.group(1))]]
            added = [body.instructions[operand] for operand in following.operands if following.operation == "add"]
            return next((int(number.argument) for number in added if number.operation == "constant"), 1)
    return 1


def loop_parts(loop: Instruction) -> tuple[str, str]:
    """Names of a loop's condition and body."""
    condition, body = LOOP.findall(loop.attributes)[0]
    return condition, body
