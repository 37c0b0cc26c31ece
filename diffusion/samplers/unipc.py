"""UniPC: a predictor and a corrector in the form of DPM-Solver++ that share their evaluations."""

import jax.numpy as jnp
from jax import Array

from diffusion.samplers.dpmpp import data_weights
from diffusion.samplers.exponential import ddim_step, log_ratio
from diffusion.samplers.linear_multistep import History, correction, latest, no_history, prepend
from diffusion.samplers.sample import Sampler
from diffusion.schedules import NoiseSchedule

VARIANTS = ("bh1", "bh2")


def unipc(order: int = 2, variant: str = "bh2", lower_order_final: bool = False) -> Sampler:
    """UniPC-p with data prediction: with m_k the latest x0 at the nodes lambda_k, m_0 at t, h = lambda_s - lambda_t,

        x_s = (sigma_s / sigma_t) x_t^c + alpha_s (1 - e^-h) m_0 + sum_k w_k (m_k - m_0)        (predictor, p nodes)

    After the next step has evaluated m at x_s, the same formula with this additional node gives x_s^c (corrector, p + 1
    nodes). The weights integrate the polynomial in lambda through the nodes exactly, w_k = sigma_s int l_k d(alpha /
    sigma). With two nodes the authors use B(h) / 2 times the slope instead, where B(h) = h or 1 - e^-h. The variants
    differ only in this, since B(h) cancels in their linear system otherwise.

    Only the next step uses a corrected sample. `sample` and its trajectory return the predicted samples, at which the
    network was evaluated.

    Facts:
        kind: deterministic, multistep, predictor-corrector
        order: p + 1 in log(alpha / sigma); as shipped, with first steps of lower order, min(p + 1, 3)
        nfe: steps
        accepts: any schedule; plans that go up invert
        paper: Zhao et al. 2023, "UniPC", algorithms 1 and 2, and the authors' code

    Args:
        order: number p of nodes of the predictor, in 1 .. 3.
        variant: "bh1", B(h) = h, which the authors advise for unconditional sampling in few steps; or "bh2",
            B(h) = 1 - e^-h, for guided sampling.
        lower_order_final: whether p falls to 1 over the last steps, as in the authors' code.

    Raises:
        ValueError: if order or variant is not one of these.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"unipc: order = {order} must be 1, 2 or 3")
    if variant not in VARIANTS:
        raise ValueError(f"unipc: unknown variant {variant!r}. Valid: {', '.join(VARIANTS)}")

    def weights(schedule: NoiseSchedule, s: Array, nodes: Array) -> Array:
        """`[K]` weights of the outputs at these nodes for the step from the first of them to s."""
        h = log_ratio(schedule, s) - nodes[0]
        regular = jnp.isfinite(h)
        h = jnp.where(regular, h, 1)
        b = h if variant == "bh1" else -jnp.expm1(-h)
        usable = regular & jnp.isfinite(nodes[1:])
        apart = jnp.where(usable, nodes[1:] - nodes[0], 1)
        slopes = jnp.where(usable, schedule.alpha(s) * b / 2 * h / apart, 0)
        two = jnp.isfinite(nodes).sum() == 2
        return jnp.where(two, prepend(-slopes.sum(), slopes), data_weights(schedule, s, nodes))

    def step(state, denoise, schedule, plan, i, noise):
        t = plan.t[i]
        s = plan.s[i]
        prediction = denoise(state.x, t)
        outputs = prepend(prediction.x0, state.outputs)
        nodes = prepend(log_ratio(schedule, t), state.nodes)

        # The last step is repeated with the new node, as a change of its result; its first node must remain the first.
        swap = jnp.array([1, 0, *range(2, order + 1)])
        used = latest(state.nodes, plan, i - 1, order, lower_order_final)
        corrected = correction(weights(schedule, t, prepend(nodes[0], used)[swap]), outputs[swap])
        change = corrected - correction(weights(schedule, t, used), state.outputs)

        sigma_t = schedule.sigma(t)
        predicted = ddim_step(schedule, s, prediction) + schedule.sigma(s) / jnp.where(sigma_t > 0, sigma_t, 1) * change
        used = latest(nodes[:-1], plan, i, order, lower_order_final)
        x = predicted + correction(weights(schedule, s, used), outputs[:-1])
        return History(x, prediction.x0, outputs[:-1], nodes[:-1])

    return Sampler(no_history(order), step, draws=0, nfe=lambda steps: steps)
