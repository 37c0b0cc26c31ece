"""The weights of the base model that a run tunes: they are read from its folder, and compared when the run resumes."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from diffusion.experiments.run.players import BASE
from diffusion.experiments.run.program import Program
from diffusion.experiments.sampling import base_weights
from diffusion.io.leaf_names import leaves_of
from diffusion.recipe import ConfigError
from diffusion.recipe.base import NULL, TunedNetwork
from diffusion.training import state
from diffusion.training.checkpointing import checksums


def first(program: Program) -> tuple[state.TrainState, dict[str, Any]]:
    """The state before the first step, with the weights of the base, and the description of these weights.

    Returns:
        (the state, {"path", "sha256", "leaves"} as in `describe_base`).
    """
    tuned = program.tuned
    assert tuned is not None  # the run tunes a base
    base, unsaved = _base(program, tuned)
    target = program.target._replace(unsaved=None)
    make = lambda seed, base: program.init(seed, base)._replace(unsaved=None)
    initial_state = jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))(program.seed, base)
    return initial_state._replace(unsaved=unsaved), describe_base(tuned, base)


def restored(
    program: Program, train_state: state.TrainState, before: Mapping[str, Any] | None
) -> tuple[state.TrainState, dict[str, Any] | None]:
    """A restored state with the weights of the base, which its checkpoint does not hold.

    Args:
        program: the run's program.
        train_state: the state that `checkpoints.restore` returned.
        before: the description of the weights in the checkpoint; None if the checkpoint has none.

    Returns:
        (the state, {"path", "sha256", "leaves"} as in `describe_base`); the second is None for a run without a base.

    Raises:
        ConfigError: if the folder holds other weights; it names the first leaf that differs.
    """
    tuned = program.tuned
    if tuned is None:
        return train_state, None
    base, unsaved = _base(program, tuned)
    now = describe_base(tuned, base)
    differs = [name for name, leaf in now["leaves"].items() if before and before["leaves"].get(name) != leaf]
    if before:  # an earlier version cast all kernels to float32
        leaves = leaves_of(dict(base))
        cast = lambda name: describe_leaves({name: leaves[name].astype("float32")})[name]
        differs = [name for name in differs if cast(name) != before["leaves"].get(name)]
    if before and differs:
        raise ConfigError(
            f"config.base.path = {tuned.base.path!r} holds another model than the run has tuned so far (from "
            f"{before['path']}): {differs[0]} differs. Valid: the same weights."
        )
    return train_state._replace(unsaved=unsaved), {**(before or now), "path": now["path"]}


def _base(program: Program, tuned: TunedNetwork) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the networks of the base that the run reads, {BASE: the networks among them that the train state keeps})."""
    stored = program.target.unsaved[BASE]
    base = _loaded(program, (*(name for name in stored if name != NULL), *tuned.tuning.copies))
    return base, {BASE: {name: base[name] for name in stored}}


def _loaded(program: Program, parts: Sequence[str]) -> dict[str, Any]:
    """Networks of the base, and the input for an empty caption, on the devices of the run."""
    assert program.tuned is not None
    base = program.tuned.base
    assert base.null is not None  # it is set once the captions are encoded
    target = program.target.unsaved[BASE]
    replicated = NamedSharding(jax.tree.leaves(target)[0].sharding.mesh, PartitionSpec())

    def shardings(part: str, shapes: Any) -> Any:
        if part in target:
            return jax.tree.map(lambda leaf: leaf.sharding, target[part])
        return jax.tree.map(lambda leaf: replicated, shapes)

    null = {name: jax.device_put(leaf, replicated) for name, leaf in base.null.items()}
    return {**base.load(dict.fromkeys(parts), shardings), NULL: null}


def describe_leaves(weights: Mapping[str, Any]) -> dict[str, str]:
    """The shape, the type and a checksum of each leaf, by its name."""
    sums = checksums.checksums(dict(weights))
    leaves = leaves_of(dict(weights))
    return {name: base_weights.entry(leaves[name], sums[name]) for name in sorted(sums)}


def describe_base(tuned: TunedNetwork, weights: Mapping[str, Any]) -> dict[str, Any]:
    """{"path", "sha256", "leaves"}: the folder of a base, a hash of all weights, and `describe_leaves` of them."""
    leaves = describe_leaves(weights)
    listed = "".join(f"{name} {leaf}\n" for name, leaf in leaves.items())
    return {"path": str(tuned.base.path), "sha256": hashlib.sha256(listed.encode()).hexdigest(), "leaves": leaves}
