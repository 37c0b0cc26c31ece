"""Generates the missing pictures of a benchmark with a text-to-image model, in the published layout."""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusion import text_to_image
from diffusion.experiments.prompt_benchmark.benchmarks import Benchmark, Item
from diffusion.experiments.sampling import shipped_models
from diffusion.io import pictures
from diffusion.io.files import write_text
from diffusion.recipe import ConfigError
from diffusion.text_to_image import png
from diffusion.text_to_image.requests import Request
from diffusion.training.runtime import progress

SETTINGS = ("model", "checkpoint", "dtype", "sampler", "steps", "guidance")  # settings that distinguish makers


def make(
    benchmark: Benchmark,
    items: Sequence[Item],
    images: pathlib.Path,
    model: str,
    per_prompt: int,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> int:
    """Generates the missing pictures, and changes no other file.

    Picture k of prompt i has the seed `seed` + i `per_prompt` + k, whichever pictures exist already.

    Args:
        benchmark: the benchmark, whose layout the pictures have.
        items: the prompts.
        images: the folder of pictures.
        model: the folder of a text-to-image model.
        per_prompt: the number of pictures per prompt.
        seed: the seed of the first picture.
        settings: other fields of a `Request`: steps, guidance.

    Returns:
        The number of prompts with new pictures.

    Raises:
        ConfigError: if there is no such model, or the settings do not fit it.
    """
    todo = [
        (number, item)
        for number, item in enumerate(items)
        if not all((images / path).is_file() for path in benchmark.files(item, per_prompt))
    ]
    if not todo:
        return 0
    source = {"dtype": "float32", "loras": {}}
    try:
        model = str(shipped_models.folder_of_prompts(model))
        loaded = text_to_image.load(model, **source)
        described = png.model(model, **source)
        with progress.bar("making pictures", len(todo), "prompts") as advance:
            for done, (number, item) in enumerate(todo, start=1):
                first = seed + number * per_prompt
                request = Request.series(item.text, first, per_prompt, **settings or {}).resolved(loaded)
                drawn = list(text_to_image.make(loaded, request))
                records = png.records(request, described)
                contents = benchmark.joined(drawn)
                if len(contents) < len(drawn):  # the record of a grid must not describe one of its pictures
                    common = {name: value for name, value in records[0].items() if name not in ("seed", "at")}
                    records = [{**common, "seeds": list(range(first, first + per_prompt))}]
                for path, content, record in zip(benchmark.files(item, per_prompt), contents, records):
                    if (images / path).is_file():  # made by another program
                        continue
                    (images / path).parent.mkdir(parents=True, exist_ok=True)
                    pictures.write(images / path, content, record)
                for path, text in benchmark.beside(item).items():
                    if not (images / path).is_file():
                        write_text(images / path, text)
                advance(done)
    except (ValueError, FileNotFoundError) as error:
        raise error if isinstance(error, ConfigError) else ConfigError(f"--model={model}: {error}") from error
    return len(todo)


def makers(paths: Iterable[pathlib.Path]) -> list[dict[str, Any]]:
    """The models and settings that made some pictures, from the settings in the pictures' files.

    Args:
        paths: the files of pictures; files of other programs, which have no settings, are left out.

    Returns:
        [{SETTINGS ..., "seeds": [lowest, highest], "files": number}], an entry for each maker in the order of its first
        file.
    """
    by_settings: dict[str, dict[str, Any]] = {}
    for path in paths:
        try:
            written = png.read(path)
        except ValueError:
            continue
        settings = {name: written[name] for name in SETTINGS if name in written}
        maker = by_settings.setdefault(json.dumps(settings), {**settings, "seeds": [], "files": 0})
        seeds = [*maker["seeds"], *([written["seed"]] if "seed" in written else written.get("seeds", ()))]
        maker["seeds"] = [min(seeds), max(seeds)] if seeds else []
        maker["files"] += 1
    return list(by_settings.values())
