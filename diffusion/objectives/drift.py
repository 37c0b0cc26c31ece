"""Drifting: a one-step generator whose samples are moved towards the data and away from each other."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.matrices import matmul
from diffusion.arrays.parameters import traced
from diffusion.arrays.square_roots import root
from diffusion.objectives.backward_simulation import one_step
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player, sum_square, to_the_end
from diffusion.objectives.inputs import in_blocks, mean_square
from diffusion.objectives.objective import Objective
from diffusion.objectives.objective_facts import Examples
from diffusion.parameterizations import Parameterization

# The logarithm of k(x, y) for the squared distance and the temperature.
KERNELS = {
    "laplace": lambda square, temperature: -root(square) / temperature,
    "gaussian": lambda square, temperature: -square / (2 * temperature**2),
}


def drifting(generator: Parameterization, temperature: float, block: int, similarity: str = "laplace") -> Objective:
    """Regresses the generator's samples on the same samples after a drift towards the data.

        x = G(z),    loss = mean |x - stop(x + V(x))|^2,    V of `drift`, by the data and the samples of the block

    Only examples of the same condition attract and repel each other, and no sample repels itself. The drift is
    computed in x itself, without the paper's image features and its further normalisation over the samples.

    Facts:
        loss: mean |x - stop(x + V(x))|^2, the mean square of V
        networks: model (the generator)
        optimum: samples on which V vanishes, as it does for the distribution of the data
        paper: Deng et al. 2026, "Generative Modeling via Drifting", eq. 6 and algorithm 1

    Args:
        generator: parameterization of the network "model", defined at t_max.
        temperature: tau of the kernel, > 0, in the unit of x.
        block: number of consecutive examples that attract and repel each other, at least 2; it divides the batch.
        similarity: kernel, "laplace" as in the paper, or "gaussian".

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" `[B]`.

    Raises:
        ValueError: if block is below 2, temperature is not positive or similarity is unknown; when called, if block
            does not divide the batch.
    """
    if block < 2 or not (traced(temperature) or temperature > 0):
        raise ValueError(
            f"drifting: block = {block} and temperature = {temperature}. Valid: at least 2 examples, and a positive "
            "temperature"
        )
    _kernel(similarity)

    @entry(generator)
    def loss(networks, schedule, keys, batch, step):
        x = one_step().draw(player(networks, "model"), schedule, generator, keys, batch)
        blocks = jax.tree.map(lambda a: in_blocks(a, block), (x, batch["x"], batch.get("condition")))
        V = jax.vmap(lambda x, data, condition: drift(x, data, temperature, similarity, condition))(*blocks)
        target = jax.lax.stop_gradient(x + V.reshape(x.shape))
        return mean_square(x - target), {"t": jnp.full(x.shape[0], schedule.t_max)}

    return Objective(loss, reads=to_the_end(generator, one_step=True), examples=Examples(block=block))


def drift(x: Array, data: Array, temperature: float, similarity: str = "laplace", condition: Any = None) -> Array:
    """The drift of samples, attracted by data and repelled by the other samples.

        V(x) = sum_y k(x, y) (y - x) / sum_y k(x, y) over the data - the same over the other samples
        k(x, y) = exp(-|x - y| / temperature)  (laplace)   or   exp(-|x - y|^2 / (2 temperature^2))  (gaussian)

    With the Gaussian kernel each of the two terms is temperature^2 times the score of its points after smoothing by
    Gaussian noise with the standard deviation `temperature`.

    Facts:
        paper: Deng et al. 2026, "Generative Modeling via Drifting", eq. 8 to 12

    Args:
        x: samples `[N, ...]`.
        data: data `[N, ...]`, in the same number as the samples.
        temperature: tau, > 0.
        similarity: "laplace" or "gaussian".
        condition: condition of sample i and of data i, a pytree of arrays `[N, ...]`; only points with an equal
            condition act on a sample. If None, all points act.

    Returns:
        V `[N, ...]`. It is 0 for a sample on which no other sample acts, because the attraction alone does not vanish
        at the data distribution.

    Raises:
        ValueError: if there is no such kernel.
    """
    log_kernel = _kernel(similarity)
    x, data = jnp.asarray(x), jnp.asarray(data)
    number = x.shape[0]
    alike = jnp.ones((number, number), bool)
    for leaf in jax.tree.leaves(condition):
        flat = leaf.reshape(number, -1)
        alike &= (flat[:, None] == flat[None]).all(axis=-1)

    def shift(points: Array, acts: Array) -> Array:
        square = jax.vmap(lambda point: sum_square(point[None] - points))(x)
        weights = jax.nn.softmax(log_kernel(square, temperature), axis=1, where=acts)
        return matmul(jnp.where(acts.any(axis=1)[:, None], weights, 0), points.reshape(number, -1))

    others = alike & ~jnp.eye(number, dtype=bool)
    V = shift(data, alike) - shift(x, others)
    return jnp.where(others.any(axis=1)[:, None], V, 0).reshape(x.shape)


def _kernel(similarity: str):
    if similarity not in KERNELS:
        raise ValueError(f"drifting: similarity = {similarity!r}. Valid: {', '.join(KERNELS)}")
    return KERNELS[similarity]
