"""The former name of `python_objects`, which goes with the next minor version."""

__all__ = []

import sys
import warnings

from diffusion.data.sources import python_objects

warnings.warn(f"{__name__} is now called python_objects", DeprecationWarning, stacklevel=2)
sys.modules[__name__] = python_objects
