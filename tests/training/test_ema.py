import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion.training import state
from diffusion.training.ema import exponential_moving_average


def test_values_by_hand():
    """d = min(0.5, (1 + k) / (10 + k)): 1/10, 2/11, 3/12, ..., at last 0.5."""
    average = exponential_moving_average(decay=0.5, warmup=True)
    state = average.init({"w": jnp.asarray([2.0])})
    expected = 2.0
    for k in range(12):
        value = float(k) ** 2
        state = average.update(state, {"w": jnp.asarray([value])}, jnp.asarray(k))
        d = min(0.5, (1 + k) / (10 + k))
        expected = d * expected + (1 - d) * value
        np.testing.assert_allclose(state["w"], [expected], rtol=1e-6)
    assert (1 + 11) / (10 + 11) > 0.5  # the end of the warm-up was reached


def test_a_run_of_narrow_parameters_starts_with_a_wide_average():
    run = state.create(jnp.ones(2, jnp.bfloat16), optax.sgd(0.1), exponential_moving_average())
    assert run.params.dtype == jnp.bfloat16 and run.ema.dtype == jnp.float32
    np.testing.assert_array_equal(run.ema, [1, 1])


def test_without_warmup_the_decay_is_constant():
    average = exponential_moving_average(decay=0.9, warmup=False)
    state = average.update(average.init(jnp.asarray(1.0)), jnp.asarray(0.0), jnp.asarray(0))
    np.testing.assert_allclose(state, 0.9, rtol=1e-6)


def test_the_average_forgets_its_start_by_default():
    """The first decay is 1/10, far from 0.9999."""
    average = exponential_moving_average()
    state = average.update(average.init(jnp.asarray(1.0)), jnp.asarray(0.0), jnp.asarray(0))
    np.testing.assert_allclose(state, 0.1, rtol=1e-6)
    state = average.update(jnp.asarray(1.0), jnp.asarray(0.0), jnp.asarray(10**7))
    np.testing.assert_allclose(state, 0.9999, rtol=1e-6)


def test_starts_as_a_copy_and_not_as_the_same_buffer():
    params = {"w": jnp.arange(3.0)}
    state = exponential_moving_average().init(params)
    np.testing.assert_array_equal(state["w"], params["w"])
    assert state["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()


def test_stays_float32_and_moves_when_parameters_are_bfloat16():
    """In bfloat16, 1 + 1e-4 (2 - 1) rounds back to 1: the average would never move."""
    average = exponential_moving_average(decay=0.9999, warmup=False)
    state = average.init(jnp.ones(4, jnp.bfloat16))
    for k in range(10):
        state = average.update(state, jnp.full(4, 2.0, jnp.bfloat16), jnp.asarray(k))
    assert state.dtype == jnp.float32
    np.testing.assert_allclose(state, 2 - 0.9999**10, rtol=1e-6)


def test_other_types_are_copied():
    average = exponential_moving_average()
    state = average.update(average.init(jnp.asarray(3)), jnp.asarray(5), jnp.asarray(0))
    assert state.dtype == jnp.int32 and int(state) == 5


def test_parameters_of_another_shape_are_refused_though_they_broadcast():
    average = exponential_moving_average(0.5)
    with pytest.raises(
        ValueError, match=r"parameter \['w'\] of an average must have the shape \(2, 3\), but has \(3,\)"
    ):
        average.update(average.init({"w": jnp.zeros((2, 3))}), {"w": jnp.zeros(3)}, 0)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=str(decay)):
        exponential_moving_average(decay)


def test_float64_under_x64():
    with jax.enable_x64(True):
        average = exponential_moving_average()
        assert average.init(jnp.ones(2, jnp.float64)).dtype == jnp.float64
