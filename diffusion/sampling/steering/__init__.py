"""Steering: samples of a tilted distribution, by weighted particles, by search, or by a measurement of the data.

The folder also has annealed importance sampling of an unnormalised density.

tilt = steering.tilt(log_reward)                  # the target is p(x_0) exp(log_reward(x_0)), up to its constant
particles = steering.twisted(samplers.ddpm(), denoise, schedule, x, plan, keys, tilt, number=16)
steering.log_normaliser(particles.log_weights)    # [G], log E_p[exp log_reward(x_0)]; its exponential is unbiased
"""

from diffusion.package import public
from diffusion.sampling.steering.annealed import annealed as annealed, annealing_ladder as annealing_ladder
from diffusion.sampling.steering.correctors import corrected as corrected
from diffusion.sampling.steering.daps import (
    Draw as Draw,
    daps as daps,
    gaussian_draw as gaussian_draw,
    langevin_draw as langevin_draw,
)
from diffusion.sampling.steering.das import das as das
from diffusion.sampling.steering.ddrm import ddrm as ddrm
from diffusion.sampling.steering.mcgdiff import mcgdiff as mcgdiff
from diffusion.sampling.steering.noise_search import (
    optimised_noise as optimised_noise,
    searched_noise as searched_noise,
)
from diffusion.sampling.steering.particles import Particles as Particles, best as best, drawn as drawn
from diffusion.sampling.steering.path_search import searched_paths as searched_paths
from diffusion.sampling.steering.red_diff import red_diff as red_diff
from diffusion.sampling.steering.rejection import Accepted as Accepted, rejected as rejected
from diffusion.sampling.steering.resampling_schemes import (
    Resampling as Resampling,
    effective_size as effective_size,
    log_normaliser as log_normaliser,
    multinomial as multinomial,
    partial as partial,
    stratified as stratified,
    systematic as systematic,
    where_uneven as where_uneven,
)
from diffusion.sampling.steering.superposition import mixed as mixed
from diffusion.sampling.steering.twisted import twisted as twisted
from diffusion.sampling.steering.twists import (
    Twist as Twist,
    largest_so_far as largest_so_far,
    sum_so_far as sum_so_far,
    tilt as tilt,
)

public.declare(__name__)
