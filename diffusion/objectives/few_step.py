"""Functions shared by objectives of few-step networks: named networks, derivatives through them, distances."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require, require_function, require_shape
from diffusion.arrays.parameters import traced
from diffusion.arrays.square_roots import root
from diffusion.flows import flow_maps
from diffusion.objectives.inputs import mean_square
from diffusion.objectives.objective import Jumps
from diffusion.parameterizations import Network, Parameterization, evaluate
from diffusion.schedules import NoiseSchedule, at_each, left_broadcast

Distance = Callable[[Array, Array], Array]
"""(x `[B, ...]`, y `[B, ...]`) -> distances `[B]`."""
NETWORKS = 'a mapping from names to networks, {"model": network}'  # what `networks` must be


def player(networks: Mapping[str, Network], name: str) -> Network:
    """The network with this name.

    Raises:
        TypeError: if networks is not a mapping of functions.
        ValueError: if there is no such network.
    """
    require(networks, Mapping, "networks", NETWORKS)
    if name not in networks:
        raise ValueError(f"this objective needs a network named {name!r}; it received {sorted(networks)}")
    require_function(networks[name], f"the network {name!r}", "a function (x, clock, condition) -> output")
    return networks[name]


def frozen(networks: Mapping[str, Network], name: str) -> Network:
    """The network with this name, with a gradient neither for its parameters nor through its output."""
    network = player(networks, name)
    return lambda x, clock, condition: jax.lax.stop_gradient(network(x, clock, condition))


def with_fixed_parameters(function: Callable[..., Any], x: Array) -> Any:
    """function(x), with a gradient only with respect to x: traced parameters in the function get none.

    Args:
        function: function of one array, which may close over traced parameters.
        x: the argument of the function.
    """
    converted, held = jax.closure_convert(function, x)
    return converted(x, *jax.lax.stop_gradient(held))


def with_features(
    network: Network, blocks: tuple[int, ...], reader: str = "a discriminator"
) -> tuple[Callable[..., Any], list[tuple[Array, ...]]]:
    """The network as a function that returns its output and appends the features of each call to a list.

    Args:
        network: network that returns (output, features) when it is called with `features`.
        blocks: indices, from 1, of the blocks whose features are read.
        reader: name of the function that reads the features, for the error.

    Raises:
        ValueError: when called, if the network returns no features.
    """
    recorded: list[tuple[Array, ...]] = []

    def called(x, clock, condition):
        returned = network(x, clock, condition, features=blocks)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ValueError(
                f"the network returned {type(returned).__name__}, but {reader} needs (output, features) from a "
                "call with `features`. Valid: e.g. dit"
            )
        output, features = returned
        recorded.append(features)
        return output

    return called, recorded


def teacher_features(
    networks: Mapping[str, Network],
    schedule: NoiseSchedule,
    teacher: Parameterization,
    blocks: tuple[int, ...],
    x: Array,
    t: ArrayLike,
    condition: Any,
) -> tuple[Array, ...]:
    """The features of the network "teacher" after its `blocks`; only x receives a gradient through them."""

    def features(x: Array) -> tuple[Array, ...]:
        called, recorded = with_features(player(networks, "teacher"), blocks)
        evaluate(called, schedule, teacher, x, t, condition)
        return recorded[0]

    return with_fixed_parameters(features, x)


def check_blocks(name: str, blocks: tuple[int, ...]) -> None:
    """Refuses blocks of the teacher that do not exist in any network.

    Args:
        name: name of the objective.
        blocks: indices of the blocks.

    Raises:
        ValueError: for an index below 1.
    """
    if any(block < 1 for block in blocks):
        raise ValueError(f"{name}: blocks = {blocks}. Valid: indices of at least 1, the first block")


def shared_blocks(blocks: tuple[int, ...]) -> tuple[str, ...]:
    """The setting that a student and its discriminator share: the blocks whose features the latter receives."""
    return tuple(f"features of block {block}" for block in blocks)


def mix(schedule: NoiseSchedule, t: ArrayLike, x_0: Array, eps: Array) -> Array:
    """x_t = alpha(t) x_0 + sigma(t) eps."""
    t = at_each(schedule, t, x_0)
    return left_broadcast(schedule.alpha(t), x_0) * x_0 + left_broadcast(schedule.sigma(t), x_0) * eps


def derivative(f: Callable[..., Any], primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """The value of f and its derivative along the tangents, in one forward pass (`jax.jvp`).

    Raises:
        TypeError: if an operation in f has no forward-mode derivative.
    """
    # Under jit JAX raises the error only later, with a message about a primitive "custom_lin" without a rule.
    program = jax.make_jaxpr(lambda primals, tangents: jax.jvp(f, primals, tangents))(primals, tangents)
    if "custom_lin" in str(program):
        raise TypeError(
            "this objective differentiates the network along the flow (forward mode, jax.jvp), but a part of the "
            "network has only a reverse-mode derivative, as fused attention does. Use attention='auto_jvp', 'matmul' "
            "or 'xla' (see diffusion.models.layers.attention), and no custom_vjp elsewhere"
        )
    return jax.jvp(f, primals, tangents)


def to_the_end(parameterization: Parameterization, one_step: bool = False) -> Jumps:
    """The description of a network that is a consistency function; see `flow_maps.consistency` and `Jumps`."""
    return Jumps(
        functools.partial(flow_maps.consistency, parameterization=parameterization), parameterization, one_step
    )


def per_example(distance: Distance) -> Distance:
    """The distance, which raises an error unless it returns one number for each example."""

    def read(a, b):
        value = distance(a, b)
        require_shape(value, a.shape[:1], "a distance, one number for each example,")
        return value

    return read


def squared(a: Array, b: Array) -> Array:
    """`[B]` mean square of the difference: the plain distance."""
    return mean_square(a - b)


def sum_square(error: Array) -> Array:
    """`[B]` squared Euclidean norm of each example's error."""
    return jnp.sum(jnp.square(error), axis=tuple(range(1, error.ndim)))


def pseudo_huber(c: float | None = None) -> Distance:
    """sqrt(|a - b|^2 + c^2) - c, between the squared and the plain Euclidean distance.

    Facts:
        paper: Song and Dhariwal 2023, "Improved Techniques for Training Consistency Models", eq. 7

    Args:
        c: constant of the distance, >= 0; if None, 0.00054 sqrt(D) for data of D numbers, as in the paper. 0 gives the
            Euclidean distance.

    Raises:
        ValueError: if c is negative.
    """
    if c is not None and not traced(c) and not c >= 0:
        raise ValueError(f"pseudo_huber: c = {c} must not be negative; None selects the paper's 0.00054 sqrt(D)")

    def distance(a, b):
        offset = 0.00054 * math.prod(a.shape[1:]) ** 0.5 if c is None else c
        squared = sum_square(a - b) + offset**2
        return root(squared) - offset  # at 0 the error is 0, so a zero gradient is right

    return distance
