"""ControlNet: teaches a U-Net to follow a second picture of each record, here edges that are computed from it.

    diffusion train --config=tuning/control_net --workdir=runs/edges --config.base.path=stable-diffusion-v1-5 \\
      --config.data.source.of.path=photos
    diffusion sample --workdir=runs/edges --prompt="a house at night" --controls=control:house-edges.png

The photos have captions (docs/data.md). `--config.data.source.control.name=sketch` computes another control. To use
your own second pictures, name them in the column control_file_name of metadata.csv, and set config.data.source =
{"name": "picture_folder", ..., "condition": ("control",)}. The learning rate 1e-5 comes from the example
`train_controlnet.py` of diffusers.

Presets: `control_net:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned({"name": "control_net"}, learning_rate=1e-5, steps=20_000)
    config.data.source = {"name": "controlled", "of": config.data.source.to_dict(), "control": {"name": "edges"}}
    config.train.batch_size = 4
    return base.preset(config, arg)
