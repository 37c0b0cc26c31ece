"""Guidance turns denoisers into a denoiser.

`together` and `separately` evaluate the branches that a guidance combines. The guidance is a function of their
predictions, so that any guidance combines with either way of evaluating. Negative conditioning is `classifier_free`
with the negative condition as second branch, or `composed` with a negative weight beside the null one.
"""

from diffusion import public
from diffusion.guidance import measurements
from diffusion.guidance.attention_guidance import Maps, attend_and_excite, layout
from diffusion.guidance.branches import Branches, of_conditions, separately, together
from diffusion.guidance.classifier_free import autoguidance, classifier_free
from diffusion.guidance.classifier_gradient import LogProbability, classifier
from diffusion.guidance.composed import composed
from diffusion.guidance.internal import internal, of_depths
from diffusion.guidance.measurement_guidance import (
    gaussian_likelihood,
    negative_distance,
    posterior_sampling,
    pseudoinverse,
    quantile_likelihood,
)
from diffusion.guidance.memory import Memory, Unpaired
from diffusion.guidance.of_edits import text_and_picture
from diffusion.guidance.overlapping_windows import windows
from diffusion.guidance.perturbed import perturbed_attention, skip_layer
from diffusion.guidance.plus_plus import classifier_free_plus_plus
from diffusion.guidance.projected import adaptive_projected
from diffusion.guidance.regional import Region, regional
from diffusion.guidance.renormalised import renormalised
from diffusion.guidance.rescaled import rescaled
from diffusion.guidance.strength import Interval, Ramp, Scale, power_cosine
from diffusion.guidance.thresholding import dynamic_threshold
from diffusion.guidance.zero_star import zero_star

__all__ = [
    "Branches",
    "Interval",
    "LogProbability",
    "Maps",
    "Memory",
    "Ramp",
    "Region",
    "Scale",
    "Unpaired",
    "adaptive_projected",
    "attend_and_excite",
    "autoguidance",
    "classifier",
    "classifier_free",
    "classifier_free_plus_plus",
    "composed",
    "dynamic_threshold",
    "gaussian_likelihood",
    "internal",
    "layout",
    "measurements",
    "negative_distance",
    "of_conditions",
    "of_depths",
    "perturbed_attention",
    "posterior_sampling",
    "power_cosine",
    "pseudoinverse",
    "quantile_likelihood",
    "regional",
    "renormalised",
    "rescaled",
    "separately",
    "skip_layer",
    "text_and_picture",
    "together",
    "windows",
    "zero_star",
]

public.declare(__name__)
