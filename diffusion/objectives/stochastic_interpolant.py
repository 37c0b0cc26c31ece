"""Stochastic interpolants and Schroedinger bridges: velocity and noise of a path between any two distributions."""

import functools

import jax
import jax.numpy as jnp
from jax.core import Tracer

from diffusion.arrays import padding
from diffusion.flows.flow_maps import FlowMap
from diffusion.objectives import couplings
from diffusion.objectives.couplings import Coupling
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import normal, pairing, pairs, split, times, weigh, weighted_mean_square
from diffusion.objectives.interpolants import Interpolant, brownian_bridge
from diffusion.objectives.objective import Jumps, Objective
from diffusion.objectives.objective_facts import Trained
from diffusion.parameterizations import Clock, evaluate, velocity
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density

TARGETS = {
    "velocity": lambda mean_dot, gamma_dot, z: mean_dot + gamma_dot * z,
    "mean_velocity": lambda mean_dot, gamma_dot, z: mean_dot,
    "denoiser": lambda mean_dot, gamma_dot, z: z,
}


def stochastic_interpolant(
    interpolant: Interpolant,
    density: Density,
    predicts: tuple[str, ...] = ("velocity", "denoiser"),
    coupling: Coupling | None = None,
    clock: Clock | None = None,
) -> Objective:
    """Regression on the velocity and the noise of x_t = I(t, x_0, x_1) + gamma(t) z.

        velocity        b   = E[dI/dt + gamma' z | x_t]    of the flow dx = b dt
        mean_velocity   v   = E[dI/dt | x_t],              b = v + gamma' eta
        denoiser        eta = E[z | x_t],                  score = -eta / gamma

        loss = sum over the predicted quantities of mean |output - target|^2

    The flow's samples have the distribution of the SDE dx = (b - e score) dt + sqrt(2 e) dw run from t = 1 to 0, for
    any e >= 0. x_1 is the batch's "noise", which may be another kind of data, or a draw from N(0, I). Where gamma' is
    infinite at the ends (Brownian bridges) the velocity's loss is not integrable: keep the density away from the ends,
    or learn mean_velocity.

    Facts:
        loss: sum of |b - (dI/dt + gamma' z)|^2, |v - dI/dt|^2 and |eta - z|^2 over the quantities in `predicts`
        networks: model, with C channels for each quantity
        optimum: the functions among b, v and eta that `predicts` names
        paper: Albergo et al. 2023, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions"

    Args:
        interpolant: I and gamma; see `objectives.interpolants`.
        density: distribution of t in (0, 1).
        predicts: names of the quantities in the channels of the network "model", in order.
        coupling: `Coupling` of x_0 and x_1; if None, each x_0 keeps the batch's "noise" or the drawn one.
        clock: the time that the network receives; t itself if None. The schedule has no other use here.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t" and the loss of each quantity by its name, `[B]`.
        A network that predicts b, or v and eta, is sampled as a flow map, with Euler steps from x_1 ~ N(0, I).

    Raises:
        ValueError: if a name is unknown; when called, if the network does not have C channels for each quantity.
    """
    unknown = [name for name in predicts if name not in TARGETS]
    if unknown or not predicts:
        raise ValueError(f"stochastic_interpolant: predicts = {predicts}. Valid: one or more of {', '.join(TARGETS)}")
    outputs = velocity(clock)._replace(channels=len(predicts))  # only the clock is used

    @entry(outputs, real=True)
    def loss(networks, schedule, keys, batch, step):
        time_keys, pair_keys, noise_keys = split(keys, 3)
        x_0, x_1 = pairs(pair_keys, batch, coupling)
        t, importance = times(density, time_keys, batch)
        z = padding.zeroed(normal(noise_keys, x_0), batch.get("real"))
        if "real" in batch:
            importance = weigh(importance, padding.share(batch["real"], x_0))
        at = left_broadcast(t, x_0)
        mean, mean_dot = jax.jvp(lambda t: interpolant.mean(t, x_0, x_1), (at,), (jnp.ones_like(at),))
        gamma, gamma_dot = jax.jvp(interpolant.gamma, (at,), (jnp.ones_like(at),))
        output, t = evaluate(player(networks, "model"), schedule, outputs, mean + gamma * z, t, batch.get("condition"))
        losses = {
            name: weighted_mean_square(importance, part - TARGETS[name](mean_dot, gamma_dot, z))
            for name, part in zip(predicts, jnp.split(output, len(predicts), axis=-1))
        }
        return functools.reduce(jnp.add, losses.values()), {"t": t, **losses}

    examples = pairing(coupling)._replace(score=False)
    flows = "velocity" in predicts or {"mean_velocity", "denoiser"} <= set(predicts)
    read = functools.partial(_flow, interpolant=interpolant, predicts=predicts, outputs=outputs)
    return Objective(
        loss,
        reads=Jumps(read) if flows else None,
        density=density,
        network=Trained(channels=len(predicts)),
        examples=examples,
    )


def _flow(network, schedule, condition, interpolant, predicts, outputs):
    """An Euler step of dx = b dt, as a flow map."""
    with jax.ensure_compile_time_eval():
        std = jnp.max(jnp.hypot(schedule.alpha(schedule.t_max), schedule.sigma(schedule.t_max)))
    # A float, since under jit even an operation on a known array is traced.
    if not isinstance(std, Tracer) and (schedule.t_max != 1 or abs(float(std) - 1) > 0.01):
        raise ValueError(
            "a stochastic interpolant goes from N(0, I) at t = 1, but this schedule starts from noise of standard "
            f"deviation {std:g} at t = {schedule.t_max:g}. Valid: rectified_flow"
        )

    def flow_map(x_t, t, s):
        output, t = evaluate(network, schedule, outputs, x_t, t, condition)
        parts = dict(zip(predicts, jnp.split(output, len(predicts), axis=-1)))
        if "velocity" not in parts:
            gamma, gamma_dot = jax.jvp(interpolant.gamma, (t,), (jnp.ones_like(t),))
            rate = left_broadcast(jnp.where(gamma > 0, gamma_dot, 0), x_t)  # gamma' may be infinite where gamma = 0
            parts["velocity"] = parts["mean_velocity"] + rate * parts["denoiser"]
        return x_t + left_broadcast(s - t, x_t) * parts["velocity"]

    return FlowMap(flow_map)


def schroedinger_bridge(
    sigma: float, density: Density, coupling: Coupling | None = None, clock: Clock | None = None
) -> Objective:
    """The Schroedinger bridge between data and "noise": Brownian bridges between the pairs of an entropic plan.

        loss = mean |b - (x_1 - x_0 + sigma (1 - 2 t) / (2 sqrt(t (1 - t))) z)|^2 + mean |eta - z|^2,
        x_t  = (1 - t) x_0 + t x_1 + sigma sqrt(t (1 - t)) z,    (x_0, x_1) ~ coupling

    With b and the score -eta / (sigma sqrt(t (1 - t))) the bridge is dx = (b - sigma^2 / 2 score) dt + sigma dw from t
    = 1 to 0, and the flow dx = b dt has its marginals. The second term is the authors' weighted score loss. This is the
    `stochastic_interpolant` of Brownian bridges. If the batch's "noise" are the pairs that the learned bridge
    generates, it is one iteration of bridge matching (Shi et al. 2023, "Diffusion Schroedinger Bridge Matching").

    Facts:
        loss: |b - target|^2 + |eta - z|^2
        networks: model, with 2 C channels
        optimum: the bridge's velocity, and E[z | x_t] = -sigma sqrt(t (1 - t)) times its score
        paper: Tong et al. 2024, "Simulation-Free Schroedinger Bridges via Score and Flow Matching"

    Args:
        sigma: the bridge's diffusion, > 0.
        density: distribution of t in (0, 1), best kept away from the ends, where the target is infinite.
        coupling: `Coupling` of x_0 and x_1; `couplings.schroedinger_bridge(sigma)` if None.
        clock: the time that the network "model" receives; t itself if None.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "velocity" and "denoiser", each `[B]`.
    """
    coupling = couplings.schroedinger_bridge(sigma) if coupling is None else coupling
    return stochastic_interpolant(brownian_bridge(sigma), density, ("velocity", "denoiser"), coupling, clock)
