"""Runs operations outside of programs, such as `x[0]` or `a - b`, with numpy if the result equals XLA's to the bit.

JAX compiles a program for each such operation and shape, which takes about 20 ms, and most of them run only once.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax._src import pjit
from jax._src.interpreters import pxla
from jax.extend import core

from tests import numpy_programs

STEPS = 16  # the most operations in one function of jax.numpy
NUMBERS = 2**18  # the most numbers in one array
USES = 30  # number of uses of an operation after which XLA compiles it, since compiled calls are faster
TYPES = frozenset(map(np.dtype, ("bool", "int8", "int32", "int64", "uint8", "uint32", "uint64", "float32", "float64")))
FLOATS = frozenset(map(np.dtype, ("float32", "float64")))


def dynamic_slice(a: np.ndarray, *starts: np.ndarray, slice_sizes: Sequence[int]) -> np.ndarray:
    """A part of an array; a part that would reach beyond the end is moved inside."""
    first = [min(max(int(start), 0), side - size) for start, side, size in zip(starts, a.shape, slice_sizes)]
    return a[tuple(slice(start, start + size) for start, size in zip(first, slice_sizes))]


def iota_2x32_shape(shape: Sequence[int]) -> list[np.ndarray]:
    """The upper and the lower 32 bits of 0, 1, ... in an array of this shape."""
    return [np.zeros(shape, np.uint32), np.arange(np.prod(shape, dtype=int), dtype=np.uint32).reshape(shape)]


def integer_pow(a: np.ndarray, y: int) -> np.ndarray:
    """A positive power, by the same products in the same order as JAX."""
    power = None
    while y:
        if y & 1:
            power = a if power is None else power * a
        y >>= 1
        a = a * a if y else a
    return power


def maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The elementwise maximum, in which 0 is larger than -0."""
    return np.where((a == 0) & (b == 0), a + b, np.maximum(a, b))


def threefry2x32(*inputs: np.ndarray) -> list[np.ndarray]:
    """Twenty rounds of Threefry (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405)."""
    key1, key2, a, b = np.broadcast_arrays(*inputs)
    keys = (key1, key2, key1 ^ key2 ^ np.uint32(0x1BD11BDA))
    a, b = a + key1, b + key2
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            a = a + b
            b = a ^ (b << np.uint32(turn) | b >> np.uint32(32 - turn))
        a = a + keys[(group + 1) % 3]
        b = b + keys[(group + 2) % 3] + np.uint32(group + 1)
    return [a, b]


def random_bits(keys: np.ndarray, bit_width: int, shape: Sequence[int]) -> np.ndarray:
    """The random integers of keys; a key is two numbers of 32 bits, stored as one of 64 bits."""
    upper, lower = iota_2x32_shape(shape)
    first, second = threefry2x32(*halves(keys.reshape((*keys.shape, *[1] * len(shape)))), upper, lower)
    return first ^ second


def halves(keys: np.ndarray) -> list[np.ndarray]:
    """The two numbers of 32 bits of each key."""
    pairs = np.ascontiguousarray(keys).reshape(*keys.shape, 1).view(np.uint32)
    return [pairs[..., 0], pairs[..., 1]]


# XLA replaces subnormal floats by zeros in these operations, and not in the others.
ARITHMETIC: dict[str, Callable[..., Any]] = {
    **{name: numpy_programs.OPERATIONS[name] for name in ("add", "sub", "mul", "div", "sqrt", "square")},
    **{name: numpy_programs.OPERATIONS[name] for name in ("eq", "lt", "ge", "reduce_max", "reduce_min")},
    "max": maximum,
    "min": lambda a, b: -maximum(-a, -b) if a.dtype in FLOATS else np.minimum(a, b),
    "floor": lambda a, **_: np.floor(a),
    "ceil": lambda a, **_: np.ceil(a),
    "ne": np.not_equal,
    "le": np.less_equal,
    "gt": np.greater,
    "integer_pow": integer_pow,
}
OPERATIONS: dict[str, Callable[..., Any]] = {
    **ARITHMETIC,
    **{
        name: numpy_programs.OPERATIONS[name]
        for name in (
            *("broadcast_in_dim", "pad", "iota", "reshape", "squeeze", "transpose", "slice", "concatenate", "split"),
            *("select_n", "convert_element_type", "stop_gradient", "copy", "neg", "and", "or", "not"),
            "reduce_sum",
        )
    },
    "dynamic_slice": dynamic_slice,
    "iota_2x32_shape": iota_2x32_shape,
    "threefry2x32": threefry2x32,
    "random_bits": random_bits,
    "erf_inv": lax.erf_inv_p.bind,  # used by normal draws; one compiled program serves all draws of a shape
    "shift_left": np.left_shift,
    "shift_right_logical": np.right_shift,
    "bitcast_convert_type": lambda a, new_dtype: np.ascontiguousarray(a).view(new_dtype).reshape(a.shape),
    "stack": lambda *arrays, axis: np.stack(arrays, axis),
    "unstack": lambda a, axis: [a.take(i, axis) for i in range(a.shape[axis])],
    "rev": lambda a, dimensions: np.flip(a, dimensions),
    "is_finite": np.isfinite,
    "abs": np.abs,
    "xor": np.bitwise_xor,
    "reduce_and": numpy_programs.along(np.logical_and.reduce),
    "reduce_or": numpy_programs.along(np.logical_or.reduce),
}


def steps_of(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """The operations of a function, and of the functions that it calls."""
    for step in jaxpr.eqns:
        if step.primitive.name == "jit":
            yield from steps_of(step.params["jaxpr"].jaxpr)
        else:
            yield step


def is_exact(step: core.JaxprEqn) -> bool:
    """Whether numpy's result of an operation equals XLA's to the bit."""
    name, avals = step.primitive.name, [variable.aval for variable in (*step.invars, *step.outvars)]
    if name not in OPERATIONS:
        return False
    if any(not (aval.dtype in TYPES or is_key(aval)) or aval.size > NUMBERS for aval in avals):
        return False
    of_floats = bool(step.invars) and avals[0].dtype in FLOATS
    match name:
        case "div":
            return of_floats and avals[0].shape == avals[1].shape
        case "sqrt" | "floor" | "ceil":
            return of_floats
        case "reduce_sum":  # numpy adds floats in another order
            return not of_floats
        case "convert_element_type":  # XLA converts floats that are too large to the largest integer
            return not of_floats or avals[-1].dtype in (*FLOATS, np.bool)
        case "integer_pow":
            return step.params["y"] > 0
        case "pad":
            return all(min(ends) >= 0 and not inner for *ends, inner in step.params["padding_config"])
        case "random_bits":
            return step.params["bit_width"] == 32 and jax.config.jax_threefry_partitionable
        case "bitcast_convert_type":
            return avals[0].dtype.itemsize == avals[1].dtype.itemsize
    return True


def normal(a: np.ndarray) -> np.ndarray:
    """Zeros in place of the floats that are no normal numbers."""
    if a.dtype.kind != "f" or not (small := np.abs(a) < np.finfo(a.dtype).tiny).any():
        return a
    return np.where(small, np.copysign(np.zeros((), a.dtype), a), a)


def is_key(aval: Any) -> bool:
    """Whether an array is one of Threefry's keys."""
    return str(aval.dtype) == "key<fry>"


def to_numpy(value: Any, aval: Any) -> np.ndarray:
    """A value as a numpy array of the type `aval`; a key becomes one number of 64 bits."""
    if not is_key(aval):
        return np.asarray(value, aval.dtype)
    if isinstance(value, jax.Array):
        value = np.ascontiguousarray(jax.random.key_data(value)).view(np.uint64).reshape(value.shape)
    return np.asarray(value, np.uint64)


def to_jax(value: np.ndarray, aval: Any, device: jax.Device) -> jax.Array:
    """A numpy array as an array on a device, like the output of a program."""
    if is_key(aval):
        data = np.stack(halves(value), -1)
        return jax.random.wrap_key_data(to_jax(data, jax.typeof(data), device), impl="threefry2x32")
    sharding = jax.sharding.SingleDeviceSharding(device)
    # A copy, since JAX may use numpy's memory as an array's own.
    return pxla.batched_device_put(aval, sharding, [np.array(value, order="C")], [device], committed=False)


def outputs(jaxpr: core.Jaxpr, constants: Sequence[Any], inputs: Sequence[Any]) -> list[np.ndarray]:
    """The results of a function all of whose operations are exact."""
    values = {
        variable: to_numpy(value, variable.aval)
        for variable, value in zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True)
    }

    def read(variable: Any) -> np.ndarray:
        if isinstance(variable, core.Literal):
            return to_numpy(variable.val, variable.aval)
        return values[variable]

    for step in jaxpr.eqns:
        name, operands = step.primitive.name, [read(variable) for variable in step.invars]
        if name == "jit":
            program = step.params["jaxpr"]
            results = outputs(program.jaxpr, program.consts, operands)
        elif name in ARITHMETIC:
            results = [normal(np.asarray(ARITHMETIC[name](*map(normal, operands), **step.params)))]
        else:
            results = OPERATIONS[name](*operands, **step.params)
            results = results if isinstance(results, list | tuple) else [results]
        for variable, result in zip(step.outvars, results, strict=True):
            values[variable] = to_numpy(result, variable.aval)
            assert values[variable].shape == variable.aval.shape, name
    return [read(variable) for variable in jaxpr.outvars]


def install() -> None:
    """Lets numpy run functions that JAX would compile, if they are exact, small, and have not been used often."""
    compiled = getattr(pjit._pjit_call_impl_python, "original", pjit._pjit_call_impl_python)
    uses: weakref.WeakKeyDictionary[core.ClosedJaxpr, int] = weakref.WeakKeyDictionary()

    def run(*arguments: Any, jaxpr: core.ClosedJaxpr, **params: Any) -> Any:
        device = jax.local_devices()[0]
        if jaxpr not in uses:
            steps = list(steps_of(jaxpr.jaxpr))
            names = {step.primitive.name for step in steps}
            exact = len(steps) <= STEPS and not jaxpr.effects and all(map(is_exact, steps))
            # If an array is divided by one number, XLA multiplies by its reciprocal, which rounds differently.
            exact &= not names >= {"div", "broadcast_in_dim"} and ("erf_inv" not in names or "random_bits" in names)
            uses[jaxpr] = 0 if exact else USES
        if uses[jaxpr] >= USES or not is_plain(params) or not all(is_on(device, argument) for argument in arguments):
            return compiled(*arguments, jaxpr=jaxpr, **params)
        uses[jaxpr] += 1
        if uses[jaxpr] == USES:  # JAX has cached that there is no program for the operation
            pjit._cpp_pjit_cache_fun_only.clear()
            pjit._cpp_pjit_cache_explicit_attributes.clear()
        with np.errstate(all="ignore"):
            results = outputs(jaxpr.jaxpr, jaxpr.consts, arguments)
        arrays = [to_jax(result, aval, device) for result, aval in zip(results, jaxpr.out_avals, strict=True)]
        return arrays, None, None, []

    run.original = compiled
    pjit._pjit_call_impl_python = run


@contextlib.contextmanager
def left_to_xla() -> Iterator[None]:
    """Lets XLA compile every operation within the block."""
    installed = pjit._pjit_call_impl_python
    pjit._pjit_call_impl_python = getattr(installed, "original", installed)
    try:
        yield
    finally:
        pjit._pjit_call_impl_python = installed


def is_plain(params: dict[str, Any]) -> bool:
    """Whether a call has no placement, no donation and no options of the compiler, and JAX checks no values."""
    unspecified = pjit.UNSPECIFIED
    return (
        not any(params["donated_invars"])
        and all(sharding is unspecified for sharding in (*params["in_shardings"], *params["out_shardings"]))
        and all(layout is None for layout in (*params["in_layouts"], *params["out_layouts"]))
        and params["ctx_mesh"].empty
        and not params["compiler_options_kvs"]
        and jax.config.jax_default_device is None
        and not jax.config.jax_debug_nans
        and not jax.config.jax_debug_infs
    )


def is_on(device: jax.Device, argument: Any) -> bool:
    """Whether an argument is on this device, or on no device yet."""
    if not isinstance(argument, jax.Array):
        return isinstance(argument, np.ndarray | np.generic | bool | int | float)
    if jax.dtypes.issubdtype(argument.dtype, jax.dtypes.prng_key):
        return is_on(device, jax.random.key_data(argument))
    single = isinstance(argument, pjit.xc.ArrayImpl) and not argument._committed and not argument.is_deleted()
    return single and argument.devices() == {device}
