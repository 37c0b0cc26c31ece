"""Flags of diffusion sample for prompts: one flag for each setting of `text_to_image.requests.Request`."""

from absl import flags

from diffusion.recipe import ConfigError
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.requests import Request
from diffusion.text_to_image.settings import Setting, settings

AGAIN = flags.DEFINE_string(
    "again", None, "picture that this command wrote, to be generated again from its stored settings"
)
PROMPT = flags.DEFINE_string("prompt", None, settings(Request)["prompts"].help)
SEED = flags.DEFINE_integer("seed", 0, "seed of the first picture; each further picture has the next seed")
NUMBER = flags.DEFINE_integer("n", 1, "number of pictures")
DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
    tuple: lambda name, default, help: flags.DEFINE_list(name, [str(one) for one in default], help),
}


def _flag(name: str, setting: Setting) -> flags.FlagHolder:
    """The flag of a setting; the flag of a list of structured texts, such as --controls, may be repeated."""
    if setting.item is not None:
        return flags.DEFINE_multi_string(name, list(setting.default), setting.help)
    return DEFINE[setting.type](name, setting.default, setting.help)


SETTINGS = {
    name: _flag(name, setting) for name, setting in settings(Request).items() if name not in ("prompts", "seeds")
}


def request() -> Request:
    """The request of the flags.

    Raises:
        ValueError: for a missing prompt, an invalid value, or flags that do not fit together.
    """
    if PROMPT.value is None:
        raise ConfigError(
            "--prompt is missing: say what the pictures show. (--prompt= is valid too: the empty prompt.)"
        )
    if NUMBER.value < 1:
        raise ConfigError(f"-n = {NUMBER.value} must be at least 1.")
    values = {name: flag.value for name, flag in SETTINGS.items()}
    values["margins"] = [
        int(text) if text.strip().removeprefix("-").isdecimal() else text for text in values["margins"]
    ]
    values["controls"] = [Control.parsed(text) for text in values["controls"]]
    return Request.series(PROMPT.value, SEED.value, NUMBER.value, **values)
