"""Shows with JAX's profiler which parts of DiT-XL/2's train step take time on a GPU: products, attention, update, ...

    python -m benchmarks.gpu.profile --out=profile.json

The step is that of the stage `train_xl`. Kernels of libraries are recognised by their names. A kernel of XLA has the
name of an instruction in the compiled program, whose metadata has the line of the program that it comes from.
"""

import collections
import json
import pathlib
import re
import tempfile
from collections.abc import Iterable

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    OUT = flags.DEFINE_string("out", None, "file for the rows, as JSON", required=True)
    TINY = flags.DEFINE_bool("tiny", False, "use a small network, for a rehearsal")
    TOP = flags.DEFINE_integer("top", 30, "number of slowest kernels to list", 0)
    command_line.begin()

import jax
from jax.profiler import ProfileData

from benchmarks import rows
from benchmarks.gpu import cases, plan

LIBRARIES = {"products": r"nvjet|gemm|cutlass|cublas", "attention": r"sdpa|fmha|flash|cudnn"}  # patterns of names
INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*op_name="([^"]*)"', re.MULTILINE)


def part_of(kernel: str, op_names: dict[str, str]) -> tuple[str, str]:
    """(the part of the step that a kernel belongs to, the operation of the program that it comes from, or "").

    Args:
        kernel: the name of the kernel.
        op_names: {instruction of the compiled program, with "_" for ".": the op_name of its metadata}.
    """
    line = op_names.get(kernel.replace(".", "_"), "")
    for part, pattern in LIBRARIES.items():
        if re.search(pattern, kernel):
            return part, line
    if not line:
        return "others", line
    if re.search(r"/(concatenate|slice)$", line):  # the layers' arrays are stacked, or taken from a stack
        return "gradients and parameters of layers, joined and cut", line
    return ("passes of the network" if "jvp(" in line else "update and norms of the gradient"), line


def op_names_of(text: str) -> dict[str, str]:
    """{instruction with "_" for ".": op_name} of the text of a compiled program."""
    return {name.replace(".", "_"): op_name for name, op_name in INSTRUCTION.findall(text)}


def kernels(folder: pathlib.Path) -> Iterable[tuple[str, float]]:
    """(name, seconds) of each kernel that ran on a device, from the files of a profile."""
    for path in folder.rglob("*.xplane.pb"):
        for plane in ProfileData.from_file(str(path)).planes:
            if not plane.name.startswith("/device:"):
                continue
            for line in plane.lines:
                if line.name.startswith("Stream"):
                    yield from ((event.name, event.duration_ns / 1e9) for event in line.events)


def slowest(seconds: dict[str, float]) -> list[tuple[str, float]]:
    """The entries of a table of seconds, the largest first."""
    return sorted(seconds.items(), key=lambda entry: -entry[1])


def main(argv: list[str]) -> None:
    """Compiles, runs and profiles; prints the slowest kernels, and writes a row for each part."""
    spec = plan.measurements()["train_xl"].cases["ours"]
    spec = plan.tiny(spec) if TINY.value else spec
    compiled = lambda case: case._replace(program=cases.lowered(case).compile())
    case, step, _ = cases.first_that_works(spec, jax.devices()[0], compiled)
    turn = cases.turn(step)
    turn()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            turn()
        ran = list(kernels(pathlib.Path(folder)))
    op_names = op_names_of(step.program.as_text())
    total: dict[str, float] = collections.defaultdict(float)
    parts: dict[str, float] = collections.defaultdict(float)
    number = collections.Counter(kernel for kernel, _ in ran)
    for kernel, seconds in ran:
        total[kernel] += seconds / case.count
        parts[part_of(kernel, op_names)[0]] += seconds / case.count
    for kernel, seconds in slowest(total)[: TOP.value]:
        part, line = part_of(kernel, op_names)
        print(
            f"{1e3 * seconds:.3f} ms, {number[kernel] / case.count:g} times: {kernel[:80]}: {part} {line}", flush=True
        )
    what = f"DiT-{spec['model']}, batch {spec['batch']}, train step: "
    lines = [rows.Row(what + part, "ms", False, (1e3 * seconds,)) for part, seconds in slowest(parts)]
    title = f"profile, {jax.devices()[0].device_kind}"
    pathlib.Path(OUT.value).write_text(json.dumps({"title": title, "rows": [row._asdict() for row in lines]}))


if __name__ == "__main__":
    command_line.run(main)
