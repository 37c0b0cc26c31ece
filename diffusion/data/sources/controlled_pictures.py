"""Sources of pictures that add entries to the condition of their records: a control of the picture, or a mask."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diffusion.data.sources.spec import DamagedRecord, Leaf, OneForOne, Source
from diffusion.data.sources.streams import Stream


def controlled(of: Any, control: Callable[[np.ndarray], np.ndarray]) -> "Controlled":
    """The records of a source with "control" in their condition, which a function computes from the picture.

    Args:
        of: the source, of pictures uint8 [H, W, 3] of one size.
        control: uint8 [H, W, 3] -> uint8 [H, W, 3], a function of `data.controls` or a pure function of your own.

    Raises:
        ValueError: for a stream, other examples than pictures, or a condition that is not one of named entries.
    """

    def entries(row: int, picture: np.ndarray) -> dict[str, np.ndarray]:
        computed = np.asarray(control(picture))
        if computed.shape != picture.shape or computed.dtype != np.uint8:
            raise DamagedRecord(
                f"the control of record {row} of {of.spec.name} is {computed.dtype} {list(computed.shape)}. Valid: "
                f"uint8 {list(picture.shape)}, the shape of the picture."
            )
        return {"control": computed}

    return Controlled(of, lambda shape: {"control": Leaf(shape, "uint8")}, entries)


def painted(of: Any, least: float = 0.1, most: float = 0.6, seed: int = 0) -> "Controlled":
    """The records of a source with "picture" and "mask" in their condition, for a model that learns to inpaint.

    The mask, uint8 [H, W, 1], is 255 in a few boxes and 0 elsewhere. It is a function of the seed and the row, so that
    a record has the same mask in every epoch.

    Args:
        of: the source, of pictures uint8 [H, W, 3] of one size.
        least, most: bounds of the share of the picture that is masked, 0 < least <= most <= 1; the last box may exceed
            it.
        seed: the seed of the masks.

    Raises:
        ValueError: as in `controlled`, and for shares out of range.
    """
    if not 0 < least <= most <= 1:
        raise ValueError(f"least = {least}, most = {most}. Valid: 0 < least <= most <= 1.")

    def mask(row: int, sides: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng((seed, row))
        share = rng.uniform(least, most)
        drawn = np.zeros((*sides, 1), np.uint8)
        while (drawn > 0).mean() < share:
            extent = [max(1, round(side * rng.uniform(0.1, 0.5))) for side in sides]
            top, left = (rng.integers(0, side - size + 1) for side, size in zip(sides, extent))
            drawn[top : top + extent[0], left : left + extent[1]] = 255
        return drawn

    leaves = lambda shape: {"picture": Leaf(shape, "uint8"), "mask": Leaf((*shape[:2], 1), "uint8")}
    return Controlled(of, leaves, lambda row, picture: {"picture": picture, "mask": mask(row, picture.shape[:2])})


class Controlled(OneForOne):
    """Pictures with more entries in their condition; a `Source`."""

    def __init__(
        self,
        of: Source,
        leaves: Callable[[tuple[int, ...]], dict[str, Leaf]],
        entries: Callable[[int, np.ndarray], dict[str, np.ndarray]],
    ):
        """Adds the entries.

        Args:
            of: the source, of pictures uint8 [H, W, 3] of one size.
            leaves: shape of a picture -> shapes and dtypes of the new entries.
            entries: row and picture of a record -> its new entries.

        Raises:
            ValueError: see `controlled`.
        """
        if isinstance(of, Stream) or not of.spec.pictures or of.spec.shape[-1] != 3:
            raise ValueError(f"{of.spec.name} has no coloured pictures with random access.")
        new = leaves(tuple(of.spec.shape))
        condition = of.spec.condition or {}
        if not isinstance(condition, Mapping) or new.keys() & condition.keys():
            names = " or ".join(map(repr, new))
            raise ValueError(
                f"the condition of {of.spec.name} is {condition}. Valid: named entries, without the name {names}."
            )
        super().__init__(of)
        self._entries = entries
        self.spec = of.spec._replace(condition={**condition, **new})

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns one record.

        Raises:
            DamagedRecord: if the source or the function of the new entries raises it.
        """
        record = self._of[row]
        entries = self._entries(row, np.asarray(record["image"]))
        return {**record, "condition": {**record.get("condition", {}), **entries}}
