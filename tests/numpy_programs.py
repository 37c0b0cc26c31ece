"""Computes a function with numpy, one operation after the other: JAX traces the function, and XLA compiles nothing.

A small network with many layers runs for milliseconds, but compiles for seconds. A test that uses this module takes its
expected values from another library or a formula, for example from a fixture.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from scipy import special


def outputs(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function, as a pytree of numpy arrays.

    Args:
        function: a function of pytrees of arrays, which JAX can trace.
        *arguments: the arguments of the function.
    """
    return traced_once(function)(*arguments)


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the results of `outputs`, which JAX traces once for all arguments of the same shapes."""
    programs = {}

    def call(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple((np.shape(leaf), np.result_type(leaf)) for leaf in leaves)
        if key not in programs:
            programs[key] = jax.make_jaxpr(function, return_shape=True)(*arguments)
        program, shapes = programs[key]
        with np.errstate(over="ignore"):  # a sigmoid's e^-x may overflow
            return jax.tree.unflatten(jax.tree.structure(shapes), run(program, *leaves))

    return call


def run(program: core.ClosedJaxpr, *inputs: Any) -> list[np.ndarray]:
    """The outputs of a program; JAX runs the operations that are not in `OPERATIONS`, such as gather."""
    jaxpr = program.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *inputs), strict=True))
    read = lambda variable: np.asarray(variable.val if isinstance(variable, core.Literal) else values[variable])
    for step in jaxpr.eqns:
        operation = OPERATIONS.get(step.primitive.name, step.primitive.bind)
        params = {**step.params, "carried": carried(step)} if operation is scan else step.params
        results = operation(*map(read, step.invars), **params)
        results = results if isinstance(results, list | tuple) else [results]
        for variable, result in zip(step.outvars, results, strict=True):
            values[variable] = np.asarray(result, variable.aval.dtype)
            assert values[variable].shape == variable.aval.shape, step.primitive.name
    return [read(variable) for variable in jaxpr.outvars]


def called(*inputs: np.ndarray, **params: Any) -> list[np.ndarray]:
    """The outputs of a program that another program calls."""
    return run(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"], *inputs)


def carried(step: core.JaxprEqn) -> int:
    """The number of arrays that a loop carries.

    The other outputs of the loop have one axis more than those of its body. JAX 0.10 has the number among the loop's
    parameters, and JAX 0.11 does not.
    """
    (body,) = core.jaxprs_in_params(step.params)
    return sum(len(outer.aval.shape) == len(inner.aval.shape) for outer, inner in zip(step.outvars, body.outvars))


def scan(
    *inputs: np.ndarray, jaxpr: core.ClosedJaxpr, length: int, reverse: bool, carried: int, **_: Any
) -> list[np.ndarray]:
    """A loop that carries some arrays, reads rows of others, and stacks rows of its results."""
    shared = sum(value.ndim == len(aval.shape) for value, aval in zip(inputs, jaxpr.in_avals))
    constants, carry, columns = inputs[: shared - carried], list(inputs[shared - carried : shared]), inputs[shared:]
    rows = [[] for _ in range(length)]
    for i in range(length)[::-1] if reverse else range(length):
        results = run(jaxpr, *constants, *carry, *(column[i] for column in columns))
        carry, row = results[:carried], results[carried:]
        rows[i] = row
    return [*carry, *map(np.stack, zip(*rows))]


def dot_general(a: np.ndarray, b: np.ndarray, dimension_numbers: Any, **_: Any) -> np.ndarray:
    """A product over summed axes; the result has the shared axes, and then the other axes of a and of b."""
    (summed_a, summed_b), (batch_a, batch_b) = dimension_numbers
    of_a, of_b = list(range(a.ndim)), list(range(a.ndim, a.ndim + b.ndim))
    for i, j in zip((*summed_a, *batch_a), (*summed_b, *batch_b)):
        of_b[j] = of_a[i]
    batch = [of_a[i] for i in batch_a]
    free = [axis for axis in (*of_a, *of_b) if (axis in of_a) != (axis in of_b)]
    return np.einsum(a, of_a, b, of_b, batch + free, optimize=True)


def convolution(
    x: np.ndarray,
    kernel: np.ndarray,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **_: Any,
) -> np.ndarray:
    """A convolution over any number of axes in groups; a dilated input has zeros between its numbers.

    Groups are either of channels, or of examples, each with filters of its own.
    """
    x, kernel = x.transpose(dimension_numbers.lhs_spec), kernel.transpose(dimension_numbers.rhs_spec)
    every = slice(None), slice(None)  # examples and channels, or channels out and in
    apart = [1 + (side - 1) * dilation for side, dilation in zip(x.shape[2:], lhs_dilation)]
    spread = np.zeros((*x.shape[:2], *apart), x.dtype)
    spread[(*every, *(slice(None, None, dilation) for dilation in lhs_dilation))] = x
    spread = pad(spread, np.zeros([], x.dtype), [(0, 0, 0), (0, 0, 0), *((*ends, 0) for ends in padding)])
    spans = [1 + (side - 1) * dilation for side, dilation in zip(kernel.shape[2:], rhs_dilation)]
    axes = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(spread, spans, axes)
    steps = (slice(None, None, step) for step in (*window_strides, *rhs_dilation))
    windows = windows[(*every, *steps)]
    within = tuple(range(1, 1 + len(axes)))
    groups = [
        np.tensordot(part, weights, ((1, *(axis + x.ndim - 1 for axis in within)), (1, *(1 + i for i in within))))
        for part, weights in zip(
            [
                part
                for examples in np.split(windows, batch_group_count)
                for part in np.split(examples, feature_group_count, 1)
            ],
            np.split(kernel, feature_group_count * batch_group_count),
        )
    ]
    out = np.moveaxis(np.concatenate(groups, axis=-1), -1, 1)
    return out.transpose(np.argsort(dimension_numbers.out_spec))


def broadcast_in_dim(a: np.ndarray, *_: Any, shape: Sequence[int], broadcast_dimensions: Any, **__: Any) -> np.ndarray:
    """An array, broadcast to more axes."""
    sides = dict(zip(broadcast_dimensions, a.shape))
    return np.broadcast_to(a.reshape([sides.get(axis, 1) for axis in range(len(shape))]), shape)


def pad(a: np.ndarray, value: np.ndarray, padding_config: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """An array with a border of one value, and with that value between its numbers; a negative border cuts it."""
    spans = [(side - 1) * (inner + 1) + 1 if side else 0 for side, (*_, inner) in zip(a.shape, padding_config)]
    padded = np.full([low + span + high for span, (low, high, _) in zip(spans, padding_config)], value, a.dtype)
    places = [low + np.arange(side) * (inner + 1) for side, (low, _, inner) in zip(a.shape, padding_config)]
    kept = [(place >= 0) & (place < side) for place, side in zip(places, padded.shape)]
    padded[np.ix_(*(place[inside] for place, inside in zip(places, kept)))] = a[np.ix_(*kept)]
    return padded


def iota(*_: Any, dtype: Any, shape: Sequence[int], dimension: int, **__: Any) -> np.ndarray:
    """An array with 0, 1, ... along one axis."""
    return np.indices(shape, sparse=True)[dimension].astype(dtype) + np.zeros(shape, dtype)


def top_k(a: np.ndarray, k: int, **_: Any) -> list[np.ndarray]:
    """The k largest numbers along the last axis, and their indices."""
    order = np.argsort(-a, axis=-1, kind="stable")[..., :k]
    return [np.take_along_axis(a, order, axis=-1), order]


def along(reduce: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A function that reduces an array over some axes."""
    return lambda a, axes, **_: reduce(a, axis=tuple(axes))


def ends_of(dtype: np.dtype) -> tuple[Any, Any]:
    """The smallest and the largest number of a type, which are XLA's maximum and minimum of an empty array."""
    if dtype.kind == "b":
        return False, True
    if np.issubdtype(dtype, np.integer):
        return np.iinfo(dtype).min, np.iinfo(dtype).max
    return -np.inf, np.inf


def of_numbers(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A function of arrays that ignores the other parameters of an operation."""
    return lambda *arrays, **_: function(*arrays)


same = of_numbers(lambda a: a)
OPERATIONS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("jit", "custom_jvp_call"), called),
    "scan": scan,
    "cond": lambda index, *inputs, branches, **_: run(branches[int(index)], *inputs),
    "dot_general": dot_general,
    "conv_general_dilated": convolution,
    "broadcast_in_dim": broadcast_in_dim,
    "pad": pad,
    "iota": iota,
    "top_k": top_k,
    "reshape": lambda a, new_sizes, **_: a.reshape(new_sizes),
    "squeeze": lambda a, dimensions: a.squeeze(dimensions),
    "transpose": lambda a, permutation: a.transpose(permutation),
    "slice": lambda a, start_indices, limit_indices, strides: a[
        tuple(map(slice, start_indices, limit_indices, strides or [1] * a.ndim))
    ],
    "concatenate": lambda *arrays, dimension: np.concatenate(arrays, dimension),
    "split": lambda a, sizes, axis: np.split(a, np.cumsum(sizes)[:-1], axis),
    "select_n": lambda which, *cases: np.choose(which.astype(int), cases),
    "convert_element_type": lambda a, new_dtype, **_: a.astype(new_dtype),
    "integer_pow": lambda a, y: a**y,
    "rsqrt": lambda a, **_: 1 / np.sqrt(a),
    **dict.fromkeys(("stop_gradient", "name", "copy"), same),
    "reduce_sum": along(np.sum),
    "reduce_max": lambda a, axes, **_: np.max(a, axis=tuple(axes), initial=ends_of(a.dtype)[0]),
    "reduce_min": lambda a, axes, **_: np.min(a, axis=tuple(axes), initial=ends_of(a.dtype)[1]),
    **{
        name: of_numbers(function)
        for name, function in {
            "add": np.add,
            "sub": np.subtract,
            "mul": np.multiply,
            "div": np.divide,
            "neg": np.negative,
            "max": np.maximum,
            "min": np.minimum,
            "exp": np.exp,
            "sin": np.sin,
            "cos": np.cos,
            "tanh": np.tanh,
            "sqrt": np.sqrt,
            "square": np.square,
            "logistic": special.expit,
            "erfc": special.erfc,
            "eq": np.equal,
            "lt": np.less,
            "ge": np.greater_equal,
            "and": np.bitwise_and,
            "or": np.bitwise_or,
            "not": np.invert,
        }.items()
    },
}
