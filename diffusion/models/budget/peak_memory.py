"""The memory that a program needs, from its trace, before it is compiled or allocates anything."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend
from jax.extend.core import Literal

from diffusion.io import limits
from diffusion.models.budget.counted_flops import devices

# XLA computes these operations where their results are read, and never stores them.
FREE = ("broadcast_in_dim", "iota", "convert_element_type", "reshape", "squeeze", "expand_dims", "transpose", "rev")


def peak(jaxpr: Any, donated: Sequence[bool] = ()) -> int:
    """The largest number of bytes that the arrays of a program take at the same time.

    Each array lives from the operation that makes it to the last that reads it; an input that is not donated lives to
    the end. Another view of an array costs nothing. What `jax.shard_map` contains counts for all of its devices. XLA
    fuses operations, and then needs less.

    Args:
        jaxpr: the jaxpr of `jax.make_jaxpr(...)(...).jaxpr`, or of a traced `jax.jit`; only the first says which
            arguments `jax.jit` donates.
        donated: whether each input is donated; none by default.
    """
    last = {}
    for number, equation in enumerate(jaxpr.eqns):
        last |= {variable: number for variable in _variables(equation.invars)}
    last |= {variable: len(jaxpr.eqns) for variable in _variables(jaxpr.outvars)}
    held = {variable: _bytes(variable) for variable in (*jaxpr.invars, *jaxpr.constvars)}
    inputs = set(held) - {variable for variable, given in zip(jaxpr.invars, donated) if given}
    live = sum(held.values())
    most = live
    for number, equation in enumerate(jaxpr.eqns):
        free = equation.primitive.name in FREE
        outputs = {variable: 0 if free else _bytes(variable) for variable in equation.outvars}
        given = equation.params.get("donated_invars", ())
        inner_programs = jax.extend.core.jaxprs_in_params(equation.params)
        inside = [peak(inner, given) - sum(map(_bytes, inner.invars)) for inner in inner_programs]
        stacked = _stacked(equation)  # beside all that a turn of the loop holds
        beside = [stacked + devices(equation) * inner for inner in inside]
        gone = {atom for atom, is_given in zip(equation.invars, given) if is_given and not isinstance(atom, Literal)}
        taken = sum(held[variable] for variable in gone)  # by the outputs
        most = max([most, live - taken + sum(outputs.values()), *(live + inner for inner in beside)])
        held |= outputs
        live += sum(outputs.values())
        over = {variable for variable in {*_variables(equation.invars), *outputs} if last.get(variable, -1) <= number}
        live -= sum(held.pop(variable) for variable in (over - inputs) | gone)
    return most


def held(tree: Any) -> int:
    """The bytes of the arrays of a pytree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def available() -> int:
    """The bytes of memory of the device that JAX uses: its own, or the machine's."""
    reported = jax.local_devices()[0].memory_stats() or {}
    return reported.get("bytes_limit") or limits.memory()


def check(what: str, needed: int, instead: str) -> None:
    """Refuses a request that does not fit into memory.

    Args:
        what: the request, e.g. "4 pictures of 64 x 64".
        needed: bytes.
        instead: advice, e.g. "ask for fewer".

    Raises:
        Refused: if it needs more memory than the device has; the message has the estimate.
    """
    if needed > available():
        raise limits.Refused(
            f"{what} would need about {limits.size(needed)} of memory, but only {limits.size(available())} is "
            f"available: {instead}"
        )


def _stacked(equation: Any) -> int:
    """The bytes of the arrays that a scan fills row by row, without the row of one turn."""
    if equation.primitive.name != "scan":
        return 0
    (body,) = jax.extend.core.jaxprs_in_params(equation.params)
    rank = lambda variable: len(getattr(variable.aval, "shape", ()))
    stacks = [outer for outer, inner in zip(equation.outvars, body.outvars) if rank(outer) > rank(inner)]
    turns = max(equation.params["length"], 1)
    return sum(_bytes(stack) // turns * (turns - 1) for stack in stacks)


def _variables(atoms: Any) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _bytes(variable: Any) -> int:
    aval = variable.aval
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 4) if hasattr(aval, "shape") else 0
