"""One server that forks the commands, with one compilation cache, for all tests of this folder."""

import pytest

from tests.reliability.driver import Driver


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """A `Driver`; the command that trains at TINY sizes is compiled once."""
    with Driver(tmp_path_factory.mktemp("driver")) as driver:
        yield driver
