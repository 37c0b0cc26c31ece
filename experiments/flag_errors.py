"""Describes each mistake in a command's flags in one sentence, also for errors of absl, ml_collections and recipes."""

import re
from collections.abc import Iterable, Sequence

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from diffusion.package import public
from diffusion.recipe import ConfigError, extensions, recipes
from diffusion.recipe.values import GONE, flattened, plain

KINDS = {  # {Python's message about a value that cannot be parsed: the valid values}
    "invalid literal for int()": "a whole number",
    "could not convert string to float": "a number",
    "Non-boolean argument to boolean flag": "true or false",
}
FLAG_MISTAKE = re.compile(r"flag (--[\w.\[\]-]+=.*?): (.*)", re.DOTALL)
TABLE = "as a ConfigDict"


def refuse(names: Iterable[str], why: str) -> None:
    """Refuses flags that are set although they would have no effect.

    Args:
        names: the names of the flags.
        why: the end of the sentence that begins with the flag and its value, such as "has no effect with --scores.".

    Raises:
        ConfigError: names the first flag that is set.
    """
    for name in names:
        flag = flags.FLAGS[name]
        if flag.present:
            raise ConfigError(f"--{flag.name} = {flag.value!r} {why}")


def as_config_error(error: Exception, argv: list[str], recipe: str | None, command: str) -> ConfigError | None:
    """The error of one sentence for an error of the parser; None for an error that is no mistake in the command line.

    Args:
        error: the error that parsing raised.
        argv: the words of the command line.
        recipe: the value of --config as it was written; None without the flag.
        command: the words that started the process, e.g. "diffusion train".
    """
    if recipe is not None and (failed := _failed_recipe(error, recipe)):
        return failed
    if isinstance(error, config_flags.FlagOrderError):
        early = next(word for word in argv if word.lstrip("-").startswith("config."))
        return ConfigError(f"{early} stands before --config, whose field it sets. Valid: --config before its fields.")
    if isinstance(error, flags.UnrecognizedFlagError):
        return _unknown(error.flagname, command)
    if isinstance(error, flags.Error):
        return _unreadable(error, recipe)
    if isinstance(error, (AttributeError, KeyError)):
        return ConfigError(f"a --config.FIELD does not exist: {missing_field(error, argv)}")
    return None


def missing_field(error: AttributeError | KeyError, argv: Sequence[str]) -> str:
    """The words about an unknown field: ml_collections' own, which name the nearest field, and how to add an entry."""
    gone = "".join(hint for section, hint in GONE.items() if any(f"config.{section}." in word for word in argv))
    said = ". ".join(str(error.args[0] if error.args else error).splitlines())
    end = "" if f"{said}{gone}".endswith(("?", ".")) else "."
    return (
        f"{said}{gone}{end} To add a nested entry, set it whole, e.g. "
        """--config.objective.coupling='{"name": "optimal_transport"}'."""
    )


def _failed_recipe(error: Exception, recipe: str) -> ConfigError | None:
    """The sentence for an error of the recipe's own code."""
    name, _ = recipes.name_and_preset(recipe)
    if isinstance(error, AttributeError) and error.name == "get_config":
        return recipes.without_get_config(name)
    file = recipes.path_of(name)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConfigError):
        if isinstance(cause, Exception) and extensions.failing_line(file, cause):
            return extensions.failed(f"--config={name}", file, cause)
        cause = cause.__cause__ or cause.__context__
    return None


def _fields() -> dict[str, object]:
    """The fields of the config by their dotted names; {} for a command without a config."""
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    return flattened(plain(config)) if isinstance(config, ConfigDict) else {}


def _unknown(name: str, command: str) -> ConfigError:
    """The sentence for an unknown flag, with the flags that may have been meant."""
    ours = [flag for flag in flags.FLAGS if not (flags.FLAGS.find_module_defining_flag(flag) or "").startswith("absl")]
    fields = sorted(f"--config.{field}" for field in _fields() if field.rpartition(".")[2] == name)
    near = public.nearest(name, ours, 0.7)
    meant = fields or [f"--{near}"] * (near is not None)
    hint = f" Did you mean {' or '.join(meant)}?" if meant else ""
    return ConfigError(f"unknown flag --{name}.{hint} `{command} --help` lists the flags.")


def _unreadable(error: flags.Error, recipe: str | None) -> ConfigError:
    """The sentence for a required flag that is missing, or a value that cannot be parsed."""
    # This is how absl names required flags that are absent.
    if absent := re.findall(r"^flag --(\w+)=None: ", str(error), re.MULTILINE):
        if absent == ["config"] and recipe is not None:
            return ConfigError(f"--config={recipe}: get_config returned None. Valid: a ConfigDict")
        return ConfigError("; ".join(f"--{name} is missing: {flags.FLAGS[name].help}" for name in absent))
    # An error of get_config arrives within another, which holds its traceback as text. Only the sentence is shown.
    cause: BaseException = error
    while not isinstance(cause, ConfigError) and (cause.__cause__ or cause.__context__):
        cause = cause.__cause__ or cause.__context__  # pyright: ignore[reportAssignmentType]
    mistake = None if isinstance(cause, ConfigError) else FLAG_MISTAKE.fullmatch(str(error))
    if mistake and (valid := _valid(*mistake.groups())):
        return ConfigError(f"{mistake[1]}. Valid: {valid}.")
    said = cause if isinstance(cause, ConfigError) else error
    return ConfigError(str(said).strip().splitlines()[-1].rpartition("ConfigError: ")[2])


def _valid(written: str, why: str) -> str | None:
    """The valid values of a flag, from the parser's message; None where that message is clear enough."""
    for said, valid in KINDS.items():
        if why.startswith(said):
            return valid
    if TABLE not in why:
        return None
    flag, _, value = written.partition("=")
    fields = {name: field for name, field in _fields().items() if f"--config.{name}".rpartition(".")[0] == flag}
    if f"{flag.removeprefix('--config.')}.name" in fields:
        field, example = "name", value if value.isidentifier() else next(iter(fields.values()))
    else:
        field, example = next(((name.rpartition(".")[2], field) for name, field in fields.items()), ("name", "..."))
    entry = f'"{example}"' if isinstance(example, str) else example
    return f"a table, e.g. {flag}='{{\"{field}\": {entry}}}', or one of its fields, {flag}.{field}={example}"
