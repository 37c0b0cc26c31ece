"""Guidances that are not plain functions (x_t, t) -> Prediction; only `samplers.sample` can call them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array
from jax.extend.core import get_opaque_trace_state
from jax.typing import ArrayLike

from diffusion.parameterizations import Denoiser, Prediction
from diffusion.parameterizations.sampled_process import process_of
from diffusion.schedules import NoiseSchedule


class Memory(NamedTuple):
    """A denoiser with a memory, such as guidance with momentum.

    `samplers.sample` carries the memory from step to step. All evaluations of a step read the same memory, and the
    first of them computes the next memory; a step that renoises resets it.

    Attributes:
        init: x `[B, ...]` -> memory, a pytree whose shapes and dtypes never change.
        apply: (memory, x_t, t) -> (Prediction, the next memory).
        later: (memory, x_t, t) -> Prediction, for the evaluations of a step after the first, which do not change the
            memory; None for the prediction of `apply`.
        again: (memory, x `[B, ...]`) -> the memory after a step that renoises; None for `init`.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any, Array, ArrayLike], tuple[Prediction, Any]]
    later: Callable[[Any, Array, ArrayLike], Prediction] | None = None
    again: Callable[[Any, Array], Any] | None = None

    @property
    def schedule(self) -> NoiseSchedule | None:
        """The process that `apply` states; None where it states none."""
        return process_of(self.apply)

    def __call__(self, x_t, t):
        """Raises a TypeError, because a plain call would lose the memory."""
        raise TypeError(
            "this guidance has a memory, which samplers.sample carries from step to step; a plain denoiser (x_t, t) "
            "-> Prediction cannot hold one. Use samplers.sample, or a guidance without memory, such as "
            "adaptive_projected(momentum=0)"
        )


class Unpaired(NamedTuple):
    """A denoiser for which alpha x0 + sigma eps differs from x_t by design, such as CFG++.

    A sampler that takes `Unpaired` inserts x0 and eps unchanged into x_s = alpha_s x0 + sigma_s eps, as in the paper.
    `samplers.sample` refuses all other samplers.

    Attributes:
        denoise: (x_t, t) -> Prediction.
    """

    denoise: Denoiser

    @property
    def schedule(self) -> NoiseSchedule | None:
        """The process of the denoiser; None where it states none."""
        return process_of(self.denoise)

    def __call__(self, x_t, t):
        """Raises a TypeError, because callers of a denoiser rely on alpha x0 + sigma eps = x_t."""
        raise TypeError(
            "this guidance (CFG++, or one that moves x_t) returns x0 and eps with alpha x0 + sigma eps different from "
            "x_t, by design. Use samplers.sample with a sampler that takes Unpaired, such as ddim()"
        )


def within_step(denoise: Any, memory: Any) -> tuple[Callable, Callable[[], Any]]:
    """The denoiser for one step of a sampler, and the memory after the step.

    Args:
        denoise: a `Memory`, or any other callable, which is returned unchanged.
        memory: the memory after the previous step.

    Returns:
        (the denoiser for the step, a function () -> the next memory, to be called after the step).
    """
    if not isinstance(denoise, Memory):
        return denoise, lambda: memory
    written = []
    level = get_opaque_trace_state()

    def read(x_t, t):
        if written and denoise.later is not None:
            return denoise.later(memory, x_t, t)
        prediction, new = denoise.apply(memory, x_t, t)
        if not written:
            if get_opaque_trace_state() != level:
                raise ValueError(
                    "a guidance with memory writes it at the first evaluation of a step. This sampler makes its first "
                    "evaluation inside lax.cond, lax.scan or a derivative, and no memory can be returned from there. "
                    "Use a sampler whose step begins with a direct evaluation"
                )
            written.append(new)
        return prediction

    return read, lambda: written[0] if written else memory
