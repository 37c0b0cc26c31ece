"""CausVid (Yin et al. 2025): a causal generator of clips, by the scores of networks that see whole clips.

    diffusion train --config=students/causvid_ode:runs/clips --workdir=runs/causvid_ode
    diffusion train --config=students/causvid:runs/causvid_ode --workdir=runs/causvid
    diffusion sample --workdir=runs/causvid

Start and teacher are those of a run of `students/causvid_ode`; with a teacher's own folder the student starts from the
teacher's weights. As `students/self_forcing`, but the generator is block-causal, and instead of its own frames it
restores data whose chunks have noise levels of their own.

Time and figures: docs/video_demo.md; 14 minutes of one core, after 24 of `causvid_ode`.

Presets: `causvid:runs/causvid_ode,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")
dmd = recipes.module("students/dmd")
self_forcing = recipes.module("students/self_forcing")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a student's or a teacher's folder; see the module's docstring."""
    config = dmd.get_config(arg)
    start = base.read(arg)
    if start.teacher.path:
        config.teacher = start.teacher
    config.model.causal = self_forcing.sample_in_chunks(config)
    samples = {"name": "noised_chunks", "chunk": config.model.causal}
    config.objective.samples = config.second_player.objective.samples = samples
    weighting = {"name": "constant", "parameterization": config.teacher.parameterization.to_dict()}
    config.second_player.objective.weighting = weighting
    return config
