"""Editing with a trained denoiser: functions that combine with `samplers.sample` and `guidance`.

| task                      | how                                                                           |
|---------------------------|-------------------------------------------------------------------------------|
| inpainting by replacement | sample(..., after_step=replacement(schedule, plan, known, mask))              |
| by one noise throughout   | sample(..., after_step=replacement_along(schedule, plan, known, mask, noise)) |
| RePaint                   | replacement, along plan = repaint(grid, jump, resamplings), with samplers.ddpm() |
| inpainting by DPS, PiGDM  | guidance.posterior_sampling or pseudoinverse, with measurements.masked(mask)  |
| MCG                       | DPS and replacement together (Chung et al. 2022, "Manifold Constraints")      |
| outpainting               | extended(images, pad), a denoiser by guidance.windows, and replacement        |
| SDEdit                    | sdedit(...)                                                                   |
| style transfer            | sdedit(...) with a denoiser conditioned on the style; t_0 sets the strength   |
| latent interpolation      | ddim() along a plan that goes up, slerp of the ends, ddim() down again        |
| prompt-to-prompt          | prompt_to_prompt(...); the layers have the mask "borrow" (`layer_masks`)      |
"""

__all__ = [
    "borrowing",
    "extended",
    "noised",
    "prompt_to_prompt",
    "repaint",
    "repaint_quarters",
    "replacement",
    "replacement_along",
    "sdedit",
    "slerp",
]

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusion import timesteps
from diffusion.arrays.arguments import described, is_count, require_floats, require_keys, require_mask, require_shape
from diffusion.arrays.parameters import traced
from diffusion.arrays.square_roots import root
from diffusion.guidance.memory import Memory, Unpaired
from diffusion.guidance.prediction_changes import inner
from diffusion.package import public
from diffusion.parameterizations import Denoiser, Network
from diffusion.samplers.sample import AfterStep, AlongPlan, Sampler, sample
from diffusion.schedules import NoiseSchedule, at_each, check_schedule, left_broadcast
from diffusion.schedules.noise_schedule import as_float, check_times
from diffusion.timesteps.plans import Plan, require_plan, times_of


def noised(schedule: NoiseSchedule, t: ArrayLike, images: Array, keys: Array) -> Array:
    """A draw of q(x_t | x_0), alpha x_0 + sigma z, for each example from its key.

    Args:
        schedule: the process.
        t: times `[]` or `[B]`, in [0, schedule.t_max].
        images: x_0 `[B, ...]`; `[1, ...]` for draws from one image.
        keys: `[B]` random keys.

    Raises:
        TypeError: if the images are not floating-point numbers.
        ValueError: if there is not one key for each image, or, outside of `jit`, a time lies outside of the schedule.
    """
    require_floats(images, "x_0")
    size = jnp.size(keys) if len(images) == 1 else len(images)  # all keys may share an image
    require_keys(keys, size, f"noise needs one key for each of the {len(images)} images")
    check_times(schedule, t)
    images = as_float(images)
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)
    t = at_each(schedule, t, images)
    return left_broadcast(schedule.alpha(t), images) * images + left_broadcast(schedule.sigma(t), images) * noise


def replacement(schedule: NoiseSchedule, plan: Plan, known: Array, mask: Array) -> AlongPlan:
    """Inpainting: after each step, the known values are replaced by a fresh draw of q(x_s | x_0).

        x_s <- mask (alpha_s known + sigma_s z) + (1 - mask) x_s

    The known part has its exact distribution at every s, and is exact at s = 0. The rest does not exactly follow its
    conditional distribution, because each step draws the known values again; RePaint's resampling corrects this. There
    is no replacement after steps that renoise, as in RePaint's algorithm 1.

    Facts:
        paper: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", appendix
            I.2; Lugmayr et al. 2022, "RePaint", eq. 8

    Args:
        schedule: the process.
        plan: the sampled plan.
        known: x_0 `[B, ...]`; values that are not known are ignored.
        mask: Bool that broadcasts against `known`, True where x_0 is known.

    Returns:
        A hook for `samplers.sample(..., after_step=)`, which refuses a plan that renoises in other steps.

    Raises:
        TypeError: if the known values are not floating-point numbers, or the mask is not Bool.
    """
    check_schedule(schedule)
    require_plan(plan)
    require_floats(known, "known")
    require_mask(mask, "mask")
    mask = jnp.asarray(mask)
    renoise = jnp.asarray(plan.renoise)

    def after_step(x, s, i, keys):
        drawn = noised(schedule, s, known.astype(x.dtype), keys)
        return _with_known(mask & ~renoise[i], drawn, x)

    return AlongPlan(after_step, plan, times=False)


def replacement_along(schedule: NoiseSchedule, plan: Plan, known: Array, mask: Array, noise: Array) -> AlongPlan:
    """Inpainting as by `replacement`, with the same noise in all steps, and the clean known values after the last.

        x_i <- mask (alpha(t_i) known + sigma(t_i) noise) + (1 - mask) x_i,    t_i the time at which step i starts,
        x_N <- mask known + (1 - mask) x_N

    The known values follow the path from the noise to their clean values, as a deterministic sampler would if the
    denoiser knew them. Each x_i has the same distribution as in `replacement`, but different x_i are not independent.
    The pipelines of diffusers work in this way.

    Args:
        schedule: the process.
        plan: the sampled plan.
        known: x_0 `[B, ...]`; values that are not known are ignored.
        mask: Bool that broadcasts against `known`, True where x_0 is known.
        noise: a draw of N(0, I) `[B, ...]`, usually the initial noise of sampling.

    Returns:
        A hook for `samplers.sample(..., after_step=)`, which refuses another plan.

    Raises:
        TypeError: if the known values are not floating-point numbers, or the mask is not Bool.
    """
    check_schedule(schedule)
    require_plan(plan)
    require_floats(known, "known")
    require_mask(mask, "mask")
    mask = jnp.asarray(mask)
    require_floats(noise, "noise", more="")
    times = jnp.asarray(plan.t)
    last = times.shape[0] - 1
    renoise = jnp.asarray(plan.renoise)

    def after_step(x, s, i, keys):
        require_shape(noise, x.shape, "noise, a draw for each number of x,")
        t = at_each(schedule, times[jnp.minimum(i + 1, last)].astype(x.dtype), x)
        alpha, sigma = (left_broadcast(level(t), x) for level in (schedule.alpha, schedule.sigma))
        clean = known.astype(x.dtype)
        on_line = jnp.where(i < last, alpha * clean + sigma * noise.astype(x.dtype), clean)
        return _with_known(mask & ~renoise[i], on_line, x)

    return AlongPlan(after_step, plan)


def _with_known(mask: Array, known: Array, x: Array) -> Array:
    """x, with the known values where the mask is True; refuses a mask that x would be broadcast to."""
    replaced = jnp.where(mask, known, x)
    require_shape(replaced, x.shape, "x with its known values, to which the mask and the known values broadcast,")
    return replaced


def repaint(grid: ArrayLike, jump: int = 10, resamplings: int = 10) -> Plan:
    """RePaint's plan, which goes back up by `jump` levels from every jump-th level, resamplings - 1 times.

    With more resamplings, the unknown values agree better with the known ones; with small steps, the samples then
    follow the exact conditional distribution. Here a single step goes up the whole jump, by a draw of q(x_s | x_t); the
    authors' code goes up level by level, with the same distribution. The plan has N + (resamplings - 1) (jump + 1) J
    steps, where J = ceil((N - jump) / jump). ddpm() evaluates the network in all steps except the (resamplings - 1) J
    that go up.

    Facts:
        paper: Lugmayr et al. 2022, "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", algorithm 1
            and appendix B, in the order of the authors' code

    Args:
        grid: `[N + 1]` decreasing times.
        jump: length of a jump in levels, >= 1; 10 in the paper.
        resamplings: number of times that each jump is sampled, >= 1; 10 in the paper.

    Raises:
        ValueError: if jump or resamplings is below 1.
    """
    if not (is_count(jump) and is_count(resamplings)):
        raise ValueError(f"repaint: jump = {jump} and resamplings = {resamplings} must be integers of at least 1")
    grid = times_of(grid, "repaint")
    if resamplings > 1 and jump >= grid.size - 1:
        warnings.warn(
            f"repaint: a jump of {jump} levels in {grid.size - 1} steps is never made, so resamplings = {resamplings} "
            f"has no effect. Valid: a jump below {grid.size - 1}",
            stacklevel=2,
        )
    last = grid.size - 2  # levels last .. 0 are noisy and -1 is the end of the grid, as in the authors' code
    left = dict.fromkeys(range(0, last + 1 - jump, jump), resamplings - 1)
    level = last
    levels = [last]
    while level >= 0:
        if left.get(level, 0) > 0:
            left[level] -= 1
            level += jump
        else:
            level -= 1
        levels.append(level)
    return timesteps.plan(grid[last - np.array(levels)], renoise=np.diff(levels) > 0)


def repaint_quarters(plan: Plan, first: int, resamplings: int) -> Plan:
    """The steps of a plan from step `first` on, by `repaint` with jumps of a quarter of these steps.

    With one resampling, the steps are returned unchanged.

    Args:
        plan: a plan of N steps.
        first: index of the first step, in 0 .. N - 1.
        resamplings: number of passes over each part of the way, >= 1.

    Raises:
        ValueError: if first or resamplings is out of range, or resamplings > 1 and the plan goes back to noise itself.
    """
    require_plan(plan)
    steps = len(plan.renoise)
    if not (is_count(first + 1) and first < steps):
        raise ValueError(f"repaint_quarters: first = {first}. Valid: 0 .. {steps - 1}, the steps of the plan")
    if not is_count(resamplings):
        raise ValueError(f"repaint_quarters: resamplings = {resamplings} must be an integer of at least 1")
    if resamplings == 1:
        return Plan(*(times[first:] for times in plan))
    if np.any(plan.renoise):
        raise ValueError(f"resamplings = {resamplings}: the plan goes back to noise itself. Valid: 1")
    grid = plan.grid[first:]
    return repaint(grid, max((len(grid) - 1) // 4, 1), resamplings)


def extended(images: Array, pad: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    """A larger canvas for outpainting by `replacement`, and the mask of its known values.

    Args:
        images: images `[B, H, W, C]`, or arrays of any rank.
        pad: number of values to add before and after, for each axis after the batch axis, e.g. ((0, 0), (16, 16)) to
            widen images.

    Returns:
        (canvas, which is 0 where it is not known; Bool mask of the same shape).
    """
    widths = [(0, 0), *pad] + [(0, 0)] * (images.ndim - 1 - len(pad))
    return jnp.pad(images, widths), jnp.pad(jnp.ones(images.shape, bool), widths)


def sdedit(
    sampler: Sampler,
    denoise: Denoiser | Memory | Unpaired,
    schedule: NoiseSchedule,
    images: Array,
    grid: ArrayLike,
    t_0: float,
    keys: Array,
    after_step: AfterStep | None = None,
) -> Array:
    """SDEdit: adds noise to an image up to the time t_0, and samples from there.

        x_{t_0} = alpha x + sigma z,    then the steps of the grid below t_0

    A larger t_0 changes the image more: for t_0 -> 0 the result is the image, and at alpha(t_0) = 0 nothing of it is
    left. It turns paintings and collages into realistic pictures; with a conditional denoiser it transfers the style of
    the condition.

    Facts:
        paper: Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations",
            algorithm 1

    Args:
        sampler: any sampler of denoisers.
        denoise: any denoiser, guided or not.
        schedule: the process.
        images: images `[B, ...]` to edit.
        grid: `[N + 1]` decreasing times; only times below t_0 are used.
        t_0: starting time, above the grid's last time and at most the schedule's t_max.
        keys: `[B]` random keys.
        after_step: function that is applied after each step, as in `samplers.sample`.

    Raises:
        TypeError: if the images are not floating-point numbers, or the grid is a plan.
        ValueError: if t_0 is not above the grid's last time, or above t_max.
    """
    check_schedule(schedule)
    require_floats(images, "images")
    grid = times_of(grid, "sdedit")
    if np.ndim(t_0):
        raise ValueError(f"sdedit: t_0 is one time for all images, a number; got {described(t_0)}")
    if not grid[-1] < t_0 <= schedule.t_max:
        raise ValueError(
            f"sdedit: t_0 = {t_0} must be above the grid's last time {grid[-1]:g} and at most "
            f"t_max = {schedule.t_max:g}"
        )
    below = grid[grid.astype(np.float32) < np.float32(t_0)]  # a time that is t_0 but for rounding would be no step
    plan = timesteps.plan(np.append(t_0, below).astype(np.result_type(grid.dtype, np.float32)))
    require_keys(keys, jnp.size(keys) if len(images) == 1 else len(images), "sdedit needs one key for each image")
    noise_keys, rest = jax.vmap(jax.random.split, out_axes=1)(keys)
    x = noised(schedule, t_0, as_float(images), noise_keys)
    return sample(sampler, denoise, schedule, x, plan, rest, after_step=after_step)


def slerp(a: Array, b: Array, weight: ArrayLike) -> Array:
    """Spherical interpolation: sin((1 - w) theta) / sin(theta) a + sin(w theta) / sin(theta) b.

    theta is the angle between a and b. Between two latents of equal norm, every point has this norm, which is typical
    of noise; points on the straight line have a smaller norm. Parallel latents are interpolated linearly.

    Facts:
        paper: Shoemake 1985, "Animating Rotation with Quaternion Curves", section 3; for latents White 2016, "Sampling
            Generative Networks", and Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 67

    Args:
        a: first latents `[B, ...]`, such as x at t_max, none of them zero.
        b: second latents, in the same shape.
        weight: weight w, a number or `[B]`; 0 is a, 1 is b.

    Returns:
        The latents between, in float32 or wider.
    """
    a, b = as_float(a), as_float(b)
    require_shape(b, a.shape, "slerp: b, the second latents,")
    norm = lambda v: root(inner(v, v))
    unit = lambda v: v / norm(v)
    theta = 2 * jnp.arctan2(norm(unit(a) - unit(b)), norm(unit(a) + unit(b)))  # exact for small angles too
    w = left_broadcast(jnp.asarray(weight, a.dtype), a)
    wide = jnp.sin(theta) > 1e-6
    part = lambda w: jnp.where(wide, jnp.sin(w * theta) / jnp.where(wide, jnp.sin(theta), 1), w)
    return part(1 - w) * a + part(w) * b


def borrowing(source: Array, target: Array, depth: int, layers: Sequence[int]) -> dict[str, Any]:
    """The condition of 2 B examples, in which each target attends with the maps of its source.

    The layers have the mask "borrow" (`models.layers.layer_masks`).

    Args:
        source: labels `[B]` of the sources.
        target: labels `[B]` of the edits.
        depth: number of layers of the network.
        layers: indices of the layers in which maps are borrowed, in 0 .. depth - 1.

    Raises:
        ValueError: for a layer that the network lacks, or another number of edits than of sources.
    """
    if outside := [layer for layer in layers if layer not in range(depth)]:
        raise ValueError(f"borrowing: layers = {tuple(layers)} has {outside[0]}. Valid: 0 .. {depth - 1}")
    if len(source) != len(target):
        raise ValueError(f"borrowing: {len(source)} sources and {len(target)} targets. Valid: as many of both")
    offset = np.repeat([0, -source.shape[0]], source.shape[0])
    borrow = offset[:, None] * np.isin(np.arange(depth), list(layers))
    return {"label": jnp.concatenate([source, target]), "borrow": jnp.asarray(borrow, jnp.int32)}


def prompt_to_prompt(make: Callable[[Network], Callable], network: Network, until: float) -> Callable:
    """Samples sources and their edits together; while t >= until, the edits use the sources' attention maps.

    The maps determine the layout, which the edit preserves, while its attention values follow its own condition. Here
    the maps of self-attention are replaced; in networks with cross-attention, its maps would be replaced in the same
    way.

        both = lambda label: borrowing(label[0], label[1], depth, layers)
        make = lambda network: guidance.together(network, schedule, parameterization, (both(labels), both(nulls)))
        denoise = guidance.classifier_free(prompt_to_prompt(make, network, until=0.6), scale=4.0)

    Sample with the same initial x for a source and its edit, x `[2 B, ...]`, and the same keys or a deterministic
    sampler.

    Facts:
        paper: Hertz et al. 2022, "Prompt-to-Prompt Image Editing with Cross Attention Control", section 3.1 and
            algorithm 1; self-attention as in the authors' code

    Args:
        make: network -> denoiser or branches, with conditions by `borrowing`.
        network: (x, clock, condition) -> output, with the layer mask "borrow".
        until: time below which every example uses its own maps.

    Returns:
        The same type as `make` returns: (x_t, t) -> prediction or predictions.

    Raises:
        ValueError: if until is NaN.
    """
    if not traced(until) and until != until:
        raise ValueError(f"prompt_to_prompt: until = {until} must be a time")

    def evaluate(x_t, t):
        early = jnp.asarray(t) >= until

        def at_t(x, clock, condition):
            open_now = jnp.tile(early, x.shape[0] // early.size)[:, None]
            return network(x, clock, {**condition, "borrow": jnp.where(open_now, condition["borrow"], 0)})

        return make(at_t)(x_t, t)

    return evaluate


public.declare(__name__)
