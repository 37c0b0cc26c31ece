"""Compiles one case, and writes its row as JSON; `python -m benchmarks.programs` starts this command for each case.

JAX_PLATFORMS=cpu python -m benchmarks.programs.compile --case=train_dit_xl2@h100 --out=runs/xl2.json
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("case", None, "PROGRAM@DEVICES, see benchmarks/programs/cases.py", required=True)
    flags.DEFINE_string("out", None, "file for the row, as JSON", required=True)
    flags.DEFINE_string("text", "", "file for the text of the compiled program; by default none is written")
    command_line.begin()

import json
import pathlib
import time
from typing import Any

import jax

from benchmarks.programs import cases, source_code
from benchmarks.programs.table import PROGRAMS
from diffusion.experiments.planning.compiled import analysis

# Without a device to time tiles, XLA finds no tile sizes for some products whose sizes have large odd factors.
UNTILED = "Couldn't find output tile sizes"


def compiled(case: str) -> tuple[dict[str, Any], str]:
    """(the row of a case, the text of its program).

    Raises:
        jax.errors.JaxRuntimeError: if XLA refuses the program; its first line is the reason.
    """
    jax.config.update("jax_enable_compilation_cache", False)  # a cached program names lines of an earlier source
    began = time.perf_counter()
    program, devices = cases.traced(case, PROGRAMS)
    traced = time.perf_counter()
    executable, products = finished(program.lowered)
    ended = time.perf_counter()
    text = executable.as_text()
    analysed = analysis.analyse(text, devices.sheet, devices.number, program.flops)
    memory = analysis.memory(executable)
    description = {"case": case, "machine": devices.machine, "devices": devices.number, "batch": program.batch}
    seconds = {"trace": traced - began, "compile": ended - traced}
    definitions = source_code.definitions(text, analysis.ROOT)
    fits = memory["peak"] <= devices.sheet.memory
    return {
        **description,
        "jax": jax.__version__,
        "products_run": products,
        "seconds": seconds,
        "memory": memory,
        "fits": fits,
        "code": {"definitions": definitions, "digest": source_code.digest(definitions, analysis.ROOT)},
        **analysed,
    }, text


def finished(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, str]:
    """(the program as XLA compiles it, "as XLA chooses" its products or "by cuBLAS")."""
    try:
        return lowered.compile(), "as XLA chooses"
    except jax.errors.JaxRuntimeError as error:
        if UNTILED not in str(error):
            raise
        return lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False}), "by cuBLAS"


def main(argv: list[str]) -> None:
    """Runs the command line."""
    args = flags.FLAGS
    try:
        row, text = compiled(args.case)
    except jax.errors.JaxRuntimeError as error:  # no room, above all: that is a finding, too
        row, text = {"case": args.case, "jax": jax.__version__, "error": str(error).splitlines()[0]}, ""
    pathlib.Path(args.out).write_text(json.dumps(row, indent=1) + "\n")
    if args.text and text:
        pathlib.Path(args.text).write_text(text)


if __name__ == "__main__":
    command_line.run(main)
