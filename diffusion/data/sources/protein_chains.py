"""Backbones of ideal folds, all drawn when the source is opened."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.data.proteins import folds
from diffusion.data.sources.sequences import SEEDS, Records, Rows, check_made

BLOCK = 60  # chains of one call; since all calls have one size, a record always has the same bits


class ProteinChains(Rows):
    """Records {"x": frames float32 `[32, 3, 4]`, "label": int} of independent draws, each a function of its row."""

    def __init__(self, split: str, number: int, withheld: int):
        check_made("these chains", split, number)
        most = int(folds.NUMBERS.min()) - 1
        if not 0 <= withheld <= most:
            raise ValueError(f"withheld = {withheld} must be from 0 to {most}, as one class has {most + 1} variants")
        seed = jax.random.key(SEEDS[split])
        end = folds.NUMBERS - withheld  # of the variants that are trained on
        first = jnp.asarray(end if withheld and split == "test" else np.zeros_like(end))
        last = jnp.asarray(end if split == "train" else folds.NUMBERS)
        draw = lambda row: folds.drawn(jax.random.fold_in(seed, row), row % len(folds.CLASSES), first, last)
        block = jax.jit(jax.vmap(draw))
        starts = range(0, number, BLOCK)
        blocks = [np.asarray(block(np.arange(first, first + BLOCK, dtype=np.uint32)), np.float32) for first in starts]
        self.x = np.concatenate(blocks)[:number]
        self.label = np.arange(number) % len(folds.CLASSES)


class ChainRecords(Records):
    """Records of protein chains.

    Attributes:
        backbones: whether samples are frames of backbones, and are written as PDB files: True.
    """

    backbones = True

    def __init__(self, split: str, number: int, withheld: int):
        super().__init__(ProteinChains(split, number, withheld), len(folds.CLASSES), split)
        self.spec = self.spec._replace(classes=folds.CLASSES)


def ideal_folds(split: str = "train", *, number: int = 6000, withheld: int = 0) -> Records:
    """Ideal folds of 32 residues, the classes of `proteins.folds.CLASSES`: helices, hairpins, sheets and assemblies.

    Args:
        split: "train" or "test".
        number: how many chains to draw, at least 1.
        withheld: how many variants of each class only the test split draws, from 0 to 2. With 0 both splits draw from
            all variants.

    Raises:
        ValueError: for another split, or a number out of range.
    """
    return ChainRecords(split, number, withheld)
