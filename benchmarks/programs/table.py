"""All programs by name, and the cases of the table."""

from benchmarks.programs import generating, training
from benchmarks.programs.cases import DEVICES, Maker

PROGRAMS: dict[str, Maker] = {**training.PROGRAMS, **generating.PROGRAMS}
CASES = (
    *(f"{program}@{devices}" for program in training.PROGRAMS for devices in DEVICES),
    *(f"{program}@h100" for program in generating.PROGRAMS),
)
