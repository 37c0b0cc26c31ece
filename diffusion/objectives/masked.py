"""Training of networks that see a part of the patches, whose indices are the condition's entry "keep"."""

__all__ = ["masked_denoising", "visible_patches", "with_masked_copy"]

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.arrays.boxes import patchify
from diffusion.arrays.parameters import traced
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import player
from diffusion.objectives.inputs import apart, conditioned, noised, output_weight, split
from diffusion.objectives.objective import Denoises, Objective, check_objective
from diffusion.objectives.objective_facts import Condition
from diffusion.objectives.weightings import Weighting
from diffusion.package import public
from diffusion.parameterizations import Parameterization, evaluate
from diffusion.schedules import left_broadcast
from diffusion.timesteps import Density

SECOND = 2**16  # number of the second loss's draws; the terms on features of the wrapped objective count from 1


def visible_patches(keys: Array, number: int, least: float, most: float) -> Array:
    """Draws the patches that a network sees, leaving out a share of them between `least` and `most`.

    Args:
        keys: `[B]` random keys, which must not be used elsewhere.
        number: number N of patches of a picture.
        least: smallest share that is left out.
        most: largest share that is left out; each example's share is uniform between the two.

    Returns:
        int32 `[B, K]` indices of the patches, K = floor(N (1 - least)), where all subsets of one size are equally
        likely. An example with fewer patches ends with entries -1.
    """
    places = max(int(number * (1 - least) + 1e-6), 1)  # 100 * (1 - 0.9) is 9.999999999999998

    def draw(key):
        order_key, share_key = jax.random.split(key)
        order = jax.random.permutation(order_key, number)[:places]
        if least == most:
            return order
        share = least + (most - least) * jax.random.uniform(share_key, (), jnp.float32)
        size = jnp.maximum(jnp.floor(number * (1 - share)), 1)
        return jnp.where(jnp.arange(places) < size, order, -1)

    return jax.vmap(draw)(keys).astype(jnp.int32)


def masked_denoising(
    parameterization: Parameterization,
    weighting: Weighting,
    density: Density,
    patch: int = 2,
    ratio: float = 0.5,
    reconstruction: float = 0.1,
) -> Objective:
    """Denoising by a network that sees a part of the patches, and reconstruction of the others.

        loss = w(t) mean over seen patches of |x0_hat - x_0|^2
             + reconstruction mean over the others of |x0_hat - norm(x_t)|^2

    where norm standardizes a patch to mean 0 and standard deviation 1. For the patches that the network does not see,
    the target is x_t, as in a masked autoencoder. Train the last steps without a mask, by `denoising`.

    Facts:
        loss: w(t) |x0 - x0_hat|^2 on seen patches + reconstruction |norm(x_t) - x0_hat|^2 on the others
        networks: model, whose condition has "keep"
        optimum: E[target | the seen patches of x_t] on the seen patches
        paper: Zheng et al. 2023, "Fast Training of Diffusion Models with Masked Transformers", equations 4 to 6

    Args:
        parameterization: parameterization of the network "model".
        weighting: (schedule, t) -> weight on the squared error of x0.
        density: distribution of t.
        patch: side of the network's patches in pixels, >= 1.
        ratio: share of the patches that the network does not see, in (0, 1).
        reconstruction: weight of the second term, >= 0.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: "t", "seen" and "reconstruction", each `[B]`, the
        terms without the weight `reconstruction`.

    Raises:
        ValueError: if an argument is out of range; when called, if x are not pictures whose sides the patch divides.
    """
    _check("masked_denoising", patch, ratio, ratio)
    if not traced(reconstruction) and not reconstruction >= 0:
        raise ValueError(
            f"masked_denoising: reconstruction = {reconstruction} must be 0 or positive (0.1 in the paper)"
        )

    @entry(parameterization)
    def loss(networks, schedule, keys, batch, step):
        mask_keys, keys = split(keys, 2)
        x_0, eps, x_t, t, importance = noised(schedule, density, keys, batch)
        number = _number(x_0, patch)
        keep = visible_patches(mask_keys, number, ratio, ratio)
        visible = jnp.zeros((len(x_0), number)).at[jnp.arange(len(x_0))[:, None], keep].set(1)
        condition = _with_keep(batch.get("condition"), keep)
        output, t = evaluate(player(networks, "model"), schedule, parameterization, x_t, t, condition)
        weight = importance * output_weight(weighting, schedule, t, parameterization)
        error = left_broadcast(weight, output) * jnp.square(output - parameterization.target(schedule, t, x_0, eps))
        denoised = _mean(patchify(error, patch).mean(-1), visible)

        noisy = patchify(x_t, patch)
        target = (noisy - noisy.mean(-1, keepdims=True)) / jnp.sqrt(noisy.var(-1, keepdims=True, ddof=1) + 1e-6)
        x0_hat = patchify(parameterization.to_prediction(schedule, t, x_t, output).x0, patch)
        rest = _mean(jnp.square(x0_hat - target).mean(-1), 1 - visible)
        # `importance` multiplies the whole loss, so that its expectation is over the intended density.
        return denoised + reconstruction * importance * rest, {"t": t, "seen": denoised, "reconstruction": rest}

    return Objective(loss, reads=Denoises(parameterization), density=density, condition=Condition(masks=patch))


def with_masked_copy(objective: Objective, patch: int = 2, least: float = 0.3, most: float = 0.5) -> Objective:
    """An objective plus a second loss, with other times and noise, in which the network sees a part of the patches.

    Facts:
        loss: the wrapped objective's, with all patches and with a part of them
        networks: the wrapped objective's; in the second evaluation, the condition of model has "keep"
        optimum: the wrapped objective's
        paper: Gao et al. 2023, "Masked Diffusion Transformer is a Strong Image Synthesizer", section 3, and
            the authors' code, in which both have the same times

    Args:
        objective: the objective to wrap. Wrap condition dropout around this one, so that it does not drop "keep".
        patch: side of the network's patches in pixels, >= 1.
        least: smallest share of the patches that the network does not see, in (0, 1).
        most: largest share, in [least, 1); each example's share is uniform between the two. Some networks need least =
            most.

    Returns:
        An objective. Metrics: the objective's, and "masked" `[B]`, the second loss.

    Raises:
        ValueError: if an argument is out of range; when called, if x are not pictures whose sides the patch divides.
    """
    check_objective(objective)
    _check("with_masked_copy", patch, least, most)

    @entry(entries=None)
    def both(networks, schedule, keys, batch, step):
        losses, metrics = objective(networks, schedule, keys, batch, step)
        # The keys of the objective's draws do not change.
        mask_keys, keys = split(apart(keys, SECOND), 2)
        keep = visible_patches(mask_keys, _number(batch["x"], patch), least, most)
        masked = conditioned(batch, _with_keep(batch.get("condition"), keep))
        again, _ = objective(networks, schedule, keys, masked, step)
        return losses + again, {**metrics, "masked": again}

    condition = objective.condition._replace(masks=patch, masks_vary=least < most)
    return dataclasses.replace(
        objective, loss=both, condition=condition, examples=objective.examples._replace(real=False)
    )


def _with_keep(condition: Any, keep: Array) -> dict[str, Any]:
    if condition is not None and not isinstance(condition, Mapping):
        condition = {"label": condition}
    return {**(condition or {}), "keep": keep}


def _check(name: str, patch: int, least: float, most: float) -> None:
    if patch < 1:
        raise ValueError(f"{name}: patch = {patch} must be the side of the network's patches, a positive number")
    if not 0 < least <= most < 1:
        given = f"ratio = {least}" if least == most else f"least = {least}, most = {most}"
        raise ValueError(f"{name}: {given} must be shares of the patches in (0, 1), with least <= most")


def _number(x: Array, patch: int) -> int:
    """The number of patches of a picture in x [B, H, W, C]."""
    if x.ndim != 4 or x.shape[1] % patch or x.shape[2] % patch:
        raise ValueError(
            f"masks of patches need pictures [B, H, W, C] whose sides are multiples of patch = {patch}; got {x.shape}"
        )
    return (x.shape[1] // patch) * (x.shape[2] // patch)


def _mean(values: Array, chosen: Array) -> Array:
    """`[B]` mean of values [B, N] where `chosen` is 1."""
    return (values * chosen).sum(-1) / chosen.sum(-1)


public.declare(__name__, renamed={"kept": "visible_patches"})
