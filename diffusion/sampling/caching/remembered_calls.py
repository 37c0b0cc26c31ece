"""Caches: values that one evaluation of a network stores for the next, which then skips a part of the network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import get_opaque_trace_state
from jax.typing import ArrayLike

from diffusion.guidance.memory import Memory, Unpaired
from diffusion.parameterizations import Denoiser, Network, Prediction

Call = Callable[..., Any]
"""(**further arguments) -> the network's result for one input with these arguments; without any, its output."""


class EnclosedCall(ValueError):
    """A network is called inside a derivative or a loop, from which its cache cannot return a memory."""


class Cache(NamedTuple):
    """A pair of pure functions that evaluate a network with values from its last evaluation.

    Attributes:
        memory: call -> a pytree of arrays or shapes; the initial memory is zeros of these shapes.
        apply: (memory, call) -> (output, the next memory, number of blocks that have run).
        reads: kind of reuse that the network must offer, "blocks" or "deep", see `diffusion.models.facts.reuses`.
        idle: whether the cache never skips anything, so that the network is evaluated without it.
        again: (memory, initial memory) -> the memory after a step that renoises; None for the initial memory.
    """

    memory: Callable[[Call], Any]
    apply: Callable[[Any, Call], tuple[Array, Any, Array]]
    reads: str
    idle: bool = False
    again: Callable[[Any, Any], Any] | None = None

    def check(self, offered: tuple[str, ...]) -> None:
        """Refuses a network without the kind of reuse that the cache needs.

        Args:
            offered: kinds of reuse that the network offers, `diffusion.models.facts.reuses`.

        Raises:
            ValueError: if the network does not offer it; the message names both.
        """
        if self.reads not in offered and not self.idle:
            theirs = f"its {', '.join(offered)}" if offered else "nothing"
            kinds = {"blocks": "most transformers do", "deep": "the U-Nets of DDPM, ADM and Stable Diffusion do"}
            examples = f" ({kinds[self.reads]})" if self.reads in kinds else ""
            raise ValueError(
                f"the cache needs a network that offers {self.reads}{examples}; this network offers {theirs}"
            )


class Work(NamedTuple):
    """Counts of a network's blocks and calls in a trajectory.

    Attributes:
        run: int32 `[]`, number of blocks that have run.
        evaluations: int32 `[]`, number of calls of the network, including calls in which some blocks did not run.
    """

    run: Array
    evaluations: Array


class Remembered(NamedTuple):
    """The memory of `cached`.

    Attributes:
        calls: the cache's memories, one for each call of the network in an evaluation of the denoiser.
        denoiser: memory of the denoiser if it is a `guidance.Memory`; otherwise ().
        work: work done so far.
    """

    calls: tuple[Any, ...]
    denoiser: Any
    work: Work


def cached(make: Callable[[Network], Denoiser | Memory], network: Network, cache: Cache) -> Denoiser | Memory:
    """A denoiser whose network is evaluated through a cache.

    Each call of the network in the denoiser has a separate memory, and within it each row of the batch: the branches of
    `guidance.together` are rows, those of `guidance.separately` are calls. A part of the network is skipped only if all
    rows of a call agree, because the batch is evaluated by one program. Later evaluations of a step, such as Heun's
    second, run the whole network. A cache that skips nothing returns the denoiser unchanged.

    Args:
        make: network -> the guided denoiser, which must evaluate the network outside of `lax.cond`, `lax.scan` and
            derivatives.
        network: (x, clock, condition, **further arguments) -> output.
        cache: the cache, for example `first_block(0.1)`.

    Returns:
        A denoiser for `samplers.sample`; `work` of its memory counts the blocks that have run.

    Raises:
        TypeError: if the denoiser is `guidance.Unpaired`.
        EnclosedCall: a ValueError when called, if the network is evaluated where no memory can be returned.
    """
    plain = make(network)
    if isinstance(plain, Unpaired):
        raise TypeError(
            "a cache needs a denoiser whose x0 and eps satisfy alpha x0 + sigma eps = x_t, and this guidance (CFG++) "
            "does not keep that. Valid: another guidance, e.g. classifier_free"
        )
    if cache.idle:
        return plain

    def init(x: Array) -> Remembered:
        shapes = []

        def recorded(x_t, clock, condition):
            shapes.append(jax.eval_shape(lambda: cache.memory(lambda **more: network(x_t, clock, condition, **more))))
            return network(x_t, clock, condition)

        denoise = make(recorded)
        inner = denoise.init(x) if isinstance(denoise, Memory) else ()
        call = (lambda x, t: denoise.apply(inner, x, t)[0]) if isinstance(denoise, Memory) else denoise
        jax.eval_shape(call, x, jnp.ones((), x.dtype))
        calls = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tuple(shapes))
        return Remembered(calls, inner, Work(jnp.int32(0), jnp.int32(0)))

    def apply(memory: Remembered, x_t: Array, t: ArrayLike) -> tuple[Prediction, Remembered]:
        new = []
        level = get_opaque_trace_state()

        def through(x, clock, condition):
            if get_opaque_trace_state() != level:
                raise EnclosedCall(
                    "a cache carries values from one network evaluation to the next step. This denoiser evaluates the "
                    "network inside a derivative, lax.cond or lax.scan, and nothing can be returned from there. Use "
                    "no cache, or a guidance that evaluates the network directly, such as classifier_free"
                )
            output, *rest = cache.apply(memory.calls[len(new)], lambda **more: network(x, clock, condition, **more))
            new.append(rest)
            return output

        denoise = make(through)
        prediction, inner = (
            denoise.apply(memory.denoiser, x_t, t)
            if isinstance(denoise, Memory)
            else (denoise(x_t, t), memory.denoiser)
        )
        run = sum((blocks for _, blocks in new), memory.work.run)
        work = Work(jnp.asarray(run, jnp.int32), memory.work.evaluations + len(new))
        return prediction, Remembered(tuple(state for state, _ in new), inner, work)

    def again(memory: Remembered, x: Array) -> Remembered:
        first = init(x)
        calls = first.calls if cache.again is None else tuple(map(cache.again, memory.calls, first.calls))
        inner = first.denoiser
        if isinstance(plain, Memory) and plain.again is not None:
            inner = plain.again(memory.denoiser, x)
        return Remembered(calls, inner, memory.work)

    def later(memory: Remembered, x_t: Array, t: ArrayLike) -> Prediction:
        if not isinstance(plain, Memory):
            return plain(x_t, t)
        if plain.later is not None:
            return plain.later(memory.denoiser, x_t, t)
        return plain.apply(memory.denoiser, x_t, t)[0]

    return Memory(init, apply, later, again)


def work(memory: Any) -> Work | None:
    """The work of a trajectory, from its last memory; None if no cache was used."""
    return memory.work if isinstance(memory, Remembered) else None
