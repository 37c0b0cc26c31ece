"""Points on the arms of a spiral: a first run on data that are no pictures."""

import numpy as np

from diffusion.data.sources.sequences import SEEDS, Records, Rows, check_made


class Spirals(Rows):
    """Records {"x": float32 [2], "label": int}; the label is the arm of the point.

    x = r (cos a, sin a) + noise eps,     a = 2 pi (arm / arms + r / 2),     r^2 ~ U(0.04, 1)
    """

    def __init__(self, split: str = "train", arms: int = 3, number: int = 20_000, noise: float = 0.03):
        check_made("spirals", split, number)
        if arms < 1 or not noise >= 0:
            raise ValueError(f"arms = {arms} must be at least 1, and noise = {noise} at least 0")
        rng = np.random.default_rng(SEEDS[split])
        self.label = rng.integers(arms, size=number)
        radius = np.sqrt(rng.uniform(0.04, 1, number))
        angle = 2 * np.pi * (self.label / arms + radius / 2)
        line = radius * np.stack([np.cos(angle), np.sin(angle)])
        self.x = (line.T + noise * rng.normal(size=(number, 2))).astype(np.float32)


def spirals(split: str = "train", *, arms: int = 3, number: int = 20_000, noise: float = 0.03) -> Records:
    """Opens points on the arms of a spiral as a source.

    Args:
        split: "train" or "test".
        arms: number of arms, which are the classes.
        number: how many points to draw, at least 1.
        noise: standard deviation about the arms.

    Raises:
        ValueError: for another split, or a number out of range.
    """
    return Records(Spirals(split, arms, number, noise), arms, split)
