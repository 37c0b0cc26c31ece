"""The programs that are compiled, and the devices that they are compiled for.

A case is named PROGRAM@DEVICES, "train_dit_xl2@h100x8"; PROGRAM:small@DEVICES is the same program with a small network.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from diffusion.experiments.planning import ahead_of_time, estimate
from diffusion.experiments.planning.machines import MACHINES, Machine, topology_name
from diffusion.training import sharding


class Program(NamedTuple):
    """A program that is traced for its devices.

    Attributes:
        lowered: the traced program, ready for XLA.
        flops: the operations of the model in one run on all devices, without recomputed ones.
        batch: the number of examples of one run.
    """

    lowered: jax.stages.Lowered
    flops: float
    batch: int


class Devices(NamedTuple):
    """The devices that a program is compiled for.

    Attributes:
        machine: a key of `MACHINES`.
        number: the number of devices.
        axes: the sizes of the axes of their mesh.
    """

    machine: str
    number: int
    axes: Mapping[str, int]

    @property
    def sheet(self) -> Machine:
        """The machine's data sheet."""
        return MACHINES[self.machine]

    def mesh(self) -> Mesh:
        """The mesh over described devices, which hold no arrays."""
        described = ahead_of_time.devices(self.sheet, topology_name(self.sheet, self.number))
        return sharding.make_mesh(dict(self.axes), list(described)[: self.number])


Maker = Callable[[Mesh, bool], Program]  # (mesh, whether small) -> the program

DEVICES = {
    "h100": Devices("h100", 1, {"data": 1}),
    "h100x8": Devices("h100", 8, {"data": 1, "fsdp": 8}),
    "v5px64": Devices("v5p", 64, {"data": 1, "fsdp": 64}),
    "v6ex64": Devices("v6e", 64, {"data": 1, "fsdp": 64}),
}
MESHES = {  # meshes of 64 TPU v5p, a torus of 4 x 4 x 4; an axis of a mesh takes whole sides of the torus
    "v5px64": DEVICES["v5px64"],
    "v5px64-data": Devices("v5p", 64, {"data": 64}),
    "v5px64-4x16": Devices("v5p", 64, {"data": 4, "fsdp": 16}),
    "v5px64-16x4": Devices("v5p", 64, {"data": 16, "fsdp": 4}),
    "v5px64-16-sequence4": Devices("v5p", 64, {"fsdp": 16, "sequence": 4}),
    "v5px64-4x4-sequence4": Devices("v5p", 64, {"data": 4, "fsdp": 4, "sequence": 4}),
    "v5px64-16-tensor4": Devices("v5p", 64, {"fsdp": 16, "tensor": 4}),
    "v5px64-4x4-tensor4": Devices("v5p", 64, {"data": 4, "fsdp": 4, "tensor": 4}),
}
SMALL = ":small"


def parts(case: str, programs: Mapping[str, Maker]) -> tuple[Maker, bool, Devices]:
    """The parts of a case's name: (the function that makes the program, whether it is small, the devices).

    Raises:
        ValueError: for a name that is no case; the message lists the valid ones.
    """
    program, _, devices = case.partition("@")
    name = program.removesuffix(SMALL)
    known = DEVICES | MESHES
    if name not in programs or devices not in known:
        raise ValueError(
            f"{case!r} is no case. Valid: PROGRAM@DEVICES or PROGRAM{SMALL}@DEVICES, with a program of "
            f"{', '.join(programs)} and devices of {', '.join(known)}."
        )
    return programs[name], program.endswith(SMALL), known[devices]


def traced(case: str, programs: Mapping[str, Maker]) -> tuple[Program, Devices]:
    """The program of a case, ready for XLA."""
    make, small, devices = parts(case, programs)
    with estimate.as_on(devices.sheet.platform):
        return make(devices.mesh(), small), devices
