"""Self forcing (Huang et al. 2025): a generator of clips, chunk after chunk, trained to continue its own frames.

    diffusion train --config=video/drawings --workdir=runs/clips
    diffusion train --config=students/self_forcing:runs/clips --workdir=runs/self_forcing
    diffusion sample --workdir=runs/self_forcing

As `students/dmd`, of a teacher of clips with a time for each frame: two chunks, each in four steps of config.sample
(grid, steps, shift), and the loss of distributions is on the whole clip.

Time and figures: docs/video_demo.md; 1,500 steps of 12 clips took 38 minutes of one core.

Presets: `self_forcing:runs/clips,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

dmd = recipes.module("students/dmd")
STEPS = 4


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = dmd.get_config(arg)
    samples = {"name": "self_forcing", "chunk": sample_in_chunks(config)}
    config.objective.samples = config.second_player.objective.samples = samples
    return config


def sample_in_chunks(config: ConfigDict) -> int:
    """Has clips sampled in two chunks, each in four steps after the finished frames; returns the frames of a chunk."""
    frames = config.data.source.frames
    chunk = frames // 2
    config.sample.steps = STEPS
    config.sample.sampler = {"name": "per_frame", "sampler": {"name": "consistency"}}
    config.sample.plan = {"name": "staggered", "frames": frames, "delay": STEPS, "chunk": chunk}
    return chunk
