"""The train steps of runs, from their configs."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks.programs.cases import Maker, Program
from diffusion.experiments.run import program
from diffusion.experiments.run.networks import flops_of
from diffusion.recipe import Recipe, recipes
from diffusion.recipe.defaults import defaults

DITS: dict[str, tuple[str, Mapping[str, Any]]] = {  # {program: (preset of the recipe of DiT-XL/2, changes)}
    "train_dit_s2": ("", {"model.width": 384, "model.depth": 12, "model.heads": 6}),
    "train_dit_b2": (":b2", {}),
    "train_dit_xl2": ("", {}),
    "train_dit_7b": (":7b", {}),
    "train_dit_1024": ("", {"data.shape": (64, 64, 4)}),  # latents of 512 x 512 pixels: 1,024 tokens
}
STEP = {"train.dtype": "bfloat16", "train.batch_size": 256}
SMALL_DIT = {"model.width": 256, "model.depth": 2, "model.heads": 4, "train.batch_size": 64}
SMALL_MMDIT = {"model.width": 256, "model.depth": 3, "model.heads": 4, "train.batch_size": 64}
ALONE_MMDIT = {"model.remat": "narrow"}  # with all products kept, one device would need 135 GB
SMALL_UNET = {"model.width": 64, "model.blocks": 1, "train.batch_size": 64}
TOKENS, TEXT_WIDTH, POOLED = 154, 4096, 2048  # Stable Diffusion 3's text: 77 tokens of CLIP, and 77 of T5


def dit(program: str = "train_dit_xl2") -> ConfigDict:
    """The recipe of DiT-XL/2 as it is shipped, or as one of `DITS` changes it, for a step of the table."""
    preset, changes = DITS[program]
    config = recipes.load(f"imagenet256_dit{preset}")
    with config.unlocked():
        config.update_from_flattened_dict({**STEP, **changes})
    return config


def mean_flow() -> ConfigDict:
    """DiT-XL/2 with two times, trained by MeanFlow, whose loss takes a forward-mode derivative of the network."""
    config = dit()
    config.objective = {"name": "mean_flow", "density": {"name": "logit_normal", "mean": -0.4, "std": 1.0}}
    config.schedule = {"name": "rectified_flow"}
    config.parameterization = {"name": "velocity", "clock": {"name": "time"}}
    config.sample.sampler = {"name": "flow_map"}
    config.sample.guidance.scale = 1.0
    return config


def mmdit() -> ConfigDict:
    """Stable Diffusion 3 medium's network on latents of 256 x 256 pixels, as a rectified flow: its first stage."""
    config = defaults()
    config.data.shape = (32, 32, 16)
    config.data.latents.dir = "latents"
    config.parameterization = {"name": "velocity", "clock": {"name": "time", "scale": 1000.0}}
    config.objective = {"name": "flow_matching", "density": {"name": "logit_normal"}}
    config.model = {"name": "mmdit", "remat": "elementwise"}
    config.sample.guidance.scale = 1.0
    config.optimizer = {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.0}
    return config


def edm2() -> ConfigDict:
    """EDM2-S on latents of 512 x 512 pixels."""
    config = defaults()
    config.data.shape = (64, 64, 4)
    config.data.latents.dir = "latents"
    config.schedule = {"name": "edm"}
    config.parameterization = {"name": "edm"}
    config.objective = {
        "name": "denoising",
        "density": {"name": "log_normal", "mean": -0.4, "std": 1.0},
        "weighting": {"name": "edm"},
        "wrappers": ({"name": "condition_dropout", "rate": 0.1},),
    }
    config.model = {"name": "edm2_unet", "num_classes": 1000}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-2, "weight_decay": 0.0}
    return config


def text() -> dict[str, np.ndarray]:
    """The null condition of MM-DiT, for an example without text."""
    return {"text": np.zeros((TOKENS, TEXT_WIDTH), np.float32), "pooled": np.zeros(POOLED, np.float32)}


def train_step(of: Any, small: Mapping[str, Any], null: Any = None, alone: Mapping[str, Any] | None = None) -> Maker:
    """The train step of a config in bfloat16 with a batch of 256.

    Args:
        of: a function () -> the config.
        small: the fields of the small case.
        null: the null condition of one example, where that is no class.
        alone: the fields of the large case on one device.
    """

    def make(mesh: Mesh, is_small: bool) -> Program:
        config = of()
        fields = {**STEP, **(small if is_small else {})}
        fields |= (alone or {}) if mesh.size == 1 and not is_small else {}
        with config.unlocked():
            config.update_from_flattened_dict(fields)
        shape = tuple(config.data.shape)
        recipe = Recipe.from_config(config, shape)
        if null is not None:
            recipe = recipe.with_parts(null=null)
        built = program.build(recipe, mesh)
        once = flops_of(recipe.network, built.target.params, shape, recipe.examples.null)
        lowered = built.step.lower(built.target, built.batch, built.seed)
        # The forward pass, its tangent, and two more passes for the gradient.
        passes = 4 if recipe.objective.network.forward_mode else 3
        return Program(lowered, passes * config.train.batch_size * once, config.train.batch_size)

    return make


_DITS = {program: train_step(functools.partial(dit, program), SMALL_DIT) for program in DITS}
PROGRAMS: dict[str, Maker] = {
    "train_dit_s2": _DITS["train_dit_s2"],
    "train_dit_xl2": _DITS["train_dit_xl2"],
    "train_mean_flow": train_step(mean_flow, SMALL_DIT),
    "train_mmdit": train_step(mmdit, SMALL_MMDIT, null=text(), alone=ALONE_MMDIT),
    "train_edm2": train_step(edm2, SMALL_UNET),
}
# These are compiled on each of `cases.MESHES`; a plan must name the fastest mesh.
ON_MESHES = {program: _DITS[program] for program in ("train_dit_b2", "train_dit_xl2", "train_dit_7b")}
# These have no rows in the table; tests compile them.
CHECKED: dict[str, Maker] = {"train_dit_1024": _DITS["train_dit_1024"]}
