"""The levels of a U-Net: their channels, their blocks, and which of them have attention."""

from diffusion.models.layers.resampling import check_taps


class UNetLevels:
    """A U-Net with dropout, whose levels have `blocks` residual blocks on the way down, and one more on the way up."""

    widths: tuple[int, ...]
    blocks: int
    dropout: float
    takes_dropout = True

    def check_fields(self) -> None:
        """Refuses a rate of dropout that is out of range."""
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")

    @property
    def feature_blocks(self) -> int:
        """Number of blocks whose features a call can return."""
        return len(self.widths) * (2 * self.blocks + 1) + 1


class LevelsByResolution(UNetLevels):
    """A U-Net whose levels have multiples of a width, and attention if the side of the level's image is listed."""

    resolution: int
    width: int
    multipliers: tuple[int, ...]
    attention_resolutions: tuple[int, ...]
    taps: tuple[int, ...]

    def check_fields(self) -> None:
        """Makes tuples of lists, and refuses levels that are out of range."""
        super().check_fields()
        for field in ("multipliers", "attention_resolutions", "taps"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if not self.multipliers or min(self.multipliers) <= 0:
            raise ValueError(f"multipliers={self.multipliers} must be positive numbers, one for each level")
        if self.resolution % 2 ** (len(self.multipliers) - 1):
            raise ValueError(f"resolution={self.resolution} cannot be halved {len(self.multipliers) - 1} times")
        check_taps(self.taps)

    @property
    def widths(self) -> tuple[int, ...]:  # type: ignore[override]
        """Channels of each level."""
        return tuple(self.width * multiplier for multiplier in self.multipliers)

    def attends(self, level: int) -> bool:
        """Whether a level has attention."""
        return self.resolution >> level in self.attention_resolutions
