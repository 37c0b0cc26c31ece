"""Fields of earlier versions in a new config: they work for one version, with a warning that names the new field."""

import warnings
from typing import Any

from ml_collections import ConfigDict

from diffusion.recipe import entries, kinds, names, wrapper_fields
from diffusion.recipe.entries import takes
from diffusion.recipe.values import plain


def current(config: Any) -> tuple[Any, list[str]]:
    """The config without deprecated fields, and a sentence for each of them that names its replacement.

    Args:
        config: the config; where it has such fields, a changed copy is returned.

    Raises:
        ConfigError: for an entry whose name is an entry itself, which no table can look up.
    """
    entries.require_plain_names(plain(config), "config")
    copy = ConfigDict(plain(config)) if not isinstance(config, ConfigDict) else config.copy_and_resolve_references()
    said = []
    for section, kind in (("objective", "objective"), ("second_player.objective", "second player")):
        holder = copy.get("second_player", {}) if "." in section else copy
        entry = holder.get("objective")
        if not isinstance(entry, ConfigDict):
            continue
        function = kinds.KINDS[kind].table.get(entry.get("name", ""))
        stays = lambda field, function=function: function is not None and takes(function, field)
        values = plain(entry)
        if moved := wrapper_fields.into_list(values, stays, names.TERMS):
            holder["objective"] = ConfigDict(values)
            flag = f"--config.{section}.wrappers='{values['wrappers']}'"
            for field in moved:
                said.append(f"config.{section}.{field} is deprecated: the wrappers of an objective are a list, {flag}")
    return (copy if said else config), said


def warned(config: Any) -> Any:
    """The config of `current`; its sentences are warnings."""
    config, said = current(config)
    for sentence in said:
        warnings.warn(sentence, DeprecationWarning, stacklevel=3)
    return config
