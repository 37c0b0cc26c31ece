"""The shared settings of the recipes of published trainings on CIFAR-10 and ImageNet."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from diffusion.recipe.defaults import defaults

TINY = {  # the preset with which a run takes seconds on a laptop's cores, but for its network
    "train.steps": 20,
    "train.batch_size": 8,
    "train.log_every": 5,
    "train.dtype": "float32",
    "checkpoint.every": 10,
    "ema.decay": 0.9,
    "sample.steps": 4,
    "sample.number": 4,
    "sample.batch_size": 4,
    "evaluate.every": 0,
    "evaluate.number": 4,
}


def tiny(steps: int, batch_size: int, samples: int) -> dict[str, Any]:
    """The same preset of other lengths, for a recipe with strata and a warm-up.

    Args:
        steps: training steps.
        batch_size: examples of a training step, and strata of its times.
        samples: number of samples that are drawn and evaluated.
    """
    lengths = {"train.steps": steps, "train.batch_size": batch_size, "train.log_every": 10, "optimizer.warmup": 10}
    numbers = {"sample.number": samples, "sample.batch_size": samples, "evaluate.number": samples}
    without_average = {field: value for field, value in TINY.items() if field != "ema.decay"}
    return without_average | lengths | numbers | {"objective.density.strata": batch_size}


DROPPED = {"name": "condition_dropout", "rate": 0.1}
VIT_B = {"name": "dinov2", "width": 768, "depth": 12, "heads": 12, "hidden": 3072}  # DINOv2 ViT-B/14


def size(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A preset of a network of a published size, from the fields of that size."""
    return {f"model.{field}": value for field, value in fields.items()}


def aligned(hidden: int) -> tuple[dict[str, Any], ...]:
    """The entries of REPA's term after block 8, with a projector of `hidden` features, and of condition dropout."""
    projector = {"name": "mlp", "hidden": hidden}
    return ({"name": "alignment", "layer": 8, "weight": 0.5, "projector": projector}, DROPPED)


def imagenet(shape: tuple[int, int, int], latents: str = "") -> ConfigDict:
    """The config of a training on ImageNet, which has no process, no network and no sampler yet.

    Args:
        shape: (H, W, C) of an example.
        latents: folder of the latents' cache; "" for pixels.
    """
    config = _published(50_000, "validation", 256)
    config.data.update({"name": "imagenet2012", "shape": shape, "threads": 16})
    config.data.latents.dir = latents
    config.ema.update({"decay": 0.9999, "warmup": False})
    return config


def cifar10() -> ConfigDict:
    """The config of a training on CIFAR-10, which has no process, no network and no sampler yet."""
    config = _published(10_000, "test", 500)
    config.data.update({"name": "cifar10", "shape": (32, 32, 3), "threads": 8})
    return config


def _published(number: int, split: str, batch_size: int) -> ConfigDict:
    config = defaults()
    config.train.update({"log_every": 100, "dtype": "bfloat16"})
    config.checkpoint.keep = 3
    config.sample.update({"number": 50_000, "batch_size": batch_size})
    config.evaluate.update({"every": 0, "number": number, "split": split, "features": ("pixels",)})
    return config


def adamw(learning_rate: float, **options: Any) -> dict[str, Any]:
    """The entry of AdamW at a constant rate without weight decay; `options` are its other arguments."""
    return {"name": "adamw", "learning_rate": learning_rate, "decay": "constant", "weight_decay": 0.0, **options}
