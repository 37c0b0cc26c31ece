"""LCM-LoRA: a LoRA with which a text-to-image model makes a picture in four steps, without guidance.

    diffusion train --config=tuning/lcm_lora --workdir=runs/lcm_lora --config.base.path=stable-diffusion-v1-5 \\
      --config.data.source.path=photos
    diffusion sample --workdir=runs/lcm_lora --prompt="a photo of a beach" -n 4
    diffusion sample --model=stable-diffusion-v1-5 --lora=runs/lcm_lora/tuning/pytorch_lora_weights.safetensors \\
      --sampler=lcm --steps=4 --guidance=1 --prompt="a photo of a beach"

Latent consistency distillation (Luo et al. 2023) with one scale of guidance, which the LoRA has built in. The base
teaches, so that memory holds its weights once. The pictures need captions of their own (docs/data.md). The more
pictures and captions the folder has, the better: the LoRA learns only at these prompts and these pictures.

`--config.objective.guidance=6.5` is the guidance scale of the base minus 1. For a base that samples at shifted times,
such as Stable Diffusion 3, set `--config.objective.shift` and `--config.sample.shift` to its shift.

Rank 64, the layers, 1,000 steps and the solver's 50 steps are those of the example `train_lcm_distill_lora_sd_wds.py`
of diffusers. The recipe has been trained only on the drawings' model, with other settings: `tuning/drawings_fast`.

Presets: `lcm_lora:tiny` (to see that everything works).
"""

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")

TINY = base.TINY | {"tuning.rank": 4}
LAYERS = (
    r"(^|\.)(to_[qkv]|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2|conv_shortcut|"
    r"(down|up)samplers\.0\.conv|time_emb_proj)$"
)


def distilled(tuning: dict, learning_rate: float, steps: int, guidance: float) -> ConfigDict:
    """The config of latent consistency distillation into new weights.

    Args:
        tuning: the entry config.tuning.
        learning_rate: learning rate of AdamW after a warmup.
        steps: training steps.
        guidance: guidance scale of the teacher, which the new weights have built in.
    """
    config = base.tuned(tuning, learning_rate, steps)
    config.objective = {
        "name": "latent_consistency_distillation",
        "guidance": guidance - 1,  # the paper's omega
        "solver_steps": 50,
        "shift": 1.0,
        "exact_end": True,  # a base of x0 has no boundary at t = 0; to one of noise it makes no difference
    }
    config.optimizer.update({"decay": "cosine", "weight_decay": 0.0})
    config.ema.update({"decay": 0.99, "warmup": True})
    config.sample.update({"sampler": {"name": "consistency"}, "steps": 4})
    config.sample.guidance.scale = 1.0
    return config


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = distilled({"name": "lora", "rank": 64, "targets": LAYERS}, learning_rate=1e-4, steps=1000, guidance=7.5)
    config.train.batch_size = 12
    return recipes.preset(config, arg, {"tiny": TINY})
