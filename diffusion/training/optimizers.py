"""Optimizers by name. To add one: a function that returns an `Optimizer`, and its line in `OPTIMIZERS`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from diffusion.io.leaf_names import leaf_name
from diffusion.models.layers import constants
from diffusion.training.gradient_norms import STACKS

COOLDOWN = 0.2
"""Share of a run's steps over which the rate of "cooldown" falls to 0."""


class Optimizer(NamedTuple):
    """An optax transformation with its learning rate.

    Attributes:
        init: a function params -> state.
        update: a function (gradients, state, params) -> (updates, state).
        learning_rate: a function of the step int [] -> float32 []; the rate used in that step.
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]
    learning_rate: optax.Schedule


def learning_rate_schedule(peak: float, warmup: int, decay: str, steps: int | None) -> optax.Schedule:
    """Returns the learning rate by step: linear from 0 during `warmup` steps, then by one of three courses.

    Step k of the warm-up uses `peak (k + 1) / warmup`, so that no step has rate 0. "constant" stays at the peak, and
    "cosine" falls to 0 by half a cosine. "cooldown" stays at the peak and falls linearly to 0 over the last fifth of
    the run, or over what the warm-up leaves of it, so runs of different lengths are equal until the shorter one cools
    down.

    Args:
        peak: the rate after the warm-up, > 0.
        warmup: the number of steps of the warm-up, >= 0.
        decay: the course after the warm-up, "constant", "cosine" or "cooldown".
        steps: the length of the run, at which the rate reaches 0; needed for "cosine" and "cooldown".

    Returns:
        A function of the step (int []).

    Raises:
        ValueError: if a value is out of range.

    Reference: Haegele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", 2024, for
    the cooldown.
    """
    if not peak > 0:
        raise ValueError(f"learning_rate = {peak}: must be > 0.")
    if warmup < 0:
        raise ValueError(f"warmup = {warmup}: must be a number of steps >= 0.")
    if decay not in ("constant", "cosine", "cooldown"):
        raise ValueError(f'decay = "{decay}". Valid: "constant", "cosine", "cooldown".')
    if decay != "constant" and (steps is None or steps < 1):
        raise ValueError(f'decay = "{decay}" ends at 0 after `steps` steps, so steps must be at least 1; got {steps}.')
    if decay == "constant" or steps is None:
        after = optax.constant_schedule(peak)
    elif decay == "cooldown":
        rest = max(steps - warmup, 1)
        length = min(max(round(COOLDOWN * steps), 1), rest)
        after = optax.linear_schedule(peak, 0.0, length, transition_begin=rest - length)
    else:  # a run that ends within its warm-up has no decay
        after = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1)), after], [warmup])


def adamw(
    learning_rate: float = 1e-4,
    warmup: int = 0,
    decay: str = "constant",
    steps: int | None = None,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    clip: float | None = None,
) -> Optimizer:
    """Returns AdamW (Loshchilov & Hutter, 2019, algorithm 2) after a clipping of the gradient's global norm.

    Args:
        learning_rate: the rate after the warm-up, > 0.
        warmup: the number of steps of linear warm-up.
        decay: the course after the warm-up, "constant", "cosine" or "cooldown" (to 0 at `steps`).
        steps: the length of the run, for "cosine" and "cooldown".
        weight_decay: the decoupled weight decay, times the learning rate; >= 0. Constants among the parameters have
            none: leaves with a name in `diffusion.models.layers.constants.NAMES`.
        b1: the decay of the first moment, in [0, 1).
        b2: the decay of the second moment, in [0, 1).
        clip: the largest global norm of the gradient; None does not clip.

    Returns:
        Optimizer.

    Raises:
        ValueError: if a value is out of range.
    """
    _check(weight_decay, clip, b1=b1, b2=b2)
    rate = learning_rate_schedule(learning_rate, warmup, decay, steps)
    moments = optax.scale_by_adam(b1=b1, b2=b2)
    chain = optax.chain(moments, _decay(weight_decay), optax.scale_by_learning_rate(rate))
    return _clipped(chain, clip, rate)


def muon(
    learning_rate: float = 1e-3,
    warmup: int = 0,
    decay: str = "constant",
    steps: int | None = None,
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    b1: float = 0.9,
    b2: float = 0.999,
    clip: float | None = None,
) -> Optimizer:
    """Returns Muon: steps along the nearest orthogonal matrix for the matrices of hidden layers, Adam for the rest.

        M <- momentum M + G;   W <- W - rate (0.2 sqrt(max(rows, columns)) orthogonal(G + momentum M) + weight_decay W)

    orthogonal(U S V^T) is nearly U V^T, by five Newton-Schulz iterations (Jordan et al., 2024); M and G have the bias
    correction of Adam's moments. The factor gives the step the size of AdamW's, so that one rate serves both (Liu et
    al., 2025, equation 4). Adam with Nesterov's momentum (Dozat, 2016), without weight decay, trains embeddings, the
    layers on pixels and outputs, biases and scales.

    Args:
        learning_rate: the rate after the warm-up, > 0; two to three times AdamW's is a good first try.
        warmup: the number of steps of linear warm-up.
        decay: the course after the warm-up, "constant", "cosine" or "cooldown" (to 0 at `steps`).
        steps: the length of the run, for "cosine" and "cooldown".
        weight_decay: the decoupled weight decay of the matrices, times the learning rate; >= 0.
        momentum: the decay of M, in [0, 1).
        b1: the decay of Adam's first moment, in [0, 1).
        b2: the decay of Adam's second moment, in [0, 1).
        clip: the largest global norm of the gradient; None does not clip.

    Returns:
        Optimizer; its `init` raises ValueError for a network without stacked layers (see `hidden_matrices`).

    Raises:
        ValueError: if a value is out of range.
    """
    _check(weight_decay, clip, momentum=momentum, b1=b1, b2=b2)
    rate = learning_rate_schedule(learning_rate, warmup, decay, steps)
    chain = contrib.muon(
        rate,
        beta=momentum,
        weight_decay=weight_decay,
        adam_b1=b1,
        adam_b2=b2,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=hidden_matrices,
    )
    return _clipped(chain, clip, rate)


class AdanState(NamedTuple):
    """The moments of `adan`: of gradients, of their differences, of squares, and the gradient of the step before."""

    count: jax.Array
    mean: Any
    difference: Any
    square: Any
    before: Any


def adan(
    learning_rate: float = 3e-4,
    warmup: int = 0,
    decay: str = "constant",
    steps: int | None = None,
    weight_decay: float = 0.0,
    b1: float = 0.98,
    b2: float = 0.92,
    b3: float = 0.99,
    clip: float | None = None,
) -> Optimizer:
    """Returns Adan (Xie et al., 2022, algorithm 1): Adam with Nesterov's momentum by differences of gradients.

        m <- b1 m + (1 - b1) G;   v <- b2 v + (1 - b2) D;   n <- b3 n + (1 - b3) (G + b2 D)^2
        W <- W - rate ((m + b2 v) / (sqrt(n) + 1e-8) + weight_decay W)

    D is the gradient minus the gradient of the step before, 0 at the first step; m, v and n have the bias correction of
    Adam's moments. The decays are as in the authors' code, one minus the paper's. (optax's `adan` has 1 - b2 in the
    place of b2 before D and v.)

    Args:
        learning_rate: the rate after the warm-up, > 0.
        warmup: the number of steps of linear warm-up.
        decay: the course after the warm-up, "constant", "cosine" or "cooldown" (to 0 at `steps`).
        steps: the length of the run, for "cosine" and "cooldown".
        weight_decay: the decoupled weight decay, times the learning rate, as `adamw`; >= 0.
        b1: the decay of the mean gradient, in [0, 1).
        b2: the decay of the mean difference, in [0, 1).
        b3: the decay of the mean square, in [0, 1).
        clip: the largest global norm of the gradient; None does not clip.

    Returns:
        Optimizer.

    Raises:
        ValueError: if a value is out of range.
    """
    _check(weight_decay, clip, b1=b1, b2=b2, b3=b3)
    rate = learning_rate_schedule(learning_rate, warmup, decay, steps)

    def init(params):
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(4)]
        return AdanState(jnp.zeros((), jnp.int32), *zeros)

    def update(updates, state, params=None):
        count = state.count + 1
        average = lambda decay: lambda moment, new: decay * moment + (1 - decay) * new
        difference = jax.tree.map(lambda g, before: jnp.where(count == 1, 0.0, g - before), updates, state.before)
        ahead = jax.tree.map(lambda g, d: jnp.square(g + b2 * d), updates, difference)
        m = jax.tree.map(average(b1), state.mean, updates)
        v = jax.tree.map(average(b2), state.difference, difference)
        n = jax.tree.map(average(b3), state.square, ahead)
        c1, c2, c3 = (1 - decay ** count.astype(jnp.float32) for decay in (b1, b2, b3))
        move = lambda m, v, n: (m / c1 + b2 * v / c2) / (jnp.sqrt(n / c3) + 1e-8)
        return jax.tree.map(move, m, v, n), AdanState(count, m, v, n, updates)

    moments = optax.GradientTransformation(init, update)
    chain = optax.chain(moments, _decay(weight_decay), optax.scale_by_learning_rate(rate))
    return _clipped(chain, clip, rate)


def hidden_matrices(params: Any) -> Any:
    """The axes by which kernels of stacked layers are matrices: rows (inputs) and columns (outputs).

    The first axis counts the layers. In a layer called "out" all further axes but the last are inputs, as in
    attention's [L, heads, size, width]. In any other layer the next axis is the input, as in [L, width, 3, heads,
    size], one matrix of queries, keys and values.

    Args:
        params: pytree of arrays, named as `diffusion.models` names them: stacks end in "blocks" or "layers".

    Returns:
        The same pytree of `optax.contrib.MuonDimensionNumbers`, None for leaves that are not hidden matrices.

    Raises:
        ValueError: if there is no hidden matrix, as in U-Nets.
    """

    def axes(path: tuple, leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
        *modules, last = leaf_name(path).split("/")
        if last != "kernel" or not any(name.endswith(STACKS) for name in modules):
            return None
        split = leaf.ndim - 1 if modules[-1] == "out" else 2
        return contrib.MuonDimensionNumbers(tuple(range(1, split)), tuple(range(split, leaf.ndim)))

    dimensions = jax.tree_util.tree_map_with_path(axes, params)
    if not jax.tree.leaves(dimensions, is_leaf=lambda x: isinstance(x, contrib.MuonDimensionNumbers)):
        raise ValueError(
            "muon finds no stacked layers in this network, and would train all of it by Adam. Use adamw instead."
        )
    return dimensions


def _decay(weight_decay: float) -> optax.GradientTransformation:
    """Decoupled weight decay of all parameters but constants, with the state that optax's has without a mask."""
    every = optax.add_decayed_weights(weight_decay)

    def update(updates, state, params=None):
        decayed, state = every.update(updates, state, params)
        constant = lambda path: leaf_name(path).rpartition("/")[-1] in constants.NAMES
        choose = lambda path, before, after: before if constant(path) else after
        return jax.tree_util.tree_map_with_path(choose, updates, decayed), state

    return optax.GradientTransformation(every.init, update)


def _check(weight_decay: float, clip: float | None, **decays: float) -> None:
    """Refuses values out of range."""
    for name, value in decays.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} = {value}: must be in [0, 1).")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay = {weight_decay}: must be >= 0.")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip = {clip}: must be > 0, or None for no clipping.")


def _clipped(chain: optax.GradientTransformation, clip: float | None, rate: optax.Schedule) -> Optimizer:
    """The optimizer after a clipping of the gradient's global norm."""
    if clip is not None:
        chain = optax.chain(optax.clip_by_global_norm(clip), chain)
    return Optimizer(chain.init, chain.update, rate)


OPTIMIZERS = {"adamw": adamw, "adan": adan, "muon": muon}
