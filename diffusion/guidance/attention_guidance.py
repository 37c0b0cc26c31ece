"""Guidance by cross-attention maps: x_t is moved so that words appear, or appear in a given place."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import is_count
from diffusion.guidance import attention_losses
from diffusion.guidance.memory import Unpaired
from diffusion.guidance.regional import check_box
from diffusion.guidance.strength import Interval, Scale, check_interval, strength
from diffusion.parameterizations import Denoiser, checked
from diffusion.parameterizations.sampled_process import belonging_to, process_of
from diffusion.schedules import NoiseSchedule, check_schedule, left_broadcast

Maps = Callable[[Array, ArrayLike], Sequence[Array]]
"""(x_t `[B, H, W, C]`, t) -> attention maps `[B, heads, N, M]`, one for each layer of the conditional network."""


def attend_and_excite(
    denoise: Denoiser,
    maps: Maps,
    tokens: Array,
    scale: Scale = 20.0,
    interval: Interval = None,
    first: int = 1,
    repeats: int = 1,
) -> Unpaired:
    """Attend-and-Excite: the denoiser at x_t - w grad L(x_t), L = the largest 1 - max A_s of the words s.

    The authors' w decreases over the steps, 20 sqrt(1 .. 1/2) for t = 1 .. 0, and they move x_t in the first half of
    the steps (interval = (0.5, 1)). At three of the steps they repeat the move until the words reach a threshold; here
    it is repeated `repeats` times at each step.

    Facts:
        nfe: 1 call of the denoiser, and `repeats` gradients through the conditional network
        neutral: w = 0, the denoiser exactly
        paper: Chefer et al. 2023, "Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion
            Models", algorithm 1

    Args:
        denoise: the denoiser to be guided.
        maps: attention maps of the network with the prompt's condition.
        tokens: positions of the K tokens of each of the S words, int `[B, S, K]`; -1 for none.
        scale: guidance scale w: a number, `[B]` or a function of t.
        interval: (t_low, t_high) outside which w = 0; None for all times.
        first: number of leading tokens that belong to no word, >= 0; 1 for CLIP.
        repeats: number of moves in each call, at least 1.

    Returns:
        An `Unpaired` denoiser, because the network is evaluated at the moved x. `samplers.sample` accepts it with
        samplers that use both fields, such as ddim.

    Raises:
        ValueError: if the interval is empty, or repeats is below 1.
    """
    loss = lambda x, t: attention_losses.excited(maps(x, t), tokens, x.shape[1:3], first)
    return _moved(denoise, loss, lambda x, t: strength(scale, 0, interval, t, x), interval, repeats)


def layout(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    maps: Maps,
    tokens: Array,
    boxes: Sequence[Sequence[float]],
    scale: Scale = 30.0,
    interval: Interval = None,
    repeats: int = 1,
) -> Unpaired:
    """Layout guidance, backward: the denoiser at x_t - w sigma_t^2 grad E(x_t), E = mean of (1 - A_s inside box s)^2.

    The authors use w = 30 and up to 5 repetitions in the first 10 of 50 steps (interval = (0.8, 1)).

    Facts:
        nfe: 1 call of the denoiser, and `repeats` gradients through the conditional network
        neutral: w = 0, the denoiser exactly
        paper: Chen et al. 2023, "Training-Free Layout Control with Cross-Attention Guidance", equations 5 and 6

    Args:
        denoise: the denoiser to be guided.
        schedule: the process, which defines sigma_t.
        maps: attention maps of the network with the prompt's condition.
        tokens: positions of the K tokens of each of the S words, int `[B, S, K]`; -1 for none.
        boxes: S boxes (left, top, right, bottom), as fractions of the sides in [0, 1].
        scale: guidance scale w: a number, `[B]` or a function of t.
        interval: (t_low, t_high) outside which w = 0; None for all times.
        repeats: number of moves in each call, at least 1.

    Returns:
        An `Unpaired` denoiser, as by `attend_and_excite`.

    Raises:
        ValueError: if the interval is empty, repeats is below 1, the numbers of words and boxes differ, or a box is
            empty or leaves the picture; when called, if a box contains no position of a map.
    """
    check_schedule(schedule)
    if len(boxes) != tokens.shape[1]:
        raise ValueError(f"layout: {len(boxes)} boxes for {tokens.shape[1]} words; give one box for each word")
    for box in boxes:
        check_box("layout", box)
    loss = lambda x, t: attention_losses.boxed(maps(x, t), tokens, boxes, x.shape[1:3])
    size = lambda x, t: strength(scale, 0, interval, t, x) * left_broadcast(schedule.sigma(jnp.asarray(t)), x) ** 2
    return _moved(denoise, loss, size, interval, repeats)


def _moved(
    denoise: Denoiser,
    loss: Callable[[Array, ArrayLike], Array],
    size: Callable[[Array, ArrayLike], Array],
    interval: Interval,
    repeats: int,
) -> Unpaired:
    """The denoiser after `repeats` moves x <- x - size grad loss(x); no gradient is computed if all sizes are 0."""
    check_interval(interval, process_of(denoise))
    if not is_count(repeats):
        raise ValueError(f"repeats = {repeats} must be an integer of at least 1")
    gradient = jax.grad(lambda x, t: loss(x, t).sum())

    def guided(x_t, t):
        step = size(x_t, t)

        def move(x, _):
            return x - (step * gradient(x, t)).astype(x.dtype), None

        moved = lambda x: jax.lax.scan(move, x, None, length=repeats)[0]
        return checked(denoise)(jax.lax.cond(jnp.any(step != 0), moved, lambda x: x, x_t), t)

    return Unpaired(belonging_to(process_of(denoise), guided))
