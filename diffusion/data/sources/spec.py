"""What the records of a source are, and what a source is."""

__all__ = ["DamagedRecord", "DataSpec", "Leaf", "Source", "is_mask", "is_picture", "number_type"]

from typing import Any, NamedTuple, Protocol

import jax
import numpy as np


class DamagedRecord(ValueError):
    """A record cannot be read, or does not fit its dataset's description; the message names it and the reason."""


class Leaf(NamedTuple):
    """One array of a condition: its shape, without the batch, and its dtype."""

    shape: tuple[int, ...]
    dtype: str


class DataSpec(NamedTuple):
    """What the records of one split of a dataset are.

    Attributes:
        name: as it was requested: "digits", "cifar10", "imagenet_resized/64x64", or the name of a source of files.
        split: "train", "test", or a part of one such as "train[:90%]".
        shape: of an example, of any rank: (height, width, channels) for pictures; a pytree of shapes where an example
            is a pytree of arrays, see `data.packing`.
        num_classes: 0 where the dataset has no classes.
        size: number of records; -1 for a stream, which does not know it.
        version: of the dataset, "1.0.0"; "" where it has none.
        dtype: of an example in a batch: "uint8", which stands for [-1, 1] as `transforms.to_model` says; or "float32",
            which a network receives as it is.
        condition: pytree of `Leaf`, what a record has under "condition"; None where it has none.
        classes: their names; () where they have none.
    """

    name: str
    split: str
    shape: Any
    num_classes: int
    size: int
    version: str = ""
    dtype: str = "uint8"
    condition: Any = None
    classes: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """The name of an example in a record and in a batch: "image" for bytes, else "x"."""
        return "image" if self.dtype == "uint8" else "x"

    @property
    def null(self) -> Any:
        """Zeros in the form of one condition, what stands for none; None where there are no conditions."""
        leaf = lambda of: np.zeros(of.shape, "float32" if of.dtype == "uint8" else of.dtype)
        return jax.tree.map(leaf, self.condition, is_leaf=lambda node: isinstance(node, Leaf))

    @property
    def masks(self) -> bool:
        """Whether a part of the condition is a picture of the example's sides, which moves with it, e.g. a mask."""
        leaves = jax.tree.leaves(self.condition, is_leaf=lambda node: isinstance(node, Leaf))
        return self.pictures and any(is_mask(leaf.shape, self.shape) for leaf in leaves)

    @property
    def pictures(self) -> bool:
        """Whether the examples are pictures, uint8 [H, W, C] of 1, 3 or 4 channels."""
        return is_picture(self.shape, self.dtype)


def is_picture(shape: Any, dtype: str) -> bool:
    """Whether examples of that shape and type are pictures, which can be drawn."""
    return dtype == "uint8" and isinstance(shape, tuple) and len(shape) == 3 and shape[-1] in (1, 3, 4)


def is_mask(shape: tuple[int, ...], example: tuple[int, ...]) -> bool:
    """Whether an array has the height and the width of a picture, as [H, W] or [H, W, channels]."""
    return len(shape) in (2, 3) and shape[:2] == example[:2]


class Source(Protocol):
    """Random access to records: mappings with "image" (uint8 of any shape) or "x" (numbers of any shape, or a pytree).

    A record has "label", an int in 0..spec.num_classes - 1, where there are classes, and "condition", a pytree of
    arrays, where `spec.condition` says so.

    A source that is faster at many rows at once has `__getitems__(rows)` too.

    Attributes:
        spec: what the records are.
        where: the folder or file that holds them, for messages.
    """

    spec: DataSpec
    where: str

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> dict[str, Any]: ...

    def fingerprint(self) -> dict[str, Any]:
        """What changes with the records, and is the same on every host: their number, a digest of some of them."""
        ...


def number_type(dtype: Any) -> str:
    """The dtype of a batch of examples of a stored dtype.

    Raises:
        ValueError: for one that no example has.
    """
    kind = np.dtype(dtype)
    if kind == np.uint8:
        return "uint8"
    if kind.kind == "f":
        return "float32"
    raise ValueError(
        f"examples are {kind}. Valid: uint8, which stands for numbers in [-1, 1], or floating-point numbers; "
        "symbols are the matter of diffusion.discrete"
    )
