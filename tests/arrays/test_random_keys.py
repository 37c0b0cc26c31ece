"""Keys for further draws: they are the same in every version, and no split and no step of a run has one of them."""

import jax
import numpy as np
import pytest

from diffusion.arrays import random_keys
from diffusion.objectives import inputs

KEY = jax.random.key(3)


def data(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@pytest.mark.parametrize("number", [1, 2, 2**16, 2**31])
def test_a_number_is_counted_from_the_end_of_uint32(number):
    folded = np.array([-number]).astype(np.uint32)[0]  # the two's complement
    assert data(random_keys.further(KEY, number)) == data(jax.random.fold_in(KEY, folded))


def test_no_split_and_no_step_reaches_a_further_key():
    further = [data(random_keys.further(KEY, number)) for number in (1, 2, 3, 2**31)]
    steps = [data(jax.random.fold_in(KEY, step)) for step in (0, 1, 2, 3, 2**31 - 1)]
    assert len(set(map(tuple, further + steps + data(jax.random.split(KEY, 9))[4:]))) == 4 + 5 + 5


def test_keys_of_a_batch_are_those_of_its_examples():
    keys = jax.random.split(KEY, 3)
    assert data(inputs.apart(keys, 2)) == [data(random_keys.further(key, 2)) for key in keys]


@pytest.mark.parametrize("number", [0, -1, 2**31 + 1])
def test_numbers_that_a_step_could_reach_are_refused(number):
    with pytest.raises(ValueError, match=rf"^further: number = {number}. Valid: 1 to 2147483648"):
        random_keys.further(KEY, number)
