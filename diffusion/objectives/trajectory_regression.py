"""Regression along a teacher's trajectories, which initialises a causal student of clips (CausVid)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.flows.flow_maps import from_denoiser
from diffusion.objectives.backward_simulation import check_chunk, drawn_times, times_of
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import frozen, player, to_the_end
from diffusion.objectives.inputs import split, weighted_mean_square
from diffusion.objectives.objective import Objective, Teacher
from diffusion.objectives.rollouts import check_ends
from diffusion.parameterizations import Parameterization, denoiser, predict
from diffusion.samplers.sample import prior
from diffusion.timesteps import plan

MOST_SOLVER_STEPS = 10_000  # between two times; the trajectory is held in memory


def trajectory_regression(
    generator: Parameterization, teacher: Parameterization, grid: Sequence[float], chunk: int, solver_steps: int = 4
) -> Objective:
    """Regresses on the ends of the teacher's trajectories, from states in which each chunk has its own time.

        x(t_0) = z,    x(t_k) = the state after solver_steps steps of DDIM with the teacher from x(t_{k - 1})
        loss = mean [t_c > 0] |x0(x_t, t)[c] - x(0)[c]|^2,    x_t[c] = x(t_c)[c],    t_c uniform among the grid's times

    where c is a chunk, and [t_c > 0] is 1 if t_c > 0 and 0 otherwise. A causal student, which sees only chunk c and the
    earlier chunks, learns to predict the result of a teacher that sees whole clips. Each training step generates new
    trajectories, by N solver_steps evaluations of the teacher without a gradient; the authors of the paper train on a
    fixed set of trajectories. The trained student then initialises the generator of `distribution_matching` with
    `noised_chunks`.

    Facts:
        loss: mean [t_c > 0] |x0(x_t, t)[c] - x(0)[c]|^2
        networks: model (the generator), teacher
        optimum: the expected end of the teacher's trajectory, given the part of the state that the generator sees
        paper: Yin et al. 2025, "From Slow Bidirectional to Fast Autoregressive Video Diffusion Models" (CausVid),
            section 4.3

    Args:
        generator: parameterization of the network "model", defined at t_max.
        teacher: parameterization of the network "teacher".
        grid: `[N + 1]` times from t_max down to 0, at which the generator will be sampled. In a config it is the grid
            of config.sample (grid, steps, shift) unless the entry has its own.
        chunk: number of frames that are generated together, >= 1; it divides the number of frames of a clip.
        solver_steps: number of the teacher's steps between two times of the grid, 1 to 10^4.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Only the shape of the batch's "x" is used. Metrics: "t" `[B]`,
        the mean over the frames.

    Raises:
        ValueError: if the grid does not end at 0, or chunk or solver_steps is out of range; when called, if chunk does
            not divide the number of frames of x or the grid does not begin at t_max.
    """
    times = times_of(grid, "trajectory_regression")
    check_chunk("trajectory_regression", chunk)
    if not 1 <= solver_steps <= MOST_SOLVER_STEPS:
        raise ValueError(f"trajectory_regression: solver_steps = {solver_steps}. Valid: 1 .. {MOST_SOLVER_STEPS}")
    coarse = np.array((*times, 0.0))
    fine = np.interp(np.arange(len(times) * solver_steps + 1) / solver_steps, np.arange(len(coarse)), coarse)

    @entry(generator, teacher)
    def loss(networks, schedule, keys, batch, step):
        check_ends(schedule, plan(coarse))
        prior_keys, step_keys = split(keys, 2)
        condition = batch.get("condition")
        shape = batch["x"].shape
        ddim = from_denoiser(denoiser(frozen(networks, "teacher"), schedule, teacher, condition), schedule)
        z = prior(schedule, prior_keys, shape[1:])
        pairs = (jnp.asarray(fine[:-1], jnp.float32), jnp.asarray(fine[1:], jnp.float32))

        def stepped(x, pair):
            x = ddim(x, *pair).astype(x.dtype)
            return x, x

        _, states = jax.lax.scan(stepped, z, pairs)
        states = jnp.concatenate([z[None], states[solver_steps - 1 :: solver_steps]])
        steps, t = drawn_times("trajectory_regression", schedule, step_keys, times, shape, chunk)
        row, frame = jnp.arange(shape[0])[:, None], jnp.arange(shape[1])
        x0 = predict(player(networks, "model"), schedule, generator, states[steps, row, frame], t, condition).x0
        losses = weighted_mean_square(jnp.float32(steps < len(times)), x0 - states[-1])
        return losses, {"t": jnp.mean(t, axis=1)}

    return Objective(loss, reads=to_the_end(generator), teacher=Teacher(bidirectional=True))
