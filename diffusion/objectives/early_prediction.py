"""A prediction from an intermediate block, trained with the network and usable for guidance (RAEv2)."""

import jax
import jax.numpy as jnp

from diffusion.objectives import projectors
from diffusion.objectives.feature_losses import Term
from diffusion.objectives.inputs import mean_square
from diffusion.objectives.projectors import Projector
from diffusion.objectives.weightings import error_scale
from diffusion.parameterizations import Parameterization, velocity
from diffusion.schedules import left_broadcast, rectified_flow


def early_prediction(
    parameterization: Parameterization,
    layer: int = 8,
    weight: float = 1.0,
    until: int | None = None,
    projector: Projector | None = None,
) -> Term:
    """A second output of the network, from the features of a block, which is the weaker model of `guidance.internal`.

        term = mean |v_hat - v|^2,    v = alpha' x_0 + sigma' eps,    v_hat the velocity that project(h) predicts

    project(h) is read with the same parameterization as the network's output.

    Facts:
        loss: |v_hat - v|^2 of the prediction project(h)
        networks: model, which returns (output, features)
        optimum: the best prediction from the features h
        paper: Singh et al. 2026, "Improved Baselines with Representation Autoencoders", and the authors' code
            (DiTwDDTHeadIG), whose final layer reads h plus the embedding of t; here it reads only h

    Args:
        parameterization: the network's parameterization.
        layer: index of the block whose features are h; 8 of 28 in the authors' code.
        weight: weight of the term; 1 in the authors' code.
        until: training step at which the term ends; None for no end.
        projector: projector from h to the values of x that a token represents; `projectors.final_layer()` if None.

    Raises:
        ValueError: if layer is below 1, or if the parameterization is x0, epsilon or score: the conversion to a
            velocity divides their output by a coefficient that vanishes at one end of the process, where the term would
            be unbounded.
    """
    if layer < 1:
        raise ValueError(f"early_prediction: layer = {layer} must be at least 1, the first block of the network")
    if parameterization.channels == 1 and not _is_bounded(parameterization):
        raise ValueError(
            f"early_prediction: to get a velocity from a network that predicts {parameterization.name}, its output is "
            "divided by a coefficient that vanishes at one end of the process, so the term would be unbounded. Valid: "
            "velocity, v, edm, clipped_x0"
        )

    def loss(seen):
        schedule = seen.schedule
        t = seen.t
        x_0 = seen.batch["x"]
        x_t = seen.x / left_broadcast(parameterization.input_scale(schedule, t), x_0)
        eps = (x_t - left_broadcast(schedule.alpha(t), x_0) * x_0) / left_broadcast(schedule.sigma(t), x_0)
        output = projectors.untokens(seen.project(seen.features[0]), x_0.shape[1:])
        prediction = parameterization.to_prediction(schedule, t, x_t, output)
        velocity_of = lambda x_0, eps: velocity().target(schedule, t, x_0, eps)
        return mean_square(velocity_of(prediction.x0, jnp.asarray(prediction.eps)) - velocity_of(x_0, eps))

    return Term(loss, (layer,), weight, until, projector=projector or projectors.final_layer(), target=0, predicts=True)


def _is_bounded(parameterization: Parameterization) -> bool:
    """Whether an error of the output gives a bounded error of the velocity at both ends of the rectified flow."""
    schedule = rectified_flow()
    with jax.ensure_compile_time_eval():
        ends = jnp.array([1e-4, 1 - 1e-4])
        weight = error_scale(schedule, ends, parameterization) / error_scale(schedule, ends, velocity())
        return not bool(jnp.any(weight > 1e4))
