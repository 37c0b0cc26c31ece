"""Backbones in files of the Protein Data Bank's format: ATOM records in fixed columns, version 3.3."""

import math
import os
import pathlib

import numpy as np

from diffusion.data.proteins.backbone import ATOMS
from diffusion.io import files, opener

MOST_RESIDUES = 9999  # four columns
RANGE = (-999.999, 9999.999)  # eight columns with three digits after the point
COORDINATES_END = 54  # last column of z
MOST_BYTES = 81 * 10 * 4 * MOST_RESIDUES


def save(path: str | os.PathLike, atoms: np.ndarray, residue: str = "GLY") -> None:
    """Writes one chain A as ATOM records, TER and END; the file appears whole or not at all.

    Args:
        path: the file.
        atoms: `[n, 4, 3]` N, CA, C, O of each residue in Angstrom; see `backbone.with_oxygen`.
        residue: the name of all residues, one to three ASCII letters and digits; glycine has no atoms but these.

    Raises:
        ValueError: for another shape, a chain longer than the residue column holds, or a coordinate or a name that its
            column does not.
    """
    if not (1 <= len(residue) <= 3 and residue.isascii() and residue.isalnum()):
        raise ValueError(f"residue = {residue!r}. Valid: one to three ASCII letters and digits, such as 'GLY'")
    atoms = np.asarray(atoms, np.float64)
    if atoms.ndim != 3 or atoms.shape[1:] != (len(ATOMS), 3) or not len(atoms):
        raise ValueError(f"a chain must have the shape [n, 4, 3], for N, CA, C and O; got {list(atoms.shape)}")
    if len(atoms) > MOST_RESIDUES:
        raise ValueError(
            f"a PDB file numbers residues in four columns. Valid: at most {MOST_RESIDUES} residues; the chain has "
            f"{len(atoms)}"
        )
    rounded = np.round(atoms, 3)
    inside = (rounded >= RANGE[0]) & (rounded <= RANGE[1])
    if not inside.all():
        residue_number, atom, axis = np.argwhere(~inside)[0]
        raise ValueError(
            f"a PDB file holds coordinates from {RANGE[0]} to {RANGE[1]} Angstrom, but {'xyz'[axis]} of {ATOMS[atom]} "
            f"in residue {residue_number + 1} is {atoms[residue_number, atom, axis]:g}"
        )
    lines = []
    for i, positions in enumerate(atoms):
        for name, (x, y, z) in zip(ATOMS, positions):
            lines.append(
                f"ATOM  {len(lines) + 1:5d}  {name:<3} {residue:>3} A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}"
                f"{1:6.2f}{0:6.2f}          {name[0]:>2}  "
            )
    lines.append(f"TER   {len(lines) + 1:5d}      {residue:>3} A{len(atoms):4d}".ljust(80))
    files.write_text(pathlib.Path(path), "\n".join([*lines, "END".ljust(80)]) + "\n")


def load(path: str | os.PathLike) -> np.ndarray:
    """The backbone of the first chain of the first model of a file.

    Args:
        path: a PDB file; atoms beside N, CA, C and O, and other locations of an atom than its first, are left out.
            HETATM records count where they are a residue with all four atoms before the chain's end, such as
            selenomethionine; ligands and water do not. Residues of one number are distinguished by their insertion
            codes, in the order of the file.

    Returns:
        `[n, 4, 3]` float64, Angstrom.

    Raises:
        ValueError: for a file that is longer than the format's chains, a truncated line, a field that is no finite
            number, or a residue that is missing or lacks an atom, by its number.
    """
    path = pathlib.Path(path)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes. Valid: at most {MOST_BYTES}, for a chain of {MOST_RESIDUES} "
            "residues"
        )
    text = opener.read(path, most=MOST_BYTES).decode("ascii", "replace")
    # Keys are (number, insertion code), in the file's order.
    atoms_by_residue: dict[tuple[int, str], dict[str, list[float]]] = {}
    hetero = set()
    chain = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("TER", "ENDMDL")) and atoms_by_residue:
            break
        if not line.startswith(("ATOM  ", "HETATM")) or (name := line[12:16].strip()) not in ATOMS:
            continue
        try:
            residue = int(line[22:26]), line[26:27].strip()
            position = [float(line[start : start + 8]) for start in (30, 38, 46)]
        except ValueError:
            residue, position = (0, ""), [math.nan]
        if len(line) < COORDINATES_END or not np.isfinite(position).all():
            raise ValueError(f"{path}, line {number}: columns 23-26 and 31-54 must be finite numbers; got {line!r}")
        chain = line[21] if chain is None else chain
        if line[21] != chain and line.startswith("HETATM"):
            continue
        if line[21] != chain:
            break
        if line.startswith("HETATM") and residue not in atoms_by_residue:
            hetero.add(residue)
        atoms_by_residue.setdefault(residue, {}).setdefault(name, position)
    for residue in hetero:
        if len(atoms_by_residue[residue]) < len(ATOMS):
            del atoms_by_residue[residue]
    if not atoms_by_residue:
        raise ValueError(f"{path} has no ATOM record of a backbone")
    numbers = [number for number, _ in atoms_by_residue]
    for number in sorted({*range(min(numbers), max(numbers) + 1)} - {*numbers}):
        atoms_by_residue[number, ""] = {}
    residues = sorted(atoms_by_residue, key=lambda residue: residue[0])  # residues of one number keep the file's order
    for residue in residues:
        if missing := [name for name in ATOMS if name not in atoms_by_residue[residue]]:
            called = f"{residue[0]}{residue[1]}"
            raise ValueError(
                f"{path}: residue {called} of chain {chain} lacks {', '.join(missing)}; a chain must have no gaps"
            )
    return np.array([[atoms_by_residue[residue][name] for name in ATOMS] for residue in residues])
