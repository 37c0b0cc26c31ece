"""Guidance by a prediction from an intermediate block of the same network."""

__all__ = ["depth_branches", "internal"]

from collections.abc import Callable
from typing import Any

from jax import Array

from diffusion.guidance.branches import Branches
from diffusion.guidance.classifier_free import classifier_free
from diffusion.guidance.strength import Interval, Scale
from diffusion.package import public
from diffusion.parameterizations import Denoiser, Parameterization, check_network, predict
from diffusion.parameterizations.sampled_process import belonging_to
from diffusion.schedules import NoiseSchedule


def internal(branches: Branches, scale: Scale, interval: Interval = None) -> Denoiser:
    """Internal guidance: early + w (full - early), where early is a prediction from an intermediate block.

    Facts:
        nfe: 1 call of the network
        neutral: w = 1, the network's denoiser exactly
        paper: Singh et al. 2026, "Improved Baselines with Representation Autoencoders", and the authors' code, with
            w = 1.78 for t in [0.1, 1] on ImageNet at 256

    Args:
        branches: evaluates (full, early), see `depth_branches`.
        scale: guidance scale w: a number, `[B]` or a function of t.
        interval: (t_low, t_high), both included, outside which w = 1; None for all times.

    Raises:
        ValueError: if the interval is empty; when called, if there are not two branches.
    """
    return classifier_free(branches, scale, interval)


internal.depths = True  # type: ignore[attr-defined]  # `depth_branches` makes its branches


def depth_branches(
    network: Callable[..., Any],
    schedule: NoiseSchedule,
    parameterization: Parameterization,
    condition: Any,
    layer: int,
    head: Callable[[Array, tuple[int, ...]], Array],
) -> Branches:
    """Evaluates a network once for two predictions: its output, and the output of a head on the features of a block.

    Args:
        network: (x, clock, condition, features=(layer,)) -> (output, (features h,)).
        schedule: the process.
        parameterization: meaning of both outputs.
        condition: condition of both predictions.
        layer: index of the block, from 1.
        head: (features h, shape of an example) -> output `[B, ...]`.

    Returns:
        A function (x_t, t) -> (full, early).
    """
    check_network(network, schedule, parameterization)

    def branches(x_t, t):
        features = []

        def full(x, clock, condition):
            output, (h,) = network(x, clock, condition, features=(layer,))
            features.append(h)
            return output

        final = predict(full, schedule, parameterization, x_t, t, condition)
        early = predict(lambda *_: head(features[0], x_t.shape[1:]), schedule, parameterization, x_t, t, condition)
        return final, early

    return belonging_to(schedule, branches)


public.declare(__name__, renamed={"of_depths": "depth_branches"})
