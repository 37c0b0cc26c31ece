"""The start of CausVid (Yin et al. 2025): a causal student of clips learns where the flow of its teacher ends.

    diffusion train --config=video/drawings --workdir=runs/clips
    diffusion train --config=students/causvid_ode:runs/clips --workdir=runs/causvid_ode
    diffusion train --config=students/causvid:runs/causvid_ode --workdir=runs/causvid

The student has the teacher's network, in which a chunk sees no later one, and its weights.

Time and figures: docs/video_demo.md.

Presets: `causvid_ode:runs/clips,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")
self_forcing = recipes.module("students/self_forcing")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = base.student(arg)
    config.model.causal = self_forcing.sample_in_chunks(config)
    config.objective = {"name": "trajectory_regression", "chunk": config.model.causal}
    config.train.steps = 1000
    return base.preset(config, arg, {})
