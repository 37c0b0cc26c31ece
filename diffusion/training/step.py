"""The train step: one pure function, the same on one device and on a mesh."""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffusion.arrays.arguments import described, require_function
from diffusion.models.layers import scan
from diffusion.schedules import check_schedule
from diffusion.timesteps.densities import check_density
from diffusion.training.ema import ExponentialMovingAverage
from diffusion.training.gradient_norms import by_block
from diffusion.training.state import HEALTHY, TrainState

HEADS = "heads"  # the entry of the parameters that holds the heads' parameters
BINS = 10  # equal bins of t in [0, 1] for the curve of the loss by t


def example_keys(key: jax.Array, step: jax.Array, position: jax.Array) -> jax.Array:
    """Returns one key for each example: `fold_in(fold_in(key, step), position in the global batch)`.

    Draws therefore depend only on the run's seed, the step and the example, not on devices, processes or micro-batches.

    Args:
        key: the run's key.
        step: the number of the step, int [].
        position: the position of each example in the global batch, int [B].

    Returns:
        keys [B].
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), position)


def training_key(seed: jax.typing.ArrayLike) -> jax.Array:
    """Returns the key of all draws in training, one half of the seed's split; the other half draws the parameters."""
    return jax.random.split(jax.random.key(seed))[1]


def seeded(step: Callable) -> Callable:
    """Returns a train step `(state, batch, seed) -> (state, metrics)` from a step with a key, see `make_train_step`."""
    return lambda state, batch, seed: step(state, batch, training_key(seed))


def prepare(batch: dict) -> dict:
    """Returns the batch that objectives take, from the batch that the host loads.

    Args:
        batch: {"image": uint8 [B, ...], "label": int [B] (optional), "index": int [B]}; or, for data of any other
            kind, "x": float [B, ...] in place of the image, and "condition", a pytree, in place of the label. Other
            entries ("noise") stay as they are. The index is the number of an example among all examples of the
            training, and not its row in the data: strata of times go by it, and would tie each record to one stratum.

    Returns:
        {"x": float32 [B, ...], images in [-1, 1]; "condition": labels, the result of `conditioned`, or None; "index":
        int [B]}.
    """
    prepared = {"condition": batch.get("label")}
    prepared |= {name: leaf for name, leaf in batch.items() if name not in ("image", "label", "skipped")}
    if "image" in batch:
        from diffusion.data.transforms import to_model

        prepared["x"] = to_model(batch["image"])
        if "rejected" in batch:
            prepared["rejected"] = to_model(batch["rejected"])
    if "condition" in batch:
        prepared["condition"] = conditioned(batch["condition"])
    return prepared


def conditioned(condition: Any) -> Any:
    """The condition that a network receives: a record's, with bytes as numbers in [-1, 1], as in x."""
    from diffusion.data.transforms import to_model

    return jax.tree.map(lambda leaf: to_model(leaf) if leaf.dtype == np.uint8 else leaf, condition)


def split(tree: Any, number: int, shards: int) -> Any:
    """Splits a batch into micro-batches, without moving a row from one device to another.

    Args:
        tree: the batch, leaves [B, ...], where B is a multiple of `shards` times `number`.
        number: number of micro-batches.
        shards: number of devices over which the rows are split. Each micro-batch takes equally many consecutive rows
            of each device.

    Returns:
        Leaves [number, B / number, ...].
    """

    def leaf(x):
        rows = x.shape[0]
        rest = x.shape[1:]
        x = x.reshape(shards, number, rows // (shards * number), *rest)
        return x.swapaxes(0, 1).reshape(number, rows // number, *rest)

    return jax.tree.map(leaf, tree)


def join(tree: Any, shards: int) -> Any:
    """Returns the rows in the order they had before `split`: leaves [number, B / number, ...] -> [B, ...]."""

    def leaf(x):
        number = x.shape[0]
        rows = x.shape[1]
        rest = x.shape[2:]
        x = x.reshape(number, shards, rows // shards, *rest)
        return x.swapaxes(0, 1).reshape(number * rows, *rest)

    return jax.tree.map(leaf, tree)


def _made_once(gradients: Any) -> Any:
    """Returns the same gradients; on a GPU each is materialised before anything reads it.

    On a GPU several layers of a stack may share a turn of its scan (`layers.scan.turn`); the gradient of the stack is
    then a concatenation. Without the barrier XLA repeats this concatenation in the updates of both moments, of the
    parameters and of the average: four kernels, which move 17 arrays of the parameters' size. With the barrier the
    update is one kernel, which moves 9, as for every other parameter.
    """
    return jax.lax.optimization_barrier(gradients) if jax.default_backend() == "gpu" else gradients


def loss_by_t(t: jax.Array, losses: jax.Array) -> dict[str, jax.Array]:
    """Returns the sum and the count of losses in ten equal bins of t in [0, 1].

    Args:
        t: the time of each example, float [B] or [B, F]; with [B, F] the example counts at its first noise level.
        losses: the loss of each example, float [B].

    Returns:
        {"sum": float32 [10], "count": int32 [10]}.
    """
    t = t.reshape(t.shape[0], -1)[:, 0]
    member = jax.nn.one_hot(jnp.clip(jnp.floor(t * BINS), 0, BINS - 1).astype(jnp.int32), BINS)  # [B, 10]
    # `where`, not a product, so that a bin without a bad example stays finite.
    total = jnp.where(member > 0, losses[:, None], 0.0).sum(0)
    return {"sum": total.astype(jnp.float32), "count": member.sum(0).astype(jnp.int32)}


def _check_arguments(objective: Any, apply: Any, schedule: Any, optimizer: Any, ema: Any) -> None:
    """Refuses arguments of `make_train_step` of another kind, which would fail while the step is traced."""
    example = (
        "an objective (networks, schedule, keys, batch, step) -> (losses, metrics), e.g. objectives.denoising(...)"
    )
    require_function(objective, "objective", example, takes=5)
    require_function(apply, "apply", "a function (params, x_t, clock, condition) -> output, e.g. module.apply")
    if callable(schedule):
        check_schedule(schedule)
    for value, argument, valid in (
        (optimizer, "optimizer", "an optax transformation, e.g. optax.adamw(1e-4)"),
        (ema, "ema", "a moving average, e.g. ema.exponential_moving_average(0.9999)"),
    ):
        if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
            raise TypeError(f"{argument} must be {valid}; got {described(value)}")


def make_train_step(
    objective: Callable,
    apply: Callable[..., jax.Array],
    schedule: Any,
    optimizer: Any,
    ema: ExponentialMovingAverage,
    density: Any = None,
    accumulate: int = 1,
    shards: int = 1,
    axis: str | None = None,
    frozen: Mapping[str, Callable[..., jax.Array]] = types.MappingProxyType({}),
    heads: Mapping[str, Callable[..., jax.Array]] = types.MappingProxyType({}),
    base: str = "",
    follow: Mapping[str, Callable[[Any, Any], Any]] = types.MappingProxyType({}),
    buffer: Any = None,
) -> Callable[[TrainState, dict, jax.Array], tuple[TrainState, dict]]:
    """Returns the pure function `(state, batch, key) -> (state, metrics)` of one update.

    The loss is the mean of the objective's per-example losses, its gradient goes through the optimizer, and the moving
    average follows the new parameters. If the loss or the gradient's norm is not finite, the state does not change
    except for `failed_at`, which records the step; every later call returns the same state.

    The objective receives the networks "model", "target" (the moving average before the update) and the `frozen` ones;
    only "model" receives gradients.

    Compile it by `jax.jit(step, donate_argnums=0)`.

    Args:
        objective: the objective, (networks, schedule, keys [B], batch, step) -> (losses [B], metrics with "t").
        apply: the network, (params, x_t, clock, condition) -> output.
        schedule: the noise schedule, a NoiseSchedule.
        optimizer: an optax transformation; if it has a `learning_rate` (see `optimizers`), that is among the metrics.
        ema: the moving average, see `ema.exponential_moving_average`.
        density: the density of training times that the objective samples; None where its state is not carried.
        accumulate: the number of micro-batches whose gradients are summed before the update. The draws are the same as
            for the whole batch, and the result is equal up to the order of the sum.
        shards: the number of devices that the batch is split over.
        axis: the name of the axis over which the batch is split under `pmap`: each device has its own rows, and this
            step sums the gradients over devices. None under `jit`, where every function has the whole batch.
        frozen: {name: (params, x_t, clock, condition) -> output} of the networks whose parameters are in `state.frozen`
            or `state.unsaved` by that name, or else the base's.
        heads: {name: (params, *inputs) -> output} of the networks that train with the model, whose parameters are
            `state.params[HEADS]`.
        base: the name of the frozen network that the trained one is a part of: `apply` receives its parameters before
            its own; "" for none.
        follow: {name: (params, the objective's metric of this name) -> params} for the heads that have running
            statistics of the batch; see `objectives.Head`.
        buffer: the objective's `objectives.Buffer`, whose samples are in `state.buffer`; None for none.

    Returns:
        step: (TrainState, batch of the host (see `prepare`), key) -> (TrainState, metrics): "loss", "grad_norm"
        (before clipping), "grad_norm_by_block" [K] (see `gradient_norms`), "learning_rate", "loss_by_t" {"sum": [10],
        "count": [10]}, "failed_at", and the mean of every other per-example metric of the objective; "skipped", the
        number of damaged records, where the batch counts them.

    Raises:
        TypeError: if an argument has another kind, such as an objective that was not called.
        ValueError: if accumulate is below 1, or the density draws times outside of the schedule's.
        TypeError: while tracing, if the objective does not return losses and metrics with "t".
        ValueError: while tracing, if the batch does not divide by `accumulate * shards`, or the objective returns
            statistics that no function of `follow` takes.
    """
    _check_arguments(objective, apply, schedule, optimizer, ema)
    if accumulate < 1:
        raise ValueError(f"accumulate = {accumulate}: must be >= 1.")
    if density is not None and schedule is not None:
        check_density(schedule, density)

    def summed_loss(params, others, base_params, keys, batch, step, examples):
        trained = {name: functools.partial(head, params[HEADS][name]) for name, head in heads.items()}
        networks = {**others, **trained, "model": functools.partial(apply, *base_params, params)}
        with scan.differentiated():
            returned = objective(networks, schedule, keys, batch, step)
        is_pair = isinstance(returned, tuple) and len(returned) == 2
        if not is_pair or not isinstance(returned[1], Mapping) or "t" not in returned[1]:
            raise TypeError(
                "an objective must return (losses [B], metrics), and the metrics must hold the examples' times as "
                f'"t", such as {{"t": t}}; got {jax.tree.map(described, returned)}'
            )
        losses, metrics = returned
        # Each micro-batch divides by the number of examples of the whole batch, so that the sum over them is the mean.
        return losses.sum() / examples, (losses, dict(metrics))

    gradient = jax.value_and_grad(summed_loss, has_aux=True)

    def loss_and_gradient(state, batch, key):
        rows = batch["index"].shape[0]  # rows of all devices; under pmap, of one
        if rows % (accumulate * shards):
            raise ValueError(
                f"train.batch_size = {rows} does not divide evenly into accumulate = {accumulate} micro-batches on "
                f"{shards} devices; make it a multiple of {accumulate * shards}."
            )
        first = 0 if axis is None else jax.lax.axis_index(axis) * rows
        examples = rows if axis is None else jax.lax.axis_size(axis) * rows
        keys = example_keys(key, state.step, first + jnp.arange(rows))
        batch = prepare(batch)
        shared = {} if density is None else {"density": state.density}  # shared by all examples, and never split
        shared |= {} if buffer is None else {"buffer": state.buffer}
        unchanging = {**(state.frozen or {}), **(state.unsaved or {})}
        others = {
            name: functools.partial(frozen[name], unchanging[name if name in unchanging else base]) for name in frozen
        }
        base_params = (unchanging[base],) if base else ()
        others["target"] = functools.partial(apply, *base_params, state.ema)
        if accumulate == 1:
            (loss, details), grads = gradient(
                state.params, others, base_params, keys, batch | shared, state.step, examples
            )
            return loss, grads, details

        def micro(carry, part):
            part_keys, part_batch = part
            (loss, part_details), grads = gradient(
                state.params, others, base_params, part_keys, part_batch | shared, state.step, examples
            )
            return jax.tree.map(jnp.add, carry, (loss, grads)), part_details

        zero = (jnp.zeros([], jnp.float32), jax.tree.map(jnp.zeros_like, state.params))
        (loss, grads), details = jax.lax.scan(micro, zero, split((keys, batch), accumulate, shards))
        return loss, grads, join(details, shards)

    def step(state: TrainState, batch: dict, key: jax.Array) -> tuple[TrainState, dict]:
        loss, grads, gathered = loss_and_gradient(state, batch, key)
        if axis is not None:
            loss, grads = jax.lax.psum((loss, grads), axis)
            gathered = jax.lax.all_gather(gathered, axis, tiled=True)  # per example, in the order of the batch
        losses, details = gathered
        t = details.pop("t")
        replay = state.buffer if buffer is None else buffer.update(state.buffer, details.pop("buffer"), state.step)
        grads = _made_once(grads)
        grad_norm = optax.global_norm(grads)
        nested = sorted(name for name, values in details.items() if name not in follow and not hasattr(values, "mean"))
        if nested:
            raise ValueError(
                f"make_train_step: the objective returns statistics for {', '.join(nested)}, but nothing uses them. "
                "Valid: follow={name: head.follow} for each such head in objective.heads"
            )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        if follow:
            moved = {name: head(params[HEADS][name], details.pop(name)) for name, head in follow.items()}
            params = {**params, HEADS: {**params[HEADS], **moved}}
        healthy = state.failed_at == HEALTHY
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        accepted = functools.partial(jax.tree.map, lambda new, old: jnp.where(healthy & finite, new, old))
        params = accepted(params, state.params)  # the average reads these, so that one kernel computes both
        updated = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema=ema.update(state.ema, params, state.step),
            density=state.density if density is None else density.update(state.density, t, losses),
            failed_at=state.failed_at,
            frozen=state.frozen,
            second_players=state.second_players,
            unsaved=state.unsaved,
            buffer=replay,
        )
        stopped = state._replace(failed_at=jnp.where(healthy, state.step, state.failed_at))
        state_after = accepted(updated, stopped)._replace(params=params)
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "grad_norm_by_block": by_block(grads),
            "loss_by_t": loss_by_t(t, losses),
            "failed_at": state_after.failed_at,
            **{name: values.mean() for name, values in details.items()},
        }
        if "skipped" in batch:  # one for each record that another replaces, see data.pipeline
            skipped = batch["skipped"].sum()
            metrics["skipped"] = skipped if axis is None else jax.lax.psum(skipped, axis)
        if hasattr(optimizer, "learning_rate"):
            metrics["learning_rate"] = jnp.asarray(optimizer.learning_rate(state.step), jnp.float32)
        return state_after, metrics

    return step
