"""Latent adversarial diffusion distillation (LADD, SD3-Turbo; Sauer et al. 2024): a critic of the teacher's features.

    diffusion train --config=students/ladd:runs/digits --workdir=runs/ladd
    diffusion sample --workdir=runs/ladd --config.sample.steps=1

As `students/turbo`, in pixels or latents alike: small heads on the features of the frozen teacher tell noised data from
noised samples, and the student has no other loss. `objective.noise_density` says how noised they are.

The paper trains on the teacher's own samples. `diffusion sample --workdir=runs/digits --config.sample.number=10000`
writes them, and `{"name": "arrays", "path": ".../samples.npz", "x": "images", "label": "labels"}` as
`--config.data.source` reads them.

Time and score, on the digits: 12 minutes of a busy machine; in one, two and four evaluations 1.87, 1.36 and 1.41 times
the teacher's Frechet distance in pixels, and 1.60, 1.07 and 1.17 times in classifier features.

Presets: `ladd:runs/digits,tiny` (seconds; to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("students/base")
turbo = recipes.module("students/turbo")


def get_config(arg: str = "") -> ConfigDict:
    """The recipe for a teacher's folder; see the module's docstring."""
    config = turbo.get_config(arg)
    # The paper's noise (mean 1) shows a discriminator structure; of 8 x 8 digits it shows nothing.
    noise = {"name": "logit_normal", "mean": -1.0, "std": 1.0, "strata": 32}
    blocks = tuple(range(1, config.model.get("depth", 1) + 1))
    config.objective.update({"weight": 0.0, "noise_density": noise, "blocks": blocks})
    config.second_player.objective.update({"noise_density": noise, "blocks": blocks, "r1": 1e-4})
    config.second_player.network = {"name": "feature_heads"}
    config.second_player.optimizer.learning_rate = 3e-3
    config.second_player.updates = 2  # new heads learn more slowly than Turbo's copy of the teacher
    config.optimizer.learning_rate = 5e-4
    config.train.steps = 1600
    return base.preset(config, arg, {})
