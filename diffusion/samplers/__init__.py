"""Samplers: named pairs of pure functions, scanned over a plan by `sample`."""

from diffusion.samplers.ddpm import ddim, ddpm
from diffusion.samplers.dpm_solver import dpmpp_2m
from diffusion.samplers.euler import euler, heun
from diffusion.samplers.sample import Sampler, State, Trajectory, prior, sample

__all__ = ["Sampler", "State", "Trajectory", "ddim", "ddpm", "dpmpp_2m", "euler", "heun", "prior", "sample"]
