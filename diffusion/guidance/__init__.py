"""Guidance turns denoisers into a denoiser.

`together` and `separately` evaluate the branches that a guidance combines. A guidance is a function of the branches'
predictions, so any guidance works with either way of evaluating them. Negative prompting is `classifier_free` with the
negative condition as the second branch, or `composed` with a negative weight.
"""

from diffusion.guidance import measurements as measurements
from diffusion.guidance.attention_guidance import Maps as Maps, attend_and_excite as attend_and_excite, layout as layout
from diffusion.guidance.branches import (
    Branches as Branches,
    separately as separately,
    together as together,
    with_conditions as with_conditions,
)
from diffusion.guidance.classifier_free import autoguidance as autoguidance, classifier_free as classifier_free
from diffusion.guidance.classifier_gradient import LogProbability as LogProbability, classifier as classifier
from diffusion.guidance.composed import composed as composed
from diffusion.guidance.data_consistency import manifold_preserving as manifold_preserving, proximal as proximal
from diffusion.guidance.density_products import Product as Product, multiplied as multiplied, product as product
from diffusion.guidance.instruction_edits import text_and_picture as text_and_picture
from diffusion.guidance.internal import depth_branches as depth_branches, internal as internal
from diffusion.guidance.measurement_guidance import (
    gaussian_likelihood as gaussian_likelihood,
    negative_distance as negative_distance,
    posterior_sampling as posterior_sampling,
    pseudoinverse as pseudoinverse,
    quantile_likelihood as quantile_likelihood,
)
from diffusion.guidance.memory import Memory as Memory, Unpaired as Unpaired
from diffusion.guidance.overlapping_windows import windows as windows
from diffusion.guidance.perturbed import perturbed_attention as perturbed_attention, skip_layer as skip_layer
from diffusion.guidance.plus_plus import classifier_free_plus_plus as classifier_free_plus_plus
from diffusion.guidance.projected import adaptive_projected as adaptive_projected
from diffusion.guidance.regional import Region as Region, regional as regional
from diffusion.guidance.renormalised import renormalised as renormalised
from diffusion.guidance.rescaled import rescaled as rescaled
from diffusion.guidance.strength import (
    Interval as Interval,
    Ramp as Ramp,
    Scale as Scale,
    Stepwise as Stepwise,
    power_cosine as power_cosine,
)
from diffusion.guidance.thresholding import dynamic_threshold as dynamic_threshold
from diffusion.guidance.zero_star import zero_star as zero_star
from diffusion.package import public

public.declare(__name__, renamed={"of_conditions": "with_conditions", "of_depths": "depth_branches"})
