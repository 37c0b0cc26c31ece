"""The former name of `run_samples`, which goes with the next minor version."""

__all__ = []

import sys
import warnings

from diffusion.experiments.sampling import run_samples

warnings.warn(f"{__name__} is now called run_samples", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = run_samples
