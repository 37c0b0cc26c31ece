"""Pictures of prompts by a published model, for diffusion sample: `--model`, and `--again` for one more time.

    diffusion sample --model=FOLDER --prompt="a cat" --negative=blurry --steps=30 --guidance=7.5 -n 4
    diffusion sample --model=FOLDER --prompt="a dog" --image=cat.png --strength=0.6 --mask=head.png
    diffusion sample --workdir=runs/text --prompt="a red circle"
    diffusion sample --again=pictures/42.png

--workdir is a folder of experiments.text_demo. Writes OUT/<seed>.png. Each file carries all that it was made from:
settings, checksums of the model and of what was edited, versions, and the kind of the device. `--again` makes it anew
from that: the same bytes on the same kind of device with the same versions, elsewhere from the same draws, with pixels
that differ by rounding.
"""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator

from diffusion import text_to_image
from diffusion.experiments.config import ConfigError
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import again, model_flags, prompt_flags
from diffusion.experiments.sampling.model_flags import DTYPE, MODEL
from diffusion.experiments.sampling.prompt_flags import AGAIN
from diffusion.io import pictures
from diffusion.text_to_image import png


def main(out: str | None, work: str | None = None) -> None:
    """Makes the pictures that the flags describe, and writes them with their settings to OUT/<seed>.png.

    Args:
        out: the folder to write to; "pictures", or that of the picture that is made again, by default.
        work: the folder of diffusion text_demo whose model is taken, in place of --model.

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
        request = prompt_flags.request()
        folder = MODEL.value if work is None else str(workdir.text_model(work))
        source = {"dtype": DTYPE.value, "loras": model_flags.loras()}
        model = text_to_image.load(folder, **source)
        place = pathlib.Path(out or "pictures")
        place.mkdir(parents=True, exist_ok=True)
        request = request.resolved(model)
        made = text_to_image.make(model, request)
        for picture, about in zip(made, png.records(request, png.model(folder, **source))):
            path = pictures.unused(place, str(about["seed"]))
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
