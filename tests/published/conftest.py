"""Settings of the tests of published families."""

import pytest

from tests.published import equations


@pytest.fixture(autouse=True)
def same_numbers():
    """Gives every test the same numbers, whichever tests run before it."""
    equations.RNG.bit_generator.state = equations.START
