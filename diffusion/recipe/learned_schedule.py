"""A schedule whose end points are trained together with the model."""

import jax

from diffusion import schedules
from diffusion.schedules import NoiseSchedule, Trained


def learned(log_snr_max: float = 13.3, log_snr_min: float = -5.0, features: int = 1024, seed: int = 0) -> NoiseSchedule:
    """`schedules.learned` as it begins, with ends that train; the shape between them stays.

    The bound that trains them does not depend on that shape, and its gradient there would be only noise.

    Args:
        log_snr_max: the initial log-SNR near t = 0.
        log_snr_min: the initial log-SNR at t = 1, < log_snr_max.
        features: the width of the network of the shape.
        seed: the seed of the network of the shape.
    """
    first = schedules.init_learned(jax.random.key(seed), log_snr_max, log_snr_min, features)
    ends = {name: first[name] for name in ("log_snr_max", "range")}
    trained = Trained(lambda: ends, lambda ends: schedules.learned({**first, **ends}))
    return schedules.learned(first)._replace(trained=trained)
