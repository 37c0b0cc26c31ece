"""What every way of steering by groups of particles has in common."""

import numpy as np


def assert_the_last_stands_alone(run, x, keys):
    """The last of three groups of eight is the same beside other particles, and without them; returns all of the run.

    Args:
        run: (x `[N, D]`, keys `[N]`) -> particles, in groups of eight.
        x: the particles, `[24, D]`.
        keys: their keys, `[24]`.
    """
    whole, other, last = run(x, keys), run(x.at[:16].multiply(2), keys.at[:16].set(keys[8])), run(x[16:], keys[16:])
    for same in (other.x[16:], last.x):
        np.testing.assert_allclose(whole.x[16:], same, rtol=1e-5, atol=1e-6)
    for same in (other.log_weights[2:], last.log_weights):
        np.testing.assert_allclose(whole.log_weights[2:], same, rtol=1e-5, atol=1e-6)
    assert (whole.x[:16] != other.x[:16]).any(1).all()
    return whole
