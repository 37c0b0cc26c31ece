"""The entry `config.sample.guidance`: the guidance that it names, and the conditions of its branches."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from diffusion.guidance import Branches, Memory, Unpaired
from diffusion.guidance.strength import check_interval
from diffusion.models import facts
from diffusion.models.layers import layer_masks
from diffusion.parameterizations import Denoiser
from diffusion.recipe import fields, kinds, names
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.entries import call, takes
from diffusion.recipe.values import plain
from diffusion.schedules import NoiseSchedule


def guided(config: Mapping, schedule: NoiseSchedule, branches: Branches) -> Denoiser | Memory | Unpaired:
    """The guidance `config.sample.guidance` of its branches: with and without the condition, or of `conditions`.

    Raises:
        ConfigError: for a name or argument that is not known, a scale below zero, or an interval without a time of the
            schedule.
    """
    spec, _ = _entry(config)
    path = "config.sample.guidance"
    if "scale" in spec or conditions(config) is None:
        function = names.GUIDANCES.get(spec.get("name"))
        if function is not None and not takes(function, "scale"):
            raise ConfigError(
                f"{path}: the guidance {spec['name']!r} has no argument scale, at whose value 1 a run samples without "
                "it. Valid: a function (branches, scale, ...)."
            )
        if "scale" not in spec:
            raise ConfigError(f"{path}: guidance {spec.get('name')!r} needs scale, e.g. --{path}.scale=1.5")
        fields.check_type(f"{path}.scale", spec["scale"], float)
        if spec["scale"] < 0:
            raise ConfigError(f"{path}.scale = {spec['scale']}. Valid: at least 0, where 1 means no guidance.")
    interval = spec.get("interval")
    if interval is not None and not fields.pair(interval):
        raise ConfigError(
            f"{path}.interval = {interval!r}. Valid: two times (t_low, t_high) with 0 <= t_low < t_high, or None."
        )
    try:
        check_interval(interval, schedule)  # a guidance that takes no schedule cannot until it has its network
    except ValueError as error:
        raise ConfigError(f"{path}: {error}.") from error
    nested = {"ramp": lambda entry, at: kinds.build("ramp", entry, at)}
    return kinds.build("guidance", spec, path, nested, branches=branches, schedule=schedule)


def _entry(config: Mapping) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry for the guidance's function, and the entry for the function of its conditions, both without None."""
    entry = plain(config["sample"]["guidance"])
    spec = {name: value for name, value in entry.items() if value is not None}
    function = names.GUIDANCES.get(spec.get("name"))
    conditions_of = getattr(function, "conditions", None)
    if conditions_of is None:
        return spec, {}
    rest = {
        name: value
        for name, value in spec.items()
        if name == "name" or not takes(conditions_of, name) or takes(function, name)
    }
    return rest, {name: value for name, value in spec.items() if name == "name" or takes(conditions_of, name)}


def conditions(config: Mapping) -> Callable[..., tuple[Any, ...]] | None:
    """(network, condition, null) -> the conditions of the branches; None: the condition and the null one."""
    function = names.GUIDANCES.get(config["sample"]["guidance"].get("name"))
    conditions_of = getattr(function, "conditions", None)
    if conditions_of is None:
        return None
    _, spec = _entry(config)

    def branches(network: Any, condition: Any, null: Any) -> tuple[Any, ...]:
        number = len(jax.tree.leaves(condition)[0]) if jax.tree.leaves(condition) else 1

        def mask(layers):
            if not facts.layer_masks(network):
                raise ValueError(
                    f"config.model.name = {config['model']['name']!r} has no layers that can be skipped. "
                    f"Valid: {', '.join((name for name, other in names.MODELS.items() if facts.layer_masks(other)))}"
                )
            return layer_masks.mask(number, network.depth, layers)

        supplied = {"condition": condition, "null": null, "mask": mask}
        what = "conditions of the guidance"
        return call({spec["name"]: conditions_of}, spec, "config.sample.guidance", what, **supplied)

    return branches


def takes_depths(config: Mapping) -> bool:
    """Whether `config.sample.guidance` combines predictions from two depths of the network."""
    return getattr(names.GUIDANCES.get(config["sample"]["guidance"].get("name")), "depths", False)
