"""The torsions phi and psi of ideal folds in whole degrees, of 32 residues, as tools/protein_folds.py prints them."""

import pathlib

from diffusion.io import opener


def _read(path: pathlib.Path) -> dict[str, tuple[tuple[tuple[int, int], ...], ...]]:
    """The variants of each fold: a line is a variant, "FOLD: phi psi phi psi ..."."""
    folds: dict[str, tuple] = {}
    for line in opener.read_text(path).splitlines():
        fold, _, numbers = line.partition(": ")
        angles = [int(number) for number in numbers.split()]
        folds[fold] = (*folds.get(fold, ()), tuple(zip(angles[::2], angles[1::2])))
    return folds


FOLDS = _read(pathlib.Path(__file__).with_suffix(".txt"))
"""The variants of each fold, `{name: ((phi, psi) of each residue, ...)}` in degrees."""
