"""Registers names for `--extend=examples.counting.extension`: a reward for captions, and a source of drawings."""

from diffusion.recipe import names
from examples.counting import rewards

names.add(names.REWARDS, rewards.judged)
names.add(names.SOURCES, rewards.counting_drawings)
