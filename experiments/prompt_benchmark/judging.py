"""The results of a benchmark so far, one line per judged picture, so that a crash loses no result."""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.experiments.prompt_benchmark.benchmarks import Benchmark, Item, Picture, Readers
from diffusion.io import json_files, json_lines, limits, opener, pictures
from diffusion.metrics.prompt_following import readers
from diffusion.recipe import ConfigError
from diffusion.training.runtime import progress

FILE = "results.jsonl"
REQUEST = "request.json"
TRIAL = np.full((64, 64, 3), 128, np.uint8)  # picture that tests every reader before pictures are generated


class File(NamedTuple):
    """A file of pictures of a prompt: its path in the folder, and the index of its first picture."""

    item: Item
    path: str
    first: int


def files_of(benchmark: Benchmark, items: Sequence[Item], per_prompt: int) -> list[File]:
    """The files of the pictures of all prompts, `per_prompt` for each, in the order of the prompts."""
    all_files = []
    for item in items:
        paths = benchmark.files(item, per_prompt)
        all_files += [File(item, path, index * per_prompt // len(paths)) for index, path in enumerate(paths)]
    return all_files


def require_readers(benchmark: Benchmark, items: Sequence[Item], named: Readers) -> None:
    """Checks, before a picture is generated or read, that all readers are given and return the right form.

    Raises:
        ConfigError: if a reader is missing; the message names its flag.
        ReaderError: if a reader returns another form; the message shows the returned value and the valid form.
    """
    for field in benchmark.needs(items):
        if getattr(named, field) is None:
            raise ConfigError(
                f"--{field} is missing: {benchmark.name} needs it for these prompts. Add a function that returns one "
                f"by --extend=FILE.py, names.add(names.{field.upper()}S, ...)"
                + ("; or name a CLIPModel by --clip." if field == "embedder" else ".")
            )
    if named.detector:
        readers.detected(named.detector, [TRIAL])
    if named.answerer:
        readers.answered(named.answerer, [TRIAL], ["a grey square?"])
    if named.depth:
        readers.depths(named.depth, [TRIAL])
    if named.embedder:
        readers.embedded_pictures(named.embedder, [TRIAL])
        readers.embedded_texts(named.embedder, [items[0].text])
    if named.grammar:
        readers.parsed(named.grammar, items[0].text)


def begin(folder: pathlib.Path, request: Mapping[str, Any]) -> None:
    """Writes the request and its readers, or refuses a folder with the results of another request.

    Raises:
        ConfigError: names the first field that differs.
    """
    path = folder / REQUEST
    try:
        before = opener.read_table(path)
    except FileNotFoundError:
        json_files.write(path, request)
        return
    except limits.Refused as error:
        raise ConfigError(f"--out={folder}: {error}") from error
    for field in [*request, *before]:
        if request.get(field) != before.get(field):
            raise ConfigError(
                f"--out={folder} holds results of another request: {field} was {before.get(field)!r} there and is "
                f"{request.get(field)!r} now. Choose another --out, or remove {FILE} and {REQUEST} from it."
            )
    json_lines.mend(folder / FILE)


def judge(
    benchmark: Benchmark,
    files: Sequence[File],
    named: Readers,
    images: pathlib.Path,
    folder: pathlib.Path,
    per_prompt: int,
    batch: int,
) -> list[dict]:
    """Judges the pictures that are new or have changed, and returns the lines of all pictures.

    Args:
        benchmark: the benchmark whose rules are applied.
        files: the files of pictures, from `files_of`.
        named: the readers of the pictures.
        images: the folder of pictures.
        folder: the folder of the results.
        per_prompt: the number of pictures per prompt.
        batch: the number of files that are read at once.

    Raises:
        ConfigError: if a file is no picture, or a grid of another form.
        ReaderError: if a reader returns another form.
    """
    done = {(row.get("file"), row.get("picture"), row.get("sha256")): row for row in json_lines.rows(folder / FILE)}
    rows = []
    with progress.bar("judging", len(files), "files") as advance:
        for start in range(0, len(files), batch):
            pending: list[tuple[dict, Picture]] = []
            for file in files[start : start + batch]:
                for line, picture in _pictures(benchmark, file, images, per_prompt):
                    if before := done.get((line["file"], line["picture"], line["sha256"])):
                        rows.append(before)
                    else:
                        pending.append((line, picture))
            answers = benchmark.judged(named, [picture for _, picture in pending]) if pending else []
            for (line, _), answer in zip(pending, answers):
                rows.append({**line, **answer})
                json_lines.append(folder / FILE, rows[-1])
            json_lines.sync(folder / FILE)
            advance(min(start + batch, len(files)))
    return rows


def _pictures(
    benchmark: Benchmark, file: File, images: pathlib.Path, per_prompt: int
) -> Iterator[tuple[dict[str, Any], Picture]]:
    """The pictures of a file, each with the beginning of its line."""
    path = images / file.path
    try:
        content = opener.read(path, within=images)
        cells = benchmark.cells(pictures.read(content, str(path)), per_prompt)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--images: {path}: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    for index, pixels in enumerate(cells, start=file.first):
        line = {"file": file.path, "picture": index, "sha256": digest, "prompt": file.item.key}
        yield {**line, "group": file.item.group, "text": file.item.text}, Picture(file.item, index, pixels)


def require_pictures(benchmark: Benchmark, files: Sequence[File], images: pathlib.Path) -> None:
    """Checks that a folder has every picture, that none is damaged, and that none was generated from another prompt.

    Raises:
        ConfigError: if one is wrong; the message names the first file.
    """
    missing = [file for file in files if not (images / file.path).is_file()]
    if missing:
        raise ConfigError(
            f"--images={images} lacks {missing[0].path}, for the prompt {missing[0].item.text!r}; {len(missing)} of "
            f"{len(files)} files are missing. Make them by --model, or set --per_prompt."
        )
    for item in {file.item.key: file.item for file in files}.values():
        for path, text in benchmark.beside(item).items():
            if not (images / path).is_file():
                continue
            try:
                content = opener.read_json(images / path)
            except limits.Refused as error:
                raise ConfigError(f"--images: {error}") from error
            if content != json.loads(text):
                raise ConfigError(
                    f"--images={images}: {path} states another prompt than {item.text!r}. Name the folder that was "
                    "made from the same --prompts, or remove this file and its pictures."
                )
