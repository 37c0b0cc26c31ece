"""Objectives of uniform processes through their Gaussian latents: Duo's curriculum, and its distillation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

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
    """The bound of a uniform process, whose network sees softened symbols at first: Duo's curriculum.

        loss = score entropy at x_t = argmax w_t of p(x_0 | softmax(w_t / tau)) / positions

    with the Gaussian latents w_t of `gaussian_latents`. A soft symbol says more of the data than x_t, so that gradients
    vary less. From the step `until` on tau is 0, and the loss is `score_entropy`'s, the bound. The score entropy is a
    sum over all symbols for each x_t, which is what the paper's Rao-Blackwellized form is.

    Facts:
        loss: nats a symbol; from the step `until` on `discrete.score_entropy_bound`
        networks: model, which takes probabilities `[B, ..., K]` too
        optimum: p(x_0 | x_t)
        paper: Sahoo et al. 2025, "The Diffusion Duality", eq. 21, and eq. 17 and 18 for tau = 0

    Args:
        process: a uniform process.
        density: the density of t in (0, 1); only the uniform one gives the bound. The paper draws times at which
            alpha is neither near 0 nor near 1 while tau is above 0.
        until: number of training steps with a temperature above 0; half of them in the paper.
        temperature: tau before that, above 0; 0.001 in the paper.
        reading: the meaning of the network's output; the paper's network is read by `discrete.from_context`.

    Returns:
        An objective, whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: for a process whose prior is not uniform or a number out of range; when called, for symbols out of
            range.
    """
    check_uniform("duo", process)
    if until < 0 or not temperature > 0:
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
    """Distillation of a uniform process along paths of one noise: the student says at t what the teacher says at s.

        loss = KL(softmax student(x_t, t) || softmax teacher(x_s, s)) / positions
        x = argmax(alpha~ onehot(x_0) + sigma~ eps)

    with one eps at both times, and s = t - d. The gap d is 1 / steps in the first round, and doubles with every round;
    after each the student becomes the teacher (`diffusion.training.stages`).

    Facts:
        loss: nats a symbol
        networks: model, teacher
        optimum: the geometric mean of what the teacher says at the symbols x_s on the paths through x_t
        paper: Sahoo et al. 2025, "The Diffusion Duality", eq. 22 and 23, algorithm 1

    Args:
        process: a uniform process.
        density: the density of t in (0, 1).
        steps: number 1 / d of steps of the first gap, at least 1; 512 in the paper.
        stage: training steps of a round; 10,000 in the paper.
        rounds: number of rounds, at least 1; in the last one the gap is at most 1.
        reading: the meaning of the student's output when it samples, logits, as the teacher's.

    Returns:
        An objective, whose batch has symbols, int `[B, ...]`, as "x". Metrics: "t" `[B]`.

    Raises:
        ValueError: for a process whose prior is not uniform or a number out of range; when called, for symbols out of
            range.
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
