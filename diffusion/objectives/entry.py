"""Checks of the arguments and the result of an objective, shared by all objectives."""

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from diffusion.arrays import padding
from diffusion.arrays.arguments import require, require_floats, require_keys, require_rows, require_shape
from diffusion.objectives.few_step import NETWORKS
from diffusion.objectives.objective import Loss
from diffusion.parameterizations import Parameterization, check
from diffusion.parameterizations.network_outputs import check_kind
from diffusion.schedules import check_schedule

# The entries of a batch that have a row for each example, and all that some objective of this library reads; two
# players share one batch.
ROWS = ("x", "condition", "data_condition", "metadata", "index", "noise", "start", "features", "rejected")
ENTRIES = (*ROWS, "density", "buffer", "real")


def entry(
    *read: Parameterization | None, entries: tuple[str, ...] | None = ENTRIES, real: bool = False, symbols: bool = False
) -> Callable[[Loss], Loss]:
    """A decorator of losses that refuses arguments which the loss would otherwise broadcast or ignore.

        @entry(parameterization)
        def loss(networks, schedule, keys, batch, step): ...

    Args:
        *read: the parameterizations of the loss's networks; None stands for no network.
        entries: names of the entries that the batch may hold; None for a wrapper, whose wrapped objective checks them.
        real: whether the loss supports a mask of padding, as a mean over the real values of x; True for a wrapper that
            passes x and its mask on to the wrapped objective.
        symbols: whether x is an array of symbols, which the loss itself checks; otherwise x must be floating-point.

    Returns:
        A function from a loss to the checked loss. The checked loss raises a TypeError if the networks, the schedule or
        the batch have the wrong type, or x has integers. It raises a ValueError
        - if there is not one key, or not one loss, for each example;
        - if no objective reads an entry of the batch;
        - if the noise has another shape than x, or the condition another number of examples;
        - if a mask removes a whole example, or the loss does not support masks;
        - if a parameterization is not defined at schedule.t_max, because the trained network could not be sampled.

    Raises:
        TypeError: if a parameterization is none, such as a density, or a function that was not called.
    """

    for parameterization in read:
        if parameterization is not None:
            check_kind(parameterization)

    def decorate(loss: Loss) -> Loss:
        @functools.wraps(loss)
        def entered(networks, schedule, keys, batch, step):
            if not (isinstance(networks, Mapping) and isinstance(batch, Mapping)):
                require(networks, Mapping, "networks", NETWORKS)
                require(batch, Mapping, "batch", 'a mapping with the data as "x", {"x": x, "condition": labels}')
            if "x" not in batch:
                raise ValueError(f'the batch must hold the data as "x"; its entries are {sorted(batch)}')
            unknown = [] if entries is None else sorted(set(batch) - set(entries))
            if unknown:
                raise ValueError(
                    f"no objective reads {', '.join(unknown)} from the batch. Valid entries: {', '.join(ENTRIES)}. "
                    "Pass further inputs of the network in the condition"
                )
            x = batch["x"]
            if not symbols and entries is not None:
                require_floats(x, 'batch["x"]')
            for name in ("noise", "start", "rejected"):
                if name in batch:
                    require_shape(batch[name], x.shape, f'batch["{name}"], which is paired with x,')
            for name in ("condition", "data_condition"):
                require_rows(batch.get(name), f'batch["{name}"]', (len(x),))
            if "index" in batch:
                require_shape(batch["index"], (len(x),), 'batch["index"], the global index of each example,')
            if "real" in batch:
                if not real:
                    name = loss.__qualname__.partition(".")[0].lstrip("_")
                    raise ValueError(
                        f'{name} does not support a mask of padding (the "real" of a batch), because its losses are '
                        "means over all of x. Valid: e.g. denoising, flow_matching or variational_bound"
                    )
                padding.check(batch["real"], x)
            require_keys(keys, x.shape[0], f"an objective needs one key for each of the {x.shape[0]} examples")
            check_schedule(schedule)
            for parameterization in read:
                if parameterization is not None:
                    check(parameterization, schedule)
            losses, metrics = loss(networks, schedule, keys, batch, step)
            if schedule.leaves and jnp.ndim(metrics["t"]) == 2:  # one time for each example, at every number of it
                metrics = {**metrics, "t": metrics["t"][:, 0]}
            require_shape(losses, keys.shape, "an objective's losses, one for each example,")
            return losses, metrics

        return entered

    return decorate
