"""Diffusion of characters of English prose: documentation strings of NumPy and SciPy, as 26 letters and the space.

    diffusion train --config=symbols/prose --workdir=runs/prose
    diffusion sample --workdir=runs/prose
    diffusion sample --workdir=runs/prose --infill="the function returns an array of ______ ____" --out=runs/infilled
    diffusion evaluate --workdir=runs/prose

The loss is in nats a character, and for `masked` and `uniform` a bound on -log p of held-out text in continuous time.

Presets: `prose:masked`, the recipe itself; `prose:uniform` (characters are replaced by random ones, and corrected);
`prose:flow` (discrete flow matching from random characters: its loss is a cross-entropy, and no bound); `prose:duo` (as
`uniform`, but the network sees softened characters for half of the steps); `prose:distilled` (a student of runs/duo for
few steps); `prose:tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("small_flow")
LETTERS = 27
LINEAR = {"name": "linear"}
UNIFORM = {"name": "uniform", "keeping": LINEAR, "size": LETTERS}
DENSITY = {"name": "uniform_density", "strata": 32}
PRESETS = {
    "masked": {},
    "uniform": {
        "objective": {
            "name": "score_entropy",
            "process": UNIFORM,
            "density": DENSITY,
            "reading": {"name": "context"},
            "wrappers": (),
        },
        "model.clock": "time",
    },
    "flow": {
        "objective": {
            "name": "discrete_flow_matching",
            "process": UNIFORM,
            "density": DENSITY,
            "reading": {"name": "context"},
            "wrappers": (),
        },
        "model.clock": "time",
        "sample.sampler": {"name": "symbol_flow"},
    },
    "duo": {
        "objective": {
            "name": "duo",
            "process": UNIFORM,
            "density": DENSITY,
            "until": 2000,
            "reading": {"name": "context"},
            "wrappers": (),
        },
        "model.clock": "time",
    },
    "distilled": {
        "objective": {
            "name": "discrete_consistency",
            "process": UNIFORM,
            "density": DENSITY,
            "steps": 64,
            "stage": 800,
            "rounds": 5,
            "reading": {"name": "context"},
            "wrappers": (),
        },
        "model.clock": "time",
        "teacher.path": "runs/duo",
        "init_from.path": "runs/duo",
        "init_from.include": ".*",
        "sample.steps": 8,
    },
    "tiny": base.tiny(batch_size=8, samples=6)
    | {
        "data.source": {"name": "prose", "length": 16, "packages": ("optax",)},
        "model.width": 16,
        "model.depth": 1,
        "model.heads": 2,
        "evaluate.loss.every": 10,
        "evaluate.loss.number": 16,
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    masks = {"name": "absorbing", "keeping": LINEAR, "size": LETTERS + 1}
    objective = {"name": "masked_diffusion", "process": masks, "density": DENSITY, "wrappers": ()}
    config = base.flow({"name": "prose", "length": 96}, objective, steps=4000, batch_size=32)
    config.parameterization = {"name": "velocity"}  # for numbers alone; symbols are not read by it
    config.model = {
        "name": "symbol_transformer",
        "width": 128,
        "depth": 4,
        "heads": 4,
        "clock": "none",  # the masks say the time
        "tied": True,
    }
    base.sampled(config, "ancestral", steps=64, number=200, batch_size=100)
    config.evaluate.number = 200
    config.evaluate.loss.update({"every": 1000, "number": 2048})
    return recipes.preset(config, arg, PRESETS)
