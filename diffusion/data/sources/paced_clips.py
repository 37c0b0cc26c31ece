"""Clips cut from longer clips at several frame rates, with the rate and the amount of motion as conditions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffusion.data.sources.spec import Leaf, OneForOne, Source
from diffusion.data.sources.streams import Stream


def paced(of: Any, frames: int, paces: Sequence[int] = (1, 2), seed: int = 0) -> "PacedClips":
    """Records with clips that are cut from a source's clips at a random rate, and with "vector" in their condition.

        clip = long[start : start + frames pace : pace],   vector = [1 / pace, motion per frame of the source]

    The motion is the root mean square of the change of pixels, in [-1, 1], from frame to frame, divided by the pace, as
    `videos.motion(clip, 1 / pace)` computes it. A model with vector_width=2 receives both numbers. The pace and the
    start are functions of the seed and the row, so a record is the same in every epoch.

    Args:
        of: the source of clips, uint8 [T, H, W, C].
        frames: number of frames of a cut clip, at least 2.
        paces: the possible steps between the source's frames in a clip, each at least 1 and at most T / frames; each
            record draws one of them.
        seed: the seed of the draws.

    Raises:
        ValueError: if the source is a stream or has no clips, if its condition does not consist of named entries or has
            a "vector", or if a pace does not fit.
    """
    return PacedClips(of, frames, tuple(paces), seed)


class PacedClips(OneForOne):
    """A `Source` of clips at several rates."""

    def __init__(self, of: Source, frames: int, paces: tuple[int, ...], seed: int):
        """The arguments and errors are those of `paced`."""
        shape = of.spec.shape
        if isinstance(of, Stream) or of.spec.dtype != "uint8" or not isinstance(shape, tuple) or len(shape) != 4:
            raise ValueError(f"{of.spec.name} has no clips uint8 [T, H, W, C] with random access.")
        condition = of.spec.condition or {}
        if not isinstance(condition, Mapping) or "vector" in condition:
            raise ValueError(f"the condition of {of.spec.name} is {condition}. Valid: named entries without 'vector'.")
        if frames < 2 or not paces or min(paces) < 1 or max(paces) * frames > shape[0]:
            raise ValueError(
                f"frames = {frames}, paces = {paces}. Valid: at least 2 frames, and paces from 1 to T / frames, where "
                f"T = {shape[0]} frames."
            )
        super().__init__(of)
        self._frames, self._paces, self._seed = frames, paces, seed
        labelled = {"label": Leaf((), "int32")} if of.spec.num_classes and "label" not in condition else {}
        entries = {**condition, **labelled, "vector": Leaf((2,), "float32")}
        self.spec = of.spec._replace(shape=(frames, *shape[1:]), condition=entries)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns one record.

        Raises:
            DamagedRecord: if the source's record is damaged.
        """
        record = self._of[row]
        rng = np.random.default_rng((self._seed, row))
        pace = int(rng.choice(self._paces))
        start = int(rng.integers(0, self.spec.shape[0] * -pace + len(record["image"]) + 1))
        clip = np.asarray(record["image"])[start : start + self._frames * pace : pace]
        change = np.diff(clip.astype(np.float32) / 127.5, axis=0)
        vector = np.array([1 / pace, np.sqrt(np.mean(change**2)) / pace], np.float32)
        condition = {**record.get("condition", {}), "vector": vector}
        if "label" in (self.spec.condition or {}) and "label" in record:
            condition.setdefault("label", np.int32(record["label"]))
        return {**record, "image": clip, "condition": condition}

    def stamp(self) -> str:
        """The stamp of the source, with the parameters of the draws."""
        return f"{super().stamp()} {self._frames} {self._paces} {self._seed}"

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the source, with the parameters of the draws."""
        return {**super().fingerprint(), "paced": f"{self._frames} of {self._paces} by {self._seed}"}
