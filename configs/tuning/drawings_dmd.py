"""DMD-LoRA of the drawings' model: distribution matching in four steps into new weights beside weights/drawings.

    diffusion train --config=tuning/drawings_dmd --workdir=runs/drawings_dmd
    diffusion sample --workdir=runs/drawings_dmd --prompt="a red circle above a blue square"
    diffusion sample --model=drawings --lora=runs/drawings_dmd/tuning/pytorch_lora_weights.safetensors \\
        --sampler=lcm --steps=4 --guidance=1 --prompt="a red circle above a blue square"

DMD2 (Yin et al. 2024) with LoRAs in place of networks: the generator is the base with one, the score of its samples the
base with another, and the guided base teaches, so that memory holds its weights once. The file is of the same form as
`tuning/drawings_fast` writes, and comes along as the model drawings-fast.

Time and score (docs/students_text.md): 15 minutes beside other programs; in four steps 93.5 % of the attributes, where
the base, the weights of commit 9c065274, has 95.7 % in 20 steps of two passes, at 0.83 times its Frechet distance.

Presets: `drawings_dmd:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")
fast = recipes.module("tuning/drawings_fast")

TIMES = {"name": "uniform_density", "strata": 32}
SAMPLES = {"name": "backward_simulation"}
TINY = {"second_player.updates": 2, "objective.density.strata": 1, "second_player.objective.density.strata": 1}
PRESETS = {"tiny": fast.PRESETS["tiny"] | TINY}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = fast.get_config()
    config.tuning.rank = 8
    config.teacher.scale = fast.SCALE
    config.objective = {"name": "distribution_matching", "density": TIMES, "samples": SAMPLES}
    config.second_player = {
        "objective": {
            "name": "fake_score",
            "density": TIMES,
            "samples": SAMPLES,
            "weighting": {"name": "constant", "parameterization": {"name": "velocity"}},
        },
        "network": {"name": ""},  # the base, with new weights of its own
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "warmup": 50, "clip": 1.0},
        "updates": 5,
    }
    config.optimizer.learning_rate = 5e-4
    config.train.update({"steps": 1000, "log_every": 50})
    return recipes.preset(config, arg, PRESETS)
