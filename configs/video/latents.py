"""Text to video on latents of the bundled clips of moving shapes: an autoencoder, and a denoiser of its latents.

    python -m examples.video.demo --config=video/latents --workdir=runs/video_latents

The demo of `video/drawings`, with the autoencoder of `video/autoencoder` before it: clips of 9 frames of 32 x 32 pixels
are 5 frames of 8 x 8 latents with 8 channels, 80 tokens for the denoiser in place of 128. The first 8 frames of a clip
are those of `video/drawings`, and are judged.

docs/video_demo.md says how far it has been trained.

Presets: `latents:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

drawings = recipes.module("video/drawings")
autoencoder = recipes.module("video/autoencoder")
FRAMES = 9  # the first, and four pairs
PATTERNS = (".....", "1....", "111..")
SHARED = ("data.source.number",)  # fields of both trainings
TINY = {
    "data.source.number": 16,
    "measured": 8,
    **{f"autoencoder.{field}": value for field, value in autoencoder.TINY.items() if not field.startswith("data.")},
    **{f"denoiser.{field}": value for field, value in drawings.TINY.items() if field not in SHARED},
    "denoiser.model.patch": 4,
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    denoiser, first = drawings.get_config(), autoencoder.get_config()
    source = denoiser.data.source.to_dict() | {"frames": FRAMES, "span": drawings.FRAMES}
    denoiser.model.patch = 2
    denoiser.objective.density.patterns = PATTERNS
    config = ConfigDict(
        {
            "data": {
                "source": source,
                "name": denoiser.data.name,
                "dir": "",
                "split": "train",
            },  # the data of both trainings
            "measured": 500,  # training clips by which the latents are normalised to mean 0 and variance 1
            "autoencoder": first,
            "denoiser": denoiser,
        }
    )
    return recipes.preset(config, arg, {"tiny": TINY})
