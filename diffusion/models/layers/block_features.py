"""Features: the outputs of single blocks of a backbone, which a call returns on request beside its output.

    output, (h,) = network.apply(variables, x, t, condition, features=(8,))    # h: after 8 blocks

Block k is the k-th that runs, 1 the first. Without `features` a program has no trace of them.
"""

from collections.abc import Sequence
from typing import Any

import jax


class Features:
    """The features that one call of a backbone returns, collected block by block.

    Attributes:
        blocks: the requested ones, in the order of the request; None if the caller asks only for the output.
        done: blocks that have run so far.
    """

    def __init__(self, blocks: Sequence[int] | None, number: int):
        """Begins a call of a backbone that has `number` blocks.

        Raises:
            ValueError: for a block that it does not have.
        """
        absent = [block for block in blocks or () if not 1 <= block <= number]
        if absent:
            raise ValueError(f"features={tuple(blocks or ())}: there is no block {absent[0]}. Valid: 1 .. {number}")
        self.blocks = None if blocks is None else tuple(blocks)
        self.done = 0
        self._after: dict[int, jax.Array] = {}

    def block(self, h: jax.Array) -> None:
        """One more block has run, after which the features are h."""
        self.done += 1
        if self.done in (self.blocks or ()):
            self._after[self.done] = h

    def among(self, length: int) -> tuple[int, ...]:
        """The requested ones among the next `length` blocks, in order, where 1 is the next."""
        return tuple(sorted({block - self.done for block in self.blocks or ()} & set(range(1, length + 1))))

    def stack(self, length: int, kept: Sequence[jax.Array]) -> None:
        """The next `length` blocks have run, and `kept` are the features after the blocks of `among`."""
        self._after |= dict(zip((self.done + block for block in self.among(length)), kept, strict=True))
        self.done += length

    def beside(self, output: Any) -> Any:
        """The result of the call: the output, or (output, features in the order of the request)."""
        return output if self.blocks is None else (output, tuple(self._after[block] for block in self.blocks))
