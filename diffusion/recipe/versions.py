"""The file config.json of a run folder: a config with the version of its fields, and the migrations between versions.

A file without a version has version 0. `MIGRATIONS[v]` turns a config of version v into one of version v + 1 with which
the run computes the same. To move or add a field, append a function to the list. The functions up to version 7 check
whether a field exists, because folders of all these versions state no version.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from diffusion.recipe import python_objectives, wrapper_fields
from diffusion.recipe.config_errors import ConfigError
from diffusion.recipe.values import from_json, plain

Fields = dict[str, Any]  # fields of a config.json that anybody may have written: a value may have any type


def write(config: ConfigDict | Fields) -> str:
    """The text of config.json, which `read` turns back into an equal config."""
    return json.dumps({"version": len(MIGRATIONS), **plain(config)}, indent=2, allow_nan=False)


def read(text: str) -> ConfigDict:
    """The config of a run from its config.json, of any version; fields that came later have values that change nothing.

    Raises:
        ConfigError: where the text is not JSON, not an object, or of a version to come.
    """
    fields = plain(from_json(text))
    version = fields.pop("version", 0)
    if type(version) is not int or not 0 <= version <= len(MIGRATIONS):
        raise ConfigError(
            f"config.json has version {version!r}. Valid here: 0 to {len(MIGRATIONS)}; a newer version of this "
            "library can read it."
        )
    for migrate in MIGRATIONS[version:]:
        migrate(fields)
    return ConfigDict(fields)


def _adds(section: str, name: str, value: Any) -> Callable[[Fields], None]:
    """The migration that adds a field to a section that lacks it."""

    def migrate(fields: Fields) -> None:
        if isinstance(fields.get(section), dict):
            fields[section].setdefault(name, value)

    return migrate


def _students_of_pairs_and_two_players(fields: Fields) -> None:
    teacher = fields.get("teacher")
    if isinstance(teacher, dict) and "pairs" not in teacher:
        teacher["pairs"] = {"number": 0, "sampler": {"name": "heun"}, "steps": 20}
        teacher.setdefault("scale", 1.0)
        optimizer = {"name": "adamw", "learning_rate": 1e-4}
        fields["rival"] = {"objective": {"name": ""}, "optimizer": optimizer, "updates": 1}


def _second_player(fields: Fields) -> None:
    if "rival" in fields:
        fields["second_player"] = fields.pop("rival")


def _adds_section(name: str, section: Fields) -> Callable[[Fields], None]:
    """The migration that adds a section to a config that lacks it."""

    def migrate(fields: Fields) -> None:
        if isinstance(fields.get("data"), dict):  # what holds no data is no config
            fields.setdefault(name, copy.deepcopy(section))

    return migrate


def _tuning(fields: Fields) -> None:
    if isinstance(fields.get("data"), dict):
        fields.setdefault("base", {"path": "", "dtype": "float32"})
        fields.setdefault("tuning", {"name": ""})
        fields.setdefault("prior", {"prompt": "", "number": 200, "weight": 1.0})
        if isinstance(fields["data"].get("text"), dict):
            fields["data"]["text"].setdefault("prompt", "")


def _streams_of_series(fields: Fields) -> None:
    source = fields["data"].get("source") if isinstance(fields.get("data"), dict) else None
    if isinstance(source, dict) and source.get("name") == "gaussian_series":
        source.setdefault("apart", False)


TRANSPORT = ("optimal_transport", "sinkhorn", "schroedinger_bridge", "equivariant_optimal_transport")


def _couplings_that_saw_no_condition(fields: Fields) -> None:
    """Transport between all examples; later versions pair only equal conditions, if there are conditions."""
    objective, model, data = (fields.get(name) for name in ("objective", "model", "data"))
    if not (isinstance(objective, dict) and isinstance(model, dict) and isinstance(data, dict)):
        return
    if not model.get("num_classes") and data.get("source") == {"name": "tfds"}:
        return  # it has no condition
    coupling = objective.get("coupling")
    if objective.get("name") == "schroedinger_bridge" and coupling is None and "sigma" in objective:
        coupling = {"name": "schroedinger_bridge", "sigma": objective["sigma"]}
    if isinstance(coupling, dict) and coupling.get("name") in TRANSPORT:
        objective["coupling"] = {"name": "across_conditions", "coupling": coupling}


def _wrappers(fields: Fields) -> None:
    """The fields that wrapped an objective become a list; a Python run describes its objective in fewer words."""
    prior = wrapper_fields.prior_entry(fields.pop("prior", None))
    python_objectives.name_constant_rate(fields.get("optimizer"))
    second = fields.get("second_player")
    for owner in (fields, second):
        entry = owner.get("objective") if isinstance(owner, dict) else None
        if not isinstance(entry, dict):
            continue
        if entry.get("name") == python_objectives.NAME:
            python_objectives.without_defaults(entry)
        elif "." not in str(entry.get("name")):
            wrapper_fields.into_list(entry)
            if owner is fields and prior:
                entry["wrappers"] = (*entry.get("wrappers", ()), *prior)


def _module_of_hugging_face(fields: Fields) -> None:
    data = fields.get("data")
    if isinstance(data, dict) and data.get("name") == "diffusion.data.sources.of_python.HuggingFace":
        data["name"] = "diffusion.data.sources.python_objects.HuggingFace"


CLOCKS = ("time", "steps", "log_sigma", "reversed_time", "noise_level")
OUTPUTS = ("Prediction", "Parameterization", "denoiser", "predict", "evaluate", "read_output", "checked", "check")
MOVED = {  # modules that a Python run names, whose functions moved as they were
    "diffusion.couplings": "diffusion.couplings.transport",
    "diffusion.conditional_couplings": "diffusion.couplings.conditional_transport",
    "diffusion.equivariant_couplings": "diffusion.couplings.equivariant_transport",
    "diffusion.conversions": "diffusion.parameterizations.conversions",
    "diffusion.manifolds.tangent_field": "diffusion.flow_maps",
}


def _modules_of_mathematics(fields: Fields) -> None:
    """A Python run names its parameterizations and couplings by modules that are packages now."""

    def moved(name: str) -> str:
        module, _, rest = name.partition(".<locals>")[0].rpartition(".")
        if module.startswith("diffusion.parameterizations."):  # a function within another
            module, _, rest = "diffusion.parameterizations", "", module.split(".")[2]
        if module == "diffusion.parameterizations":
            home = "clocks" if rest in CLOCKS else "network_outputs" if rest in OUTPUTS else "targets"
            return name.replace(module, f"{module}.{home}", 1)
        return name.replace(module, MOVED[module], 1) if module in MOVED else name

    for part in _named_parts(fields):
        part["name"] = moved(part["name"])
        if part["name"].endswith("objective.Second") and "own" in part:
            part["separate"] = part.pop("own")


def _package_of_recipes(fields: Fields) -> None:
    """A Python run names the parts that the builder made by their module, whose package was experiments/config."""
    for part in _named_parts(fields):
        part["name"] = re.sub(r"^diffusion\.experiments\.config\.", "diffusion.recipe.", part["name"])


PACKAGES = {  # packages, and the modules that moved into them as they were
    "arrays": ("arguments", "padding", "pytrees"),
    "data": ("proteins", "sound"),
    "flows": ("flow_maps", "likelihood", "ode", "probability_flow"),
    "objectives": ("couplings", "weightings"),
    "sampling": ("caching", "editing", "steering", "videos", "watermarks"),
}


def _modules_in_packages(fields: Fields) -> None:
    """A Python run names its parts by modules that lay beside the packages that hold them now."""
    for part in _named_parts(fields):
        for package, modules in PACKAGES.items():
            part["name"] = re.sub(rf"^diffusion\.({'|'.join(modules)})\.", rf"diffusion.{package}.\1.", part["name"])


def _joined_features(fields: Fields) -> None:
    """A Python run's second player states of how many inputs the features that it receives are joined."""
    for part in _named_parts(fields):
        if part["name"].endswith("objective.Second"):
            part.setdefault("joined", 1)


def _named_parts(value: Any) -> Iterator[Fields]:
    """The mappings with a name in a config, at any depth."""
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _named_parts(part)


MIGRATIONS: list[Callable[[Fields], None]] = [
    _adds("data", "latents", {"dir": "", "autoencoder": ""}),
    _adds("data", "changed", "stop"),
    _adds("data", "buckets", {"area": 0, "multiple": 64, "widest": 4.0}),
    _adds("data", "text", {"tokenizer": "", "dir": ""}),
    _adds("evaluate", "failed", "skip"),
    _adds("ema", "sigma_rel", 0.0),
    _students_of_pairs_and_two_players,
    _second_player,
    _adds("data", "source", {"name": "tfds"}),
    _adds("sample", "plan", {"name": "plan"}),
    _adds("sample", "driver", {"name": "sample"}),
    _adds("sample", "guides", ()),
    _adds("sample", "measurement", {"operator": {"name": ""}, "pictures": "", "noise_std": 0.0}),
    _adds_section("encoder", {"network": {"name": ""}, "path": "", "size": 0}),
    _adds("second_player", "network", {"name": ""}),
    _adds_section("perceptual", {"network": {"name": ""}, "path": ""}),
    _adds("train", "products", "dtype"),
    _adds("sample", "cache", {"name": ""}),
    _adds("sample", "merge", 0.0),
    _tuning,
    _adds_section("autoencoder", {"network": {"name": ""}, "path": ""}),
    _streams_of_series,
    _couplings_that_saw_no_condition,
    _adds("evaluate", "overlap", "stop"),
    _adds("ema", "name", "moving_average"),
    _adds("evaluate", "loss", {"every": 0, "number": 1024, "latents": ""}),
    _wrappers,
    _module_of_hugging_face,
    _modules_of_mathematics,
    _package_of_recipes,
    _adds("data", "processes", 0),
    _modules_in_packages,
    _adds("data", "viewed", False),
    _joined_features,
]
