"""The table of a run's parts is in the order in which they are built, and says which fields each is built from."""

import contextlib
from collections.abc import Mapping

import pytest

from diffusion.recipe import ConfigError, parts, recipes
from diffusion.recipe.defaults import defaults
from diffusion.recipe.values import plain, put
from tests.recipe import test_every_field as every_field

TABLE = {name: part for name, part in vars(parts.Resolver).items() if isinstance(part, parts.Shared)}
SETTINGS = every_field.TINY | every_field.GUIDED | every_field.MEASURED | {
    "data.augment": ({"name": "flip"},), "sample.cache": {"name": "first_block", "threshold": 0.1},
    "sample.guides": ({"name": "dynamic_threshold"},),
}  # fmt: skip
RUNS = {
    "settings": SETTINGS,
    "teacher": SETTINGS | every_field.TEACHER,
    "players": SETTINGS | every_field.PLAYERS,
    "aligned": SETTINGS | every_field.ALIGNED,
    "autoencoder": every_field.TINY | {"model.patch": 1, "autoencoder.network": {"name": "autoencoder_kl"}},
    "base": {"base.path": "weights/drawings", "tuning.name": "lora"},
}
RECIPES = ("cifar10_edm", "imagenet256_dit", "digits_mean_flow", "manifolds/sphere", "symbols/prose", "points")


class Reads(Mapping):
    """A config, or a section of it, that keeps the dotted names of the fields that are read."""

    def __init__(self, values, seen, path=""):
        self.values, self.seen, self.path = values, seen, path

    def __getitem__(self, name):
        value = self.values[name]
        if isinstance(value, Mapping):
            return Reads(value, self.seen, f"{self.path}{name}.")
        self.seen.add(f"{self.path}{name}")
        return value

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        return len(self.values)


def config_with(fields):
    config = defaults()
    for field, value in fields.items():
        put(config, field, value)
    return config


@pytest.mark.extended
@pytest.mark.parametrize("run", [*RUNS, *RECIPES])
def test_a_part_is_built_from_parts_above_it(run):
    """Read one after another, as the table has them, none brings about one that is still to come."""
    resolver = parts.Resolver(config_with(RUNS[run]) if run in RUNS else recipes.load(run))
    for above, name in enumerate(TABLE, 1):
        getattr(resolver, name)
        assert vars(resolver).keys() & TABLE.keys() == set(list(TABLE)[:above]), name


@pytest.mark.parametrize("field", sorted(every_field.PARTS.keys() - {"data.shape"}))  # which the builder is told apart
def test_a_field_is_read_by_a_part_that_names_it(field):
    value, beside = every_field.PARTS[field]
    seen: set[str] = set()
    resolver = parts.Resolver(Reads(plain(config_with(every_field.TINY | beside | {field: value})), seen))
    readers = set()
    with contextlib.suppress(ConfigError):  # some rows name what is refused, once it was read
        for name in TABLE:
            seen.clear()
            try:
                part = getattr(resolver, name)
                if name == "guidance":  # which reads them for its branches
                    part(lambda x_t, t: None)
            finally:
                readers |= {name} if field in seen else set()
    named = {name for name, part in TABLE.items() if any(f"{field}.".startswith(f"{own}.") for own in part.fields)}
    assert readers & named, (readers, named)
