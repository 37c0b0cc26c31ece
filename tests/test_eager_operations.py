"""Operations that numpy runs for the tests are XLA's to the bit, and look like its own."""

import jax
import numpy as np
import pytest
from jax import lax, numpy as jnp
from jax._src import pjit

from tests import eager_operations

TINY = np.finfo(np.float32).tiny
X = np.array([1.7, -0.3, 0.0, -0.0, np.inf, -np.inf, np.nan, TINY / 2, -TINY / 2, 3e38, 2.5e-20, 1 / 3], np.float32)
Y = np.array([0.6, 7.1, -0.0, 5.0, 2.0, np.inf, 1.0, 3.0, TINY / 4, 10.0, 1e-20, 3.0], np.float32)
I = np.array([3, -7, 0, 2**31 - 1, -(2**31), 12], np.int32)
J = np.array([-2, 5, 9, 1, -1, 12], np.int32)
U = np.array([5, 0, 2**32 - 1, 77, 1, 31], np.uint32)
KEYS = jax.random.wrap_key_data(np.arange(6, dtype=np.uint32).reshape(3, 2))
UNARY = (jnp.negative, jnp.abs, jnp.floor, jnp.ceil, jnp.square, jnp.isfinite)
BINARY = (jnp.add, jnp.subtract, jnp.multiply, jnp.maximum, jnp.minimum)
COMPARED = (jnp.equal, jnp.not_equal, jnp.less, jnp.less_equal, jnp.greater, jnp.greater_equal)
CASES = {
    **{f"{f.__name__} of a float": (f, X) for f in UNARY},
    **{f"{f.__name__} of two floats": (f, X, Y) for f in (*BINARY, *COMPARED, jnp.divide)},
    **{f"{f.__name__} of two integers": (f, I, J) for f in (*BINARY, *COMPARED)},
    **{f"{f.__name__} of bits": (f, U, U[::-1]) for f in (jnp.bitwise_and, jnp.bitwise_or, jnp.bitwise_xor)},
    "a root": (lambda x: jnp.sqrt(jnp.abs(x)), X),
    "a power": (lambda x: x**3, X[:4]),
    "not": (jnp.bitwise_not, I),
    "a shift left": (lax.shift_left, U, np.array([0, 1, 31, 32, 40, 5], np.uint32)),
    "a shift right": (lax.shift_right_logical, U, np.array([0, 1, 31, 32, 40, 5], np.uint32)),
    "bits of a float": (lambda x: lax.bitcast_convert_type(x, np.uint32), X[:7]),
    "an integer's float": (lambda i: i.astype(np.float32), I),
    "a float's truth": (lambda x: x.astype(bool), X[:7]),
    "an integer's bits": (lambda i: i.astype(np.uint8), I),
    "a choice": (lambda x, y: jnp.where(x > y, x, 2.0), X, Y),
    "a part": (lambda x: x[3], X),
    "a part beyond the end": (lambda x, i: lax.dynamic_slice(x, (i,), (4,)), X, np.int32(11)),
    "a part before the beginning": (lambda x, i: lax.dynamic_slice(x, (i,), (4,)), X, np.int32(-20)),
    "a reversal": (lambda x: x[::-1], X),
    "a transpose": (lambda x: x.reshape(3, 4).T, X),
    "a border": (lambda x: jnp.pad(x, (1, 2), constant_values=5.0), X),
    "a stack": (lambda x, y: jnp.stack([x, y], axis=1), X, Y),
    "a row of arrays": (lambda x, y: jnp.concatenate([x, y]), X, Y),
    "rows": (lambda x: tuple(x.reshape(3, 4)), X),
    "a count": (lambda: jnp.arange(5)[:, None] + jnp.zeros((5, 2))),
    "a sum of integers": (lambda i: jnp.sum(i.reshape(2, 3), axis=1), I),
    "a largest": (lambda x: jnp.max(x.reshape(3, 4), axis=0), X),
    "a least": (lambda x: jnp.min(x.reshape(3, 4), axis=1), X),
    "all": (lambda x: jnp.all(x.reshape(3, 4) > 0, axis=0), X),
    "any": (lambda x: jnp.any(x.reshape(3, 4) > 0, axis=0), X),
    "a key": (lambda keys: keys[1], KEYS),
    "bits": (lambda keys: jax.random.bits(keys[2], (5, 3)), KEYS),
    "bits of keys": (lambda keys: jax.vmap(lambda key: jax.random.bits(key, (4,)))(keys), KEYS),
    "a uniform draw": (lambda keys: jax.random.uniform(keys[0], (50,), minval=-1.3, maxval=0.7), KEYS),
    "a normal draw": (lambda keys: jax.random.normal(keys[0], (50,)), KEYS),
}
CASES = {name: case if isinstance(case, tuple) else (case,) for name, case in CASES.items()}


@pytest.fixture(scope="module", autouse=True)
def as_fast_tests():
    """Compiles as the fast tests do."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def compiled(as_fast_tests):
    """The results of all cases by XLA, in one program."""
    program = jax.jit(lambda inputs: {name: case[0](*inputs[name]) for name, case in CASES.items()})
    inputs = {name: list(case[1:]) for name, case in CASES.items()}
    return program.lower(inputs).compile()(inputs)


def bits(array):
    """An array's bytes, and its type."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.asarray(array)
    return array.dtype, array.shape, np.where(array != array, np.zeros((), array.dtype), array).tobytes()


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_xla_to_the_bit(compiled, name):
    function, *inputs = CASES[name]
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*inputs)
    assert all(map(eager_operations.is_exact, eager_operations.steps_of(program.jaxpr)))
    with np.errstate(all="ignore"):
        results = eager_operations.outputs(program.jaxpr, program.consts, jax.tree.leaves(inputs))
    device = jax.local_devices()[0]
    arrays = [eager_operations.to_jax(result, aval, device) for result, aval in zip(results, program.out_avals)]
    assert jax.tree.structure(shapes) == jax.tree.structure(compiled[name])
    assert [*map(bits, arrays)] == [*map(bits, jax.tree.leaves(compiled[name]))]


@pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (lambda x, y: x / y, (X, np.float32(3))),  # a product with the reciprocal
        (lambda x, y: x / jnp.broadcast_to(y, x.shape), (X, np.float32(3))),
        (lambda i, j: i // j, (I, J)),
        (lambda x: x + x, (np.ones(3, np.float16),)),
        (lambda x: x.astype(np.int32), (X,)),
        (jnp.sum, (X,)),
        (jnp.exp, (X,)),
        (lax.erf_inv, (X,)),
        (lambda x: x.astype(jnp.bfloat16) + 1, (X,)),
        (lambda x: x + 1, (np.zeros(eager_operations.NUMBERS + 1, np.float32),)),
        (lambda x: lax.fori_loop(0, 3, lambda i, y: y + x, x), (X,)),
        (lambda x: jnp.stack([x + i for i in range(20)]), (X,)),
    ],
)
def test_xla_runs_what_numpy_rounds_otherwise_or_is_slow_at(function, inputs, recorded):
    jax.jit(function)(*inputs)
    assert len(recorded) == 1


@pytest.fixture
def recorded(monkeypatch):
    """Calls that XLA receives once operations by numpy are installed."""
    calls = []
    compile = getattr(pjit._pjit_call_impl_python, "original", pjit._pjit_call_impl_python)
    monkeypatch.setattr(
        pjit, "_pjit_call_impl_python", lambda *inputs, **params: calls.append(params) or compile(*inputs, **params)
    )
    eager_operations.install()
    return calls


def test_arrays_are_as_a_program_leaves_them(recorded):
    double = jax.jit(lambda x: x * 2)
    weak, strong, key = double(1.5), double(X), jax.jit(lambda keys: keys[0])(KEYS)
    assert not recorded
    assert weak.weak_type and not strong.weak_type and not strong.committed
    assert strong.sharding == jax.device_put(X).sharding and key.dtype == KEYS.dtype and key.shape == ()
    view = jax.jit(lambda x: x.reshape(3, 4))(strong)
    assert not recorded and not np.shares_memory(np.asarray(view), np.asarray(strong))


def test_an_operation_of_many_uses_is_compiled(recorded):
    step = jax.jit(lambda x: x + 1)
    x = jnp.zeros(3)
    for _ in range(eager_operations.USES + 10):
        x = step(x)
    assert len(recorded) in (1, 2)  # then JAX knows the program
    assert x.tolist() == [eager_operations.USES + 10] * 3


@pytest.mark.parametrize(
    "options", [{"donate_argnums": 0}, {"out_shardings": jax.sharding.SingleDeviceSharding(jax.devices()[0])}]
)
def test_donation_and_placement_are_xlas(recorded, options):
    jax.jit(lambda x: x + 1, **options)(jnp.zeros(3))
    assert len(recorded) == 1


def test_what_is_on_a_device_by_choice_or_is_checked_is_xlas(recorded):
    jax.jit(lambda x: x + 1)(jax.device_put(X, jax.devices()[0]))
    assert len(recorded) == 1
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jax.jit(lambda x, y: x - y)(jnp.float32(np.inf), jnp.float32(np.inf))


def test_a_test_can_leave_every_operation_to_xla(recorded):
    with eager_operations.left_to_xla():
        jax.jit(lambda x: x - 1)(X)
    assert len(recorded) == 1
    jax.jit(lambda x: x - 2)(X)
    assert len(recorded) == 1
