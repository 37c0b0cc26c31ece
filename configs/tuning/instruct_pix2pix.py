"""InstructPix2Pix: teaches a text-to-image model to edit pictures by instructions, from pairs of pictures.

    diffusion train --config=tuning/instruct_pix2pix --workdir=runs/edits --config.base.path=stable-diffusion-v1-5 \\
      --config.data.source.path=pairs
    diffusion sample --workdir=runs/edits --prompt="make it winter" --image=house.png --image_guidance=1.5

The folder has a table metadata.csv (or .jsonl) with three columns: file_name names the edited picture,
original_file_name the picture before the edit, and text holds the instruction. 5 % of the examples have no instruction,
5 % no original, and 5 % neither. The learning rate 1e-4 without decay is the paper's, which makes 10,000 steps of 1,024
examples.

Expected time and quality are not known: it was run only on tiny models.

Presets: `instruct_pix2pix:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned({"name": "instruct_pix2pix"}, learning_rate=1e-4, steps=15_000)
    config.data.source = {**config.data.source.to_dict(), "condition": ("original",)}
    config.objective.wrappers = ({"name": "condition_dropout", "rate": 0.05},)
    config.train.batch_size = 4
    return base.preset(config, arg)
