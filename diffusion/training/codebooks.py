"""A codebook that follows its vectors while the rest of an autoencoder is trained by `training.alternating`.

`following` wraps the training:

    players = {"autoencoder": Player(vq_autoencoder(codebook=0.0), "model", adam), "critic": ...}
    init, step = following(alternating(players, {"model": coding.vq_network(vq), ...}, None), vq)
    state = init({"model": coding.parameters(params), "critic": ...})     # .training, .counts, .sums
    state, metrics = jax.jit(step, donate_argnums=0)(state, batch, key)
"""

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.arrays import random_keys
from diffusion.models.autoencoders import quantizers
from diffusion.training.alternating import Alternating, AlternatingState
from diffusion.training.state import HEALTHY
from diffusion.training.step import prepare

RESTARTS = 2**31  # number of the draws of the restarts, which no player has


class FollowingState(NamedTuple):
    """The whole state of a run, as one pytree.

    Attributes:
        training: the state of the players; the codes are among its parameters.
        counts: the counts [K] of `quantizers.Codebook`.
        sums: its sums [K, D].
    """

    training: AlternatingState
    counts: jax.Array
    sums: jax.Array


def following(
    training: Alternating, module: nn.Module, decay: float = 0.99, threshold: float = 1.0, network: str = "model"
) -> Alternating:
    """The same training; after each step the codes follow their vectors, and dead codes start again.

    The vectors come from the step's batch under the new encoder, which takes one more forward pass. Under `jit` they
    come from the whole batch, however it is split over devices; under `pmap` they do not. Give the codebook's loss the
    weight 0: only `quantizers.codebook_update` and `quantizers.restart_dead` move the codes.

    Args:
        training: the training, from `alternating`, with a network of `coding.vq_network` and `coding.parameters`.
        module: the module of that autoencoder, which has a codebook.
        decay: the decay of the moving averages, in [0, 1).
        threshold: the least number of a batch's vectors that a code needs, on the average; a code with fewer is
            restarted at one of the vectors.
        network: the name of the autoencoder.

    Returns:
        (init, step) on `FollowingState`. The step adds the metrics "codebook/restarted", and "codebook/perplexity" of
        the batch's codes.

    Raises:
        ValueError: for an autoencoder without a codebook, or a decay or threshold out of range.
    """
    if not getattr(module, "codes", 0):
        raise ValueError(
            f"following: {type(module).__name__} has no codebook that could follow; neither finite levels nor "
            "Gaussian latents have one."
        )
    if not 0 <= decay < 1 or not threshold > 0:
        raise ValueError(f"following: decay = {decay} must be in [0, 1), and threshold = {threshold} above 0.")

    def init(networks: Any) -> FollowingState:
        begun = quantizers.codebook_init(networks[network]["autoencoder"]["codebook"])
        # The sums begin as a copy of the codes, so that a step may overwrite both.
        return FollowingState(training.init(networks), begun.counts, jnp.array(begun.sums, copy=True))

    def step(state: FollowingState, batch: Any, key: jax.Array) -> tuple[FollowingState, dict]:
        after, metrics = training.step(state.training, batch, key)
        player = after.networks[network]
        weights = player["autoencoder"]
        before = state.training.networks[network]["autoencoder"]["codebook"]
        codebook = quantizers.Codebook(before.astype(jnp.float32), state.counts, state.sums)
        z = cast(jax.Array, module.apply({"params": weights}, prepare(batch)["x"], method="encode"))
        indices, _ = quantizers.nearest(z, codebook.codes)
        moved = quantizers.codebook_update(codebook, z, indices, decay)
        drawn = jax.random.fold_in(random_keys.further(key, RESTARTS), state.training.step)
        moved, restarted = quantizers.restart_dead(moved, z, drawn, threshold)
        healthy = after.failed_at == HEALTHY
        codebook = jax.tree.map(lambda new, old: jnp.where(healthy, new, old), moved, codebook)
        codes = codebook.codes.astype(weights["codebook"].dtype)
        networks = {**after.networks, network: {**player, "autoencoder": {**weights, "codebook": codes}}}
        used = quantizers.perplexity(quantizers.histogram(indices, len(codes)))
        metrics = {**metrics, "codebook/restarted": restarted, "codebook/perplexity": used}
        return FollowingState(after._replace(networks=networks), codebook.counts, codebook.sums), metrics

    return Alternating(init, step)
