"""Few-step students of a trained run. The argument of each recipe is the teacher's folder:

    diffusion train --config=students/turbo:runs/digits --workdir=runs/turbo

A student takes the teacher's data, network and process from its config, so that one recipe serves every teacher; the
steps and rates are those for the digits (docs/students.md). After a comma stands a preset: `turbo:runs/digits,tiny`.
"""
