"""Settings that every test shares: the CPU, float32 unless a test asks for float64, and reproducible hypothesis."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402  (after the environment is set)
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# Compilation makes the first example slow, and an example must not depend on the day it is run.
settings.register_profile(
    "diffusion",
    deadline=None,
    derandomize=True,
    max_examples=15,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("diffusion")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than a few seconds; left out of the fast suite")
    config.addinivalue_line("markers", "real_data: reads the datasets that TFDS_DATA_DIR points to")


@pytest.fixture
def x64():
    """Runs a test with JAX in float64, and restores float32 after it."""
    with jax.enable_x64(True):
        yield
