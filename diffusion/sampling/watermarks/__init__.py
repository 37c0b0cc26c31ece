"""Invisible watermarks in a sampler's initial noise or in the finished picture, and their detection.

    watermark = watermarks.load("mark.json")      # made by `diffusion watermark make`
    noise = watermark.embed(noise, keys)          # [B, h, w, C]; or pictures, of one whose `carrier` is "pictures"
    watermark.read(noise).p_value                 # [B], under "there is no such watermark"

To add your own, set `watermarks.WATERMARKS["mine"] = mine`, also in a file that `--extend` names.
"""

from diffusion.package import public
from diffusion.sampling.watermarks import degradations as degradations, keyed as keyed
from diffusion.sampling.watermarks.gaussian_shading import gaussian_shading as gaussian_shading
from diffusion.sampling.watermarks.initial_noise import initial_noise as initial_noise
from diffusion.sampling.watermarks.key_files import (
    WATERMARKS as WATERMARKS,
    from_entry as from_entry,
    load as load,
    make as make,
)
from diffusion.sampling.watermarks.spread_spectrum import spread_spectrum as spread_spectrum
from diffusion.sampling.watermarks.tree_ring import tree_ring as tree_ring
from diffusion.sampling.watermarks.watermark import Reading as Reading, Watermark as Watermark

public.declare(__name__, renamed={"of": "from_entry"})
