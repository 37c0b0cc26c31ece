"""ControlNet of the drawings' model (docs/text_demo.md): outlines, layers or a sketch say where shapes stand.

    diffusion train --config=tuning/drawings_control:outlines --workdir=runs/outlines
    diffusion train --config=tuning/drawings_control:layers --workdir=runs/layers
    diffusion train --config=tuning/drawings_control:sketch --workdir=runs/sketch
    python -m examples.control.report --runs=runs/outlines,runs/layers,runs/sketch --out=runs/control

The base is runs/text/model, or another by --config.base.path. It has drawn shapes only at nine places; the pictures of
this training have them at 25 and over each other, with captions that do not say where (`shapes.arrangements`), and
anywhere with `--config.data.source.places="()"`. Loss, density of the times and optimizer are those of the base's
training.

Time and error: docs/control.md.

Presets: the three above, and `drawings_control:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")
shapes = recipes.module("text/shapes")

PLACES = (16.0, 24.0, 32.0, 40.0, 48.0)  # pixels, along each side
PRESETS = {name: {"data.source.kind": name} for name in ("outlines", "layers", "sketch")}
PRESETS["tiny"] = base.TINY | {"data.source.number": 16}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned({"name": "control_net"}, learning_rate=3e-3, steps=1500)
    config.optimizer.name = "muon"
    config.data.source = {"name": "arranged_drawings", "kind": "outlines", "number": 4_000, "places": PLACES}
    return recipes.preset(use_drawings(config), arg, PRESETS)


def use_drawings(config: ConfigDict) -> ConfigDict:
    """A tuning of the drawings' model, by the loss that it was trained with."""
    config.base.path = "runs/text/model"
    trained = shapes.denoiser()
    config.objective = trained.objective.to_dict() | {"wrappers": ({"name": "condition_dropout", "rate": 0.05},)}
    config.optimizer.update({"decay": "cosine", "weight_decay": 0.0})
    config.objective.density.strata = 64
    config.train.batch_size = 64
    config.checkpoint.every = 100
    config.sample.update({"steps": 20, "batch_size": 50})
    return config
