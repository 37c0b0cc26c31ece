"""All programs by name, and the cases of the table."""

from benchmarks.programs import training

PROGRAMS = {**training.PROGRAMS}
CASES = ("train_dit_s2@h100", "train_dit_xl2@h100")
