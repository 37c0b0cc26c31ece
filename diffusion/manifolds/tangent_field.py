"""Networks on a manifold as tangent fields, with the score where it is known."""

__all__ = ["require_brownian", "score_field", "velocity_field"]

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_network
from diffusion.flows.flow_maps import TangentField
from diffusion.manifolds.manifold import Manifold, scaled
from diffusion.package import public
from diffusion.parameterizations import Clock, Network, read_output, time
from diffusion.schedules import NoiseSchedule, check_schedule


def velocity_field(
    network: Network, schedule: NoiseSchedule, manifold: Manifold, clock: Clock | None = None, condition: Any = None
) -> TangentField:
    """The field of a network that predicts the velocity, whose output is lifted to a tangent vector.

    Args:
        network: (x `[B, *shape]`, clock `[B]`, condition) -> output in x's shape.
        schedule: schedule that defines the range of times.
        manifold: the manifold of x.
        clock: the time that the network receives; t itself if None.
        condition: condition of the network.
    """
    return TangentField(manifold, _tangent(network, schedule, manifold, clock, condition))


def score_field(
    network: Network, schedule: NoiseSchedule, manifold: Manifold, clock: Clock | None = None, condition: Any = None
) -> TangentField:
    """The field of a network that predicts -sigma(t) times the score of Brownian motion with variance sigma(t)^2.

        score = -output / sigma(t),    dx/dt = -g(t)^2 score / 2

    De Bortoli et al. 2022, "Riemannian Score-Based Generative Modelling"; for the flow, Song et al. 2021, eq. 13.

    Args:
        network: (x `[B, *shape]`, clock `[B]`, condition) -> output in x's shape.
        schedule: a schedule with alpha = 1, such as `schedules.variance_exploding()`.
        manifold: the manifold of x.
        clock: the time that the network receives; t itself if None.
        condition: condition of the network.
    """
    output = _tangent(network, schedule, manifold, clock, condition)
    score = lambda x, t: scaled(-1 / schedule.sigma(t), output(x, t))
    velocity = lambda x, t: scaled(-(schedule.diffusion(t) ** 2) / 2, score(x, t))
    return TangentField(manifold, velocity, score)


def require_brownian(schedule: NoiseSchedule, name: str) -> None:
    """Refuses a schedule with alpha < 1, because data on a manifold cannot be scaled.

    Args:
        schedule: the schedule of the process.
        name: name of the function that needs Brownian motion.

    Raises:
        ValueError: if alpha < 1 at some t; the message names a valid schedule.
    """
    with jax.ensure_compile_time_eval():
        alpha = float(schedule.alpha(schedule.t_max))
    if alpha != 1:
        raise ValueError(
            f"{name}: this schedule shrinks the data, which is impossible on a manifold. Valid: a schedule with alpha "
            "= 1, variance_exploding()"
        )


def _tangent(
    network: Network, schedule: NoiseSchedule, manifold: Manifold, clock: Clock | None, condition: Any
) -> Callable[[Array, ArrayLike], Array]:
    """The function (x, t) -> the network's output as a tangent vector at x, see `Manifold.lift`."""
    require_network(network)
    check_schedule(schedule)
    clock = clock or time()

    def output(x, t):
        t = jnp.broadcast_to(jnp.asarray(t), x.shape[:1])
        return manifold.lift(x, read_output(network(x, clock(schedule, t), condition), x))

    return output


public.declare(__name__, renamed={"of_score": "score_field", "of_velocity": "velocity_field"})
