"""All programs by name, and the cases of the table."""

from benchmarks.programs import generating, training
from benchmarks.programs.cases import DEVICES, MESHES, Maker

PROGRAMS: dict[str, Maker] = {**training.PROGRAMS, **training.ON_MESHES, **generating.PROGRAMS, **training.CHECKED}
CASES = (
    *(f"{program}@{devices}" for program in training.PROGRAMS for devices in DEVICES),
    *(
        f"{program}@{devices}"
        for program in training.ON_MESHES
        for devices in MESHES
        if program not in training.PROGRAMS or devices not in DEVICES
    ),
    *(f"{program}@h100" for program in generating.PROGRAMS),
)
