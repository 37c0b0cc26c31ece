"""A function of rows in calls of one size: the rows that each call gets, and the results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.arrays import chunks


@pytest.mark.parametrize("number", [1, 4, 5, 8, 11])
def test_each_row_is_computed_once_in_calls_of_one_size(number):
    keys = jax.random.split(jax.random.key(0), number)
    rows = {"x": np.arange(2 * number).reshape(number, 2), "y": jnp.arange(number), "key": keys}
    received, counts = [], []

    def function(batch):
        received.append(np.asarray(batch["y"]))
        assert (batch["key"] == keys[batch["y"]]).all()
        return batch["x"].sum(axis=1) + batch["y"]

    results = chunks.applied(function, rows, 4, counts.append)
    np.testing.assert_array_equal(results, [4 * i + 1 + i for i in range(number)])
    calls = -(-number // 4)
    assert [len(batch) for batch in received] == [4] * calls
    assert counts == [min(4 * (i + 1), number) for i in range(calls)]


def test_rows_that_fill_one_call_are_passed_on_without_a_copy():
    """A copy of arrays of jax needs a program for each of their shapes, which takes longer than a small network."""
    rows = {"x": jnp.ones((3, 2)), "y": np.ones(3)}
    received = []
    chunks.applied(lambda batch: received.append(batch) or batch["y"], rows, 3)
    assert received[0]["x"] is rows["x"] and received[0]["y"] is rows["y"]
