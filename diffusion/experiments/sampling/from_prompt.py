"""Pictures of prompts by a published model, for experiments.sample: `--model`, and `--again` for one more time.

    python -m experiments.sample --model=FOLDER --prompt="a cat" --negative=blurry --steps=30 --guidance=7.5 -n 4
    python -m experiments.sample --model=FOLDER --prompt="a dog" --image=cat.png --strength=0.6 --mask=head.png
    python -m experiments.sample --workdir=runs/text --prompt="a red circle"
    python -m experiments.sample --again=pictures/42.png

--workdir is a folder of experiments.text_demo. Writes OUT/<seed>.png. Each file carries all that it was made from:
settings, checksums of the model and of what was edited, versions, and the kind of the device. `--again` makes it anew
from that: the same bytes on the same kind of device with the same versions, elsewhere from the same draws, with pixels
that differ by rounding. Each setting of `text_to_image.Request` is a flag.
"""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator

from absl import flags

from diffusion import text_to_image
from diffusion.experiments.config import ConfigError
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import again, model_flags
from diffusion.experiments.sampling.model_flags import DTYPE, MODEL
from diffusion.io import pictures
from diffusion.text_to_image import png, requests
from diffusion.text_to_image.requests import Request

AGAIN = flags.DEFINE_string("again", None, "a picture that this command wrote, to make anew")
PROMPT = flags.DEFINE_string("prompt", None, requests.settings(Request)["prompts"].help)
SEED = flags.DEFINE_integer("seed", 0, "of the first picture; each further one has the next")
NUMBER = flags.DEFINE_integer("n", 1, "how many pictures")
DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
    tuple: flags.DEFINE_list,
}
SETTINGS = {
    name: DEFINE[setting.type](
        name, [str(one) for one in setting.default] if setting.type is tuple else setting.default, setting.help
    )
    for name, setting in requests.settings(Request).items()
    if name not in ("prompts", "seeds")
}


def main(out: str | None, work: str | None = None) -> None:
    """Makes the pictures that the flags say.

    Args:
        out: the folder to write to; "pictures", or that of the picture that is made again, by default.
        work: the folder of experiments.text_demo whose model is taken, in place of --model.

    Raises:
        ConfigError: for a mistake in the flags.
    """
    if work is not None and (MODEL.value is not None or AGAIN.value is not None):
        raise ConfigError(
            "--workdir samples what was trained here; --model and --again a published model. Name one of them."
        )
    with warnings.catch_warnings(), _as_config_errors():
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", flush=True)
        warnings.simplefilter("always", UserWarning)
        if AGAIN.value is not None:
            return again.again(pathlib.Path(AGAIN.value), out, MODEL.value)
        if work is None and MODEL.value is None:
            raise ConfigError(
                "--prompt is for a text-to-image model: name its folder by --model, or by --workdir "
                "that of experiments.text_demo."
            )
        request = from_flags()
        folder = MODEL.value if work is None else str(workdir.text_model(work))
        write(request, folder, DTYPE.value, model_flags.loras(), pathlib.Path(out or "pictures"))


def write(request: Request, folder: str, dtype: str, loras: dict[str, float], out: pathlib.Path) -> None:
    """Makes the pictures of a request, and writes them with their settings to OUT/<seed>.png.

    Args:
        request: of one prompt.
        folder: of the model.
        dtype: of the denoiser and the text encoders.
        loras: LoRA files and the weight of each.
        out: the folder to write to.
    """
    model = text_to_image.load(folder, dtype=dtype, loras=loras)
    out.mkdir(parents=True, exist_ok=True)
    request = request.resolved(model)
    made = text_to_image.make(model, request)
    for picture, about in zip(made, png.records(request, png.model(folder, dtype, loras))):
        path = pictures.unused(out, str(about["seed"]))
        pictures.write(path, picture, about)
        print(path, flush=True)


@contextlib.contextmanager
def _as_config_errors() -> Iterator[None]:
    """What the library refuses, and files that are not there, as mistakes of the command line."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(str(error)) from error


def from_flags() -> Request:
    """The request of the flags.

    Raises:
        ValueError: for a missing prompt, a flag that is not valid, or flags that do not fit together.
    """
    if PROMPT.value is None:
        raise ConfigError("--prompt is missing: what the pictures show. (--prompt= is a prompt too, the empty one.)")
    if NUMBER.value < 1:
        raise ConfigError(f"-n = {NUMBER.value} must be at least 1.")
    values = {
        name: _numbers(flag.value) if isinstance(flag.value, list) else flag.value for name, flag in SETTINGS.items()
    }
    return Request.series(PROMPT.value, SEED.value, NUMBER.value, **values)


def _numbers(texts: list[str]) -> list[int | str]:
    return [int(text) if text.strip().lstrip("-").isdigit() else text for text in texts]
