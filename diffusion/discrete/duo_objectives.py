"""Objectives of uniform processes by their Gaussian latents: Duo's curriculum, and its distillation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import traced
from diffusion.discrete.bounds import score_entropy_at
from diffusion.discrete.gaussian_duality import check_uniform, gaussian_latents, latent_noise
from diffusion.discrete.predictions import Reading, from_context, from_logits, predictor
from diffusion.discrete.processes import Process, over_positions
from diffusion.discrete.symbol_objectives import in_nats
from diffusion.objectives.few_step import frozen, player
from diffusion.objectives.objective import Objective, Stages, Teacher
from diffusion.timesteps import Density


def duo(
    process: Process, density: Density, until: int, temperature: float = 1e-3, reading: Reading = from_context
) -> Objective:
    """Duo's curriculum: the bound of a uniform process, whose network receives softened symbols at first.

        loss = score entropy at x_t = argmax w_t of p(x_0 | softmax(w_t / tau)) / positions

    where w_t are the Gaussian latents of `gaussian_latents`. A soft symbol has more information about the data than
    x_t, so the gradients have less variance. From the step `until` on, tau is 0, and the loss is the bound of
    `score_entropy`. The score entropy is a sum over all symbols for each x_t, like the Rao-Blackwellized form in the
    paper.

    Facts:
        loss: nats per symbol; from the step `until` on `discrete.score_entropy_bound`
        networks: model, which also accepts probabilities `[B, ..., K]`
        optimum: p(x_0 | x_t)
        paper: Sahoo et al. 2025, "The Diffusion Duality", eq. 21, and eq. 17 and 18 for tau = 0

    Args:
        process: a uniform process.
        density: density of t in (0, 1); only the uniform density gives the bound. While tau is above 0, the paper draws
            times at which alpha is neither near 0 nor near 1.
        until: number of training steps with a temperature above 0, at least 0; half of the training in the paper.
        temperature: temperature tau in these steps, > 0; 0.001 in the paper.
        reading: meaning of the network's output; `discrete.from_context` in the paper.

    Returns:
        An objective whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: if the process is not uniform or a number is out of range; when called, if symbols are out of range.
    """
    check_uniform("duo", process)
    if until < 0 or not (traced(temperature) or temperature > 0):
        raise ValueError(f"duo: until = {until}, temperature = {temperature}. Valid: at least 0, above 0")

    def nats(networks: Any, condition: Any, keys: Array, x0: Array, t: Array, step: Any) -> Array:
        soft = jax.nn.softmax(gaussian_latents(process, latent_noise(process, keys, x0), x0, t) / temperature)
        x_t = jnp.argmax(soft, -1)
        predict = predictor(player(networks, "model"), process, reading, condition)
        symbols = jnp.where(step < until, soft, jax.nn.one_hot(x_t, process.size, dtype=soft.dtype))
        return score_entropy_at(process, predict(symbols, t), x_t, x0, t)

    return in_nats(process, density, reading, nats)


def discrete_consistency(
    process: Process, density: Density, steps: int, stage: int, rounds: int = 5, reading: Reading = from_context
) -> Objective:
    """Distillation of a uniform process along paths with fixed noise: the student at t learns the prediction at s < t.

        loss = KL(softmax student(x_t, t) || softmax teacher(x_s, s)) / positions
        x = argmax(alpha~ onehot(x_0) + sigma~ eps)

    with the same eps at both times, and s = t - d. The gap d is 1 / steps in the first round and doubles in each round,
    after which the student becomes the teacher (`diffusion.training.stages`).

    Facts:
        loss: nats per symbol
        networks: model, teacher
        optimum: the geometric mean of the teacher's predictions at the symbols x_s on the paths through x_t
        paper: Sahoo et al. 2025, "The Diffusion Duality", eq. 22 and 23, algorithm 1

    Args:
        process: a uniform process.
        density: density of t in (0, 1).
        steps: number of steps 1 / d for the first gap d, at least 1; 512 in the paper.
        stage: number of training steps in a round, at least 1; 10,000 in the paper.
        rounds: number of rounds, at least 1, such that the last gap is at most 1.
        reading: meaning of the student's output, logits like the teacher's, in sampling.

    Returns:
        An objective whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: if the process is not uniform or a number is out of range; when called, if symbols are out of range.
    """
    check_uniform("discrete_consistency", process)
    if stage < 1 or rounds < 1 or steps < 2 ** (rounds - 1):
        raise ValueError(
            f"discrete_consistency: {rounds} rounds of {stage} steps from a gap of 1 / {steps}. Valid: at least 1, at "
            "least 1, and a last gap of at most 1"
        )

    def nats(networks: Any, condition: Any, keys: Array, x0: Array, t: Array, step: Any) -> Array:
        s = jnp.maximum(t - 2 ** jnp.minimum(step // stage, rounds - 1) / steps, 0.0)
        noise = latent_noise(process, keys, x0)
        x_t, x_s = (jnp.argmax(gaussian_latents(process, noise, x0, at), -1) for at in (t, s))
        student = predictor(player(networks, "model"), process, from_logits, condition)(x_t, t)
        teacher = predictor(frozen(networks, "teacher"), process, from_logits, condition)(x_s, s)
        return over_positions(jnp.exp(student) * (student - teacher))

    stages = Stages(stage, tuple(steps >> done for done in range(rounds)))
    return in_nats(process, density, reading, nats, Teacher(stages=stages))
