"""The flags that the fast tests set: XLA ends a process, without a test having run, for one that it does not know."""

import os
import subprocess
import sys

import pytest

from tests import conftest, xla_flags

UNKNOWN = "--xla_cpu_no_version_has_this=1"
KNOWN = "--xla_force_host_platform_device_count=3"


def count(flags):
    """The exit status of a process with these flags, and the number of its devices."""
    code = "import jax; print(len(jax.devices()))"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout.strip()


@pytest.mark.slow  # the test of this run's flags, below, starts one process in place of five
def test_an_unknown_flag_is_left_out_and_the_others_stay(monkeypatch):
    assert count(UNKNOWN)[0] != 0
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    monkeypatch.setenv(xla_flags.REFUSED, "")
    xla_flags.add([UNKNOWN, KNOWN])
    assert os.environ["XLA_FLAGS"] == f"--xla_cpu_enable_fast_math=false {KNOWN}"
    assert count(os.environ["XLA_FLAGS"]) == (0, "3")
    monkeypatch.setattr(xla_flags, "known", lambda flags: 1 / 0)
    xla_flags.add([UNKNOWN, KNOWN])  # neither is tried again


def test_flags_that_are_set_are_not_tried_again(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", KNOWN)
    monkeypatch.setattr(xla_flags, "known", lambda flags: 1 / 0)
    xla_flags.add([KNOWN])
    assert os.environ["XLA_FLAGS"] == KNOWN


@pytest.mark.extended
def test_this_run_sets_what_xla_knows_of_the_fast_tests_flags(pytestconfig):
    if pytestconfig.option.markexpr in conftest.FAST:
        assert set(xla_flags.known(conftest.XLA_FLAGS)) <= set(os.environ["XLA_FLAGS"].split())
        assert count(os.environ["XLA_FLAGS"])[0] == 0
