"""DMD-LoRA: distribution matching into a LoRA with which a text-to-image model makes a picture in four steps.

    diffusion train --config=tuning/dmd_lora --workdir=runs/dmd_lora --config.base.path=stable-diffusion-v1-5 \\
      --config.data.source.path=photos
    diffusion sample --workdir=runs/dmd_lora --prompt="a photo of a beach" -n 4
    diffusion sample --model=stable-diffusion-v1-5 --lora=runs/dmd_lora/tuning/pytorch_lora_weights.safetensors \\
      --sampler=lcm --steps=4 --guidance=1 --prompt="a photo of a beach"

DMD2 (Yin et al. 2024) with LoRAs in place of networks: the generator is the base with one, the score of its samples the
base with another, and the guided base teaches, so that memory holds its weights once. Of the pictures only the captions
and sizes take part. `--config.teacher.scale=7.5` is the guidance scale of the base; its shift is set as in
`tuning/lcm_lora`, whose file has the same form.

The recipe has been trained only on the drawings' model, with other settings: `tuning/drawings_dmd`.

Presets: `dmd_lora:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

lcm_lora = recipes.module("tuning/lcm_lora")

TINY = {"second_player.updates": 2, "objective.density.strata": 1, "second_player.objective.density.strata": 1}


def match_distributions(config: ConfigDict, guidance: float, learning_rate: float, strata: int) -> None:
    """Replaces the objective by DMD2's two, whose second network is the base with new weights of its own.

    Args:
        config: config of a tuning, which it changes; its samples take the few steps.
        guidance: guidance scale of the teacher, which the new weights have built in.
        learning_rate: learning rate of the second network.
        strata: strata of the times of a batch, a divisor of its size.
    """
    times = {"name": "uniform_density", "strata": strata}
    samples = {"name": "backward_simulation"}
    config.teacher.scale = guidance
    config.objective = {"name": "distribution_matching", "density": times, "samples": samples}
    config.second_player = {
        "objective": {
            "name": "fake_score",
            "density": times,
            "samples": samples,
            "weighting": {"name": "constant", "parameterization": {"name": "velocity"}},
        },
        "network": {"name": ""},  # the base, with new weights of its own
        "optimizer": {"name": "adamw", "learning_rate": learning_rate, "warmup": 50, "clip": 1.0},
        "updates": 5,
    }


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = lcm_lora.get_config()
    match_distributions(config, guidance=7.5, learning_rate=1e-4, strata=4)
    config.optimizer.learning_rate = 5e-5
    config.train.update({"steps": 5000, "log_every": 50})
    return recipes.preset(config, arg, {"tiny": lcm_lora.TINY | TINY})
