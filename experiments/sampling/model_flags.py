"""The flags that choose a text-to-image model, for diffusion sample and diffusion playground."""

import re

from absl import flags

from diffusion.recipe import ConfigError
from diffusion.text_to_image.lora_weights import LoraWeight
from diffusion.text_to_image.picture_controls import DECIMAL

MODEL = flags.DEFINE_string(
    "model",
    None,
    "published model: a folder with model_index.json, or the name of a model in the package, e.g. "
    "digits, drawings or moving",
)
LORA = flags.DEFINE_multi_string(
    "lora", [], "LoRA file with optional weight and interval of t, FILE:0.8:0.3-1; may be repeated"
)
EMBEDDING = flags.DEFINE_multi_string(
    "embedding", [], "file with the embedding of a new word (textual inversion), FILE or FILE:WORD; may be repeated"
)
ATTACH = flags.DEFINE_multi_string(
    "attach",
    [],
    "network to attach to the denoiser, such as a ControlNet, with a name for --controls: "
    "edges=FOLDER; may be repeated",
)
TIMES = re.compile(rf"({DECIMAL})-({DECIMAL})")
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "data type of the denoiser and the text encoders"
)
QUANTISED = flags.DEFINE_enum(
    "quantised",
    "",
    ["", "int8", "fp8", "stored"],  # written out, since --help must not import the networks
    "store the denoiser's weights in 8 bits, as int8 or fp8; stored keeps the 8-bit weights of the "
    "model's files; by default full precision",
)
DROP_TEXT = flags.DEFINE_bool(
    "drop_text",
    False,
    "load the text encoders from their files for each request, and free their memory before sampling",
)


def embeddings() -> dict[str, str]:
    """{file of an embedding: its word in --embedding}; "" for the word that the file names.

    Raises:
        ConfigError: for a file that is named twice.
    """
    words: dict[str, str] = {}
    for text in EMBEDDING.value:
        path, _, word = text.partition(":")
        if path in words:
            raise ConfigError(f"--embedding={text}: {path} is named twice. Valid: one word for each file.")
        words[path] = word
    return words


def loras() -> dict[str, float | list]:
    """{LoRA file: its weight and interval of t} from --lora, in the form that `LoraWeight.read` takes.

    Raises:
        ConfigError: for a text of another form, or a file that is named twice.
    """
    weights: dict[str, float | list] = {}
    for text in LORA.value:
        file, _, last = text.rpartition(":")
        times = TIMES.fullmatch(last) if file else None
        file = file if times else text
        path, colon, weight = file.rpartition(":")
        path = path if colon else file
        try:
            number = float(weight) if colon else 1.0
        except ValueError:
            raise ConfigError(
                f"--lora={text}: {weight!r} is not a weight; write FILE:WEIGHT or FILE:WEIGHT:FROM-TO, such as "
                "style.safetensors:0.8:0.3-1."
            ) from None
        try:
            value = LoraWeight.read((number, tuple(map(float, times.groups()))) if times else number)
        except ValueError as error:
            raise ConfigError(f"--lora={text}: {error}") from None
        if path in weights:
            raise ConfigError(
                f"--lora={text}: {path} is named twice. Valid: one weight and one interval of t for each file."
            )
        weights[path] = value.written
    return weights


def attachments() -> dict[str, str]:
    """{name of an attachment: its folder or file} from --attach.

    Raises:
        ConfigError: for a text of another form, or a name that is used twice.
    """
    table: dict[str, str] = {}
    for text in ATTACH.value:
        name, _, path = text.partition("=")
        if not name or ":" in name or not path or name in table:
            raise ConfigError(
                f"--attach={text}: write NAME=FOLDER with a name that no other attachment has, such as "
                "edges=controlnet."
            )
        table[name] = path
    return table
