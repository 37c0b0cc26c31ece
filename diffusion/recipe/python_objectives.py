"""The description in config.json of an objective that Python built: its loss, and the facts that differ from defaults.

If a later version adds a fact, earlier descriptions therefore stay the same, and earlier runs can be resumed. Up to
version 25, descriptions contained all facts.
"""

from typing import Any

NAME = "diffusion.objectives.objective.Objective"
EMPTY = {"name": "builtins.dict"}  # a mapping, whatever it held
DEFAULTS: dict[str, Any] = {
    "reads": {"name": "diffusion.objectives.objective.Denoises", "parameterization": None},
    "density": None,
    "channels": None,
    "times": 1,
    "forward_mode": False,
    "trains": "model",
    "kind": "backbone",
    "teacher": None,
    "second": None,
    "shares": None,
    "strength": None,
    "interval": False,
    "augmentations": 0,
    "condition_dropout": 0.0,
    "masks": 0,
    "masks_vary": False,
    "block": 1,
    "features": (),
    "terms": (),
    "aligned": (),
    "heads": EMPTY,
    "early": None,
    "encoder": False,
    "autoencoder": False,
    "perceptual": False,
    "score": True,
    "judges": None,
    "prompts": EMPTY,
    "real": False,
    "trains_schedule": False,
    "hollow": False,
    "pairs": False,
}


def without_defaults(description: dict[str, Any]) -> None:
    """Leaves out of a description, in place, the facts that have their default."""
    for name, default in DEFAULTS.items():
        if name in description and description[name] == default and type(description[name]) is type(default):
            del description[name]


def name_constant_rate(optimizer: Any) -> None:
    """Names the constant learning rate beside a second player as all versions but the 25th did, in place."""
    rate = optimizer.get("learning_rate") if isinstance(optimizer, dict) else None
    if rate == {"name": "diffusion.experiments.config.parts.Resolver.optimizer.<locals>.<lambda>"}:
        optimizer["learning_rate"] = {"name": "optax.schedules._schedule.constant_schedule.<locals>.<lambda>"}
