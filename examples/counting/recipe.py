"""The drawings' model is rewarded for what its captions request, by a LoRA: counting first of all.

    diffusion train --config=examples/counting/recipe.py:nft --workdir=runs/counting/nft \\
      --extend=examples.counting.extension

Presets: `nft`, `policy_gradient`, `reward_backpropagation`; and, on samples of the base that the judge chose
(`python -m examples.counting.own_samples`), `rejection` and `preferences`. Each takes 39,900 evaluations of the
network. `preferences_2` goes on with pairs of the tuned model's own, for about as many evaluations again:

    python -m examples.counting.own_samples --out=runs/counting/samples_2 --first=400 --number=500 \\
      --lora=runs/counting/preferences/tuning/pytorch_lora_weights.safetensors
"""

from typing import Any

from ml_collections import ConfigDict

from diffusion.recipe import recipes

base = recipes.module("tuning/base")
denoiser = recipes.module("text/shapes").denoiser

VELOCITY = denoiser()["objective"]["weighting"].to_dict()
TIMES = {"name": "logit_normal", "mean": 1.2, "std": 1.2, "strata": 8}
GROUPS = {"reward": {"name": "judged"}, "group": 8, "deviation": False}  # most groups of one object have equal rewards
SAMPLES = "runs/counting/samples"


def preferences(samples: str) -> dict[str, Any]:
    """Diffusion-DPO on the pairs in a folder of `examples.counting.own_samples`."""
    pair = tuple({"name": "picture_folder", "path": f"{samples}/{part}"} for part in ("preferred", "rejected"))
    return {
        "data.source": {"name": "preferences", "of": pair},
        "objective": {"name": "diffusion_dpo", "weighting": VELOCITY, "density": TIMES, "beta": 0.5},
        "train.batch_size": 32,
        "train.steps": 106,
    }


PRESETS = {
    "nft": {},
    "policy_gradient": {
        "objective": {
            "name": "policy_gradient",
            **GROUPS,
            "sampler": {"name": "interpolant_sde", "w": "flow_grpo", "scale": 0.49},
        },
        "train.batch_size": 32,
        "train.steps": 39,
    },
    "reward_backpropagation": {
        "objective": {"name": "reward_backpropagation", "reward": {"name": "judged", "logarithm": True}, "last": 8},
        "optimizer.learning_rate": 5e-4,
        "train.batch_size": 16,
        "train.steps": 104,
    },
    "rejection": {
        "data.source": {"name": "picture_folder", "path": f"{SAMPLES}/accepted"},
        "objective": {"name": "denoising", "weighting": VELOCITY, "density": TIMES, "wrappers": ()},
        "train.steps": 141,
    },
    "preferences": preferences(SAMPLES),
    "preferences_2": preferences(f"{SAMPLES}_2") | {"init_from.path": "runs/counting/preferences"},
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned({"name": "lora", "rank": 16, "alpha": 16.0}, learning_rate=1.5e-3, steps=52)
    config.base.path = "weights/drawings"
    config.data.source = {"name": "counting_drawings"}
    config.objective = {"name": "diffusion_nft", "weighting": VELOCITY, "density": TIMES, **GROUPS, "limit": 0.5}
    config.sample.update({"steps": 8, "shift": 3.0})
    config.optimizer.update({"warmup": 5, "weight_decay": 0.0})
    config.ema.decay = 0.8
    config.train.update({"batch_size": 64, "accumulate": 1, "log_every": 5})
    config.checkpoint.every = 50
    return recipes.preset(config, arg, PRESETS)
