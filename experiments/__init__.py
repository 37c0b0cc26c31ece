"""The commands of a clone: `python -m experiments.train` runs `diffusion/experiments/train.py`."""

from diffusion import experiments

__path__ = experiments.__path__
