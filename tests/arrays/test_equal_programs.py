"""One program made twice, and programs that differ in operations, constants or types."""

import jax.numpy as jnp
import numpy as np

from diffusion.arrays.equal_programs import same_program

X = np.ones(3, np.float32)


def plus(numbers):
    """A function that adds an array, which is a constant of its program."""
    array = jnp.asarray(numbers)
    return lambda x: x + array


def test_a_function_made_twice_is_one_program():
    assert same_program(plus([1.0, 2.0, 3.0]), plus([1.0, 2.0, 3.0]), X)
    assert not same_program(plus([1.0, 2.0, 3.0]), plus([1.0, 2.0, 4.0]), X)
    assert not same_program(plus([1.0, 2.0, 3.0]), plus([1, 2, 3]), X)
    assert same_program(lambda x: 2 * x, lambda y: 2 * y, X)
    assert not same_program(lambda x: 2 * x, lambda x: x + x, X)  # though their values are equal
