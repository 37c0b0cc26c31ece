"""The names that `--extend=examples.counting.extension` adds: the reward of a caption, and drawings for it."""

from diffusion.recipe import names
from examples.counting import rewards

names.add(names.REWARDS, rewards.judged)
names.add(names.SOURCES, rewards.counting_drawings)
