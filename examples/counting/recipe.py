"""The model of drawings learns to count: from rewards, or from real drawings, most of which show several objects.

    diffusion train --config=examples/counting/recipe.py:nft --workdir=runs/counting/nft \\
      --extend=examples.counting.extension

Presets with rewards, which train a LoRA: `nft`, `policy_gradient` and `reward_backpropagation`. The presets `rejection`
and `preferences` train on samples of the base model that the judge selected
(`python -m examples.counting.own_samples`). Each preset uses 39,900 evaluations of the network. `preferences_2`
continues with pairs of samples from the tuned model, for about as many evaluations again:

    python -m examples.counting.own_samples --out=runs/counting/samples_2 --first=400 --number=500 \\
      --lora=runs/counting/preferences/tuning/pytorch_lora_weights.safetensors

Presets on real drawings, with the loss that trained the base model: `drawings` trains all weights and `drawings_lora` a
LoRA, also for 39,900 evaluations each. `drawings_long` trains all weights for longer, which takes minutes on a GPU.
`drawings_spelling` is similar, with words of random letters in two of five drawings, so that the model learns to spell
words that it has not seen.

The base model of the published figures is weights/drawings of commit 9c065274. `drawings_long` trained it further to
the weights of commit f7ffa965, and `drawings_spelling` trained those further to the current weights, which already
count well. `--config.base.path` selects another base model.
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
LORA, RATE = {"name": "lora", "rank": 16, "alpha": 16.0}, 1.5e-3  # of AdamW


def preferences(samples: str) -> dict[str, Any]:
    """Diffusion-DPO on the pairs in a folder of `examples.counting.own_samples`."""
    pair = tuple({"name": "picture_folder", "path": f"{samples}/{part}"} for part in ("preferred", "rejected"))
    return {
        "data.source": {"name": "preferences", "of": pair},
        "objective": {"name": "diffusion_dpo", "weighting": VELOCITY, "density": TIMES, "beta": 0.5},
        "train.batch_size": 32,
        "train.steps": 106,
    }


def drawings(several: int, others: int, words: float = 0.15) -> dict[str, Any]:
    """A training of all weights by the base's own loss on real drawings, with 208 batches of 64.

    Args:
        several: the number of drawings most of which show several objects.
        others: the number of drawings like those of the base's training, so that the model keeps its other abilities.
        words: the share of words of random letters among the others, in [0, 1].
    """
    spelled = {"name": "spelled_drawings", "number": others, "share": words}
    both = {"name": "counting_drawings", "number": several}, spelled
    dropout = {"name": "condition_dropout", "rate": 0.1}
    return {
        "tuning": {"name": "full"},
        "data.source": {"name": "mixture", "of": both},
        "objective": {"name": "denoising", "weighting": VELOCITY, "density": TIMES, "wrappers": (dropout,)},
        "optimizer.name": "muon",
        "optimizer.learning_rate": 7e-4,
        "optimizer.decay": "cosine",
        "optimizer.weight_decay": 0.01,
        "train.steps": 208,
    }


LONG = {
    "optimizer.learning_rate": 1.5e-3,
    "optimizer.warmup": 200,
    "ema.decay": 0.999,
    "ema.warmup": True,
    "train.batch_size": 256,
    "train.steps": 12_500,
    "train.log_every": 50,
    "checkpoint.every": 2_500,
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
    "drawings": drawings(9_000, 4_500),
    "drawings_lora": drawings(9_000, 4_500)
    | {"tuning": LORA, "optimizer.name": "adamw", "optimizer.learning_rate": RATE},
    "drawings_long": drawings(64_000, 32_000) | LONG,
    "drawings_spelling": drawings(48_000, 96_000, words=0.6) | LONG | {"train.steps": 15_000},
}


def get_config(arg: str = "") -> ConfigDict:
    """The recipe, or a preset of it; see the module's docstring."""
    config = base.tuned(LORA, learning_rate=RATE, steps=52)
    config.base.path = "weights/drawings"
    config.data.source = {"name": "counting_drawings"}
    config.objective = {"name": "diffusion_nft", "weighting": VELOCITY, "density": TIMES, **GROUPS, "limit": 0.5}
    config.sample.update({"steps": 8, "shift": 3.0})
    config.optimizer.update({"warmup": 5, "weight_decay": 0.0})
    config.ema.decay = 0.8
    config.train.update({"batch_size": 64, "accumulate": 1, "log_every": 5})
    config.checkpoint.every = 50
    return recipes.preset(config, arg, PRESETS)
