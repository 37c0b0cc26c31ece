"""Few-step students of a trained run. The argument of each recipe is the teacher's folder:

    python -m experiments.train --config=configs/students/turbo.py:runs/digits --workdir=runs/turbo

A student takes the teacher's data, network and process from its config, so that one recipe serves every teacher; the
steps and rates are those for the digits (docs/students.md). After a comma stands a preset: `turbo.py:runs/digits,tiny`.
"""
