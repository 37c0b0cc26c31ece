"""The launchers of a clone: `python -m launch.local` runs `diffusion/launch/local.py`."""

from diffusion import launch

__path__ = launch.__path__
