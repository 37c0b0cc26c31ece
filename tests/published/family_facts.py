"""The form of the families' facts.py, which tests that run over all families read; a new family adds such a file."""

import importlib
import pathlib
from collections.abc import Mapping, Set
from typing import Any, NamedTuple


class KindFacts(NamedTuple):
    """One class of diffusers 0.42 as its code has it.

    Attributes:
        usual: steps and guidance, the defaults of its `__call__`.
        multiple: number that divides the sides of its latents, of a denoiser of four levels or patches of 7.
        network: class of its denoiser; "" for any.
        flags: fields of its `Kind` that are set; "approximated" for a denoiser with an approximator.
        readers: suffix, arguments and length of each text encoder; None: those of another class of the family.
        denoiser: folder of its denoiser.
        left: side of the padding, where its code sets it.
        attaches: folder of the network that it attaches; "" for none.
        perturbed: scale of perturbed-attention guidance, the default of its `__call__`; 0 for none.
        clip: frames, (height, width) and frames a second of its clips, and further fields.
        sound: scales of the sound's guidance by the text, and away from a clip and a sound apart, the defaults of its
            `__call__`; None for silent clips.
    """

    usual: tuple[int, float]
    multiple: int
    network: str = ""
    flags: Set[str] = frozenset()
    readers: list[tuple[str, Mapping[str, Any], int]] | None = None
    denoiser: str = "transformer"
    left: bool | None = None
    attaches: str = ""
    perturbed: float = 0.0
    clip: tuple[int, tuple[int, int], float, Mapping[str, Any]] | None = None
    sound: tuple[float, float] | None = None


def stated(table: str) -> dict[str, Any]:
    """The entries of one table, such as "CALLS", of all families that have it."""
    entries = {}
    for path in sorted(pathlib.Path(__file__).parent.glob("*/facts.py")):
        entries |= getattr(importlib.import_module(f"tests.published.{path.parent.name}.facts"), table, {})
    return entries
