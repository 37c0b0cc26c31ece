"""Into how many micro-batches a step is best cut."""

import jax
from jax.sharding import Mesh

NUMBER = 4  # on one CPU device; docs/speed.md has what was measured


def number(batch_size: int, mesh: Mesh, block: int = 1) -> int:
    """The number of micro-batches of the fastest step, by a rule: four on one CPU device, one anywhere else.

    On a CPU the activations of a part stay nearer to its cores, and take a quarter of the memory; the sums of the
    gradients cost little beside that. An accelerator wants large products.

    Args:
        batch_size: examples in a step, >= 1.
        mesh: of the devices that the step runs on.
        block: examples that have to stay in one part, >= 1 (see `objectives`' couplings).

    Returns:
        The number; it divides the batch, and each part divides into blocks.
    """
    alone = mesh.size == 1 and jax.default_backend() == "cpu"
    return NUMBER if alone and batch_size % (NUMBER * block) == 0 else 1
