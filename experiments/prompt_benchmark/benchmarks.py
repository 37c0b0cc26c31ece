"""The benchmarks as values. To add one, write a function that returns a Benchmark, and a line in BENCHMARKS."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from diffusion.io import limits, opener
from diffusion.metrics.prompt_following import clustered, dpg_bench, geneval, readers, t2i_compbench, t2i_compbench_plus
from diffusion.metrics.prompt_following.clustered import Mean
from diffusion.metrics.prompt_following.readers import PromptsError
from diffusion.recipe import ConfigError


class Item(NamedTuple):
    """A prompt.

    Attributes:
        key: the unique key of the prompt.
        number: the index among the prompts of the same group, which names the prompt's files.
        text: the text from which pictures are generated.
        group: the task or category; "" if there is only one.
        content: further data for the benchmark.
    """

    key: str
    number: int
    text: str
    group: str
    content: Any


class Readers(NamedTuple):
    """The readers of pictures and prompts; None for a reader that is not named."""

    detector: readers.Detector | None = None
    answerer: readers.Answerer | None = None
    embedder: readers.Embedder | None = None
    grammar: readers.Grammar | None = None
    depth: readers.Depth | None = None


Reader = TypeVar("Reader")


def named(reader: Reader | None, kind: str) -> Reader:
    """The reader, if there is one.

    Raises:
        ReaderError: if it is None.
    """
    if reader is None:
        raise readers.ReaderError(f"these prompts need a {kind}, but none is named")
    return reader


class Picture(NamedTuple):
    """A picture of a prompt, uint8 `[H, W, 3]`, and its index among the prompt's pictures."""

    item: Item
    index: int
    pixels: np.ndarray


class Benchmark(NamedTuple):
    """A benchmark.

    Attributes:
        name: the benchmark's name in BENCHMARKS.
        source: the publication and the code that its rules come from.
        per_prompt: pictures of each prompt in the published figures.
        rules: the thresholds and rules, for the record.
        read: a function path of the prompts -> (the prompts, sha256 of the files).
        needs: a function prompts -> the fields of Readers that judge their pictures.
        files: a function (prompt, number of its pictures) -> their paths in the folder of pictures.
        cells: a function (content of a file, number of a prompt's pictures) -> the pictures in the file.
        joined: a function pictures of a prompt -> the contents of its files.
        beside: a function prompt -> {path in the folder: text} of further files with the prompt's pictures.
        judged: a function (readers, pictures) -> {"score", ..} for each picture, a JSON value.
        figures: a function (prompts, lines of results) -> the table.
        most: the largest number of pictures per prompt; 0 for any number.
    """

    name: str
    source: str
    per_prompt: int
    rules: Mapping[str, Any]
    read: Callable[[pathlib.Path], tuple[list[Item], str]]
    needs: Callable[[Sequence[Item]], tuple[str, ...]]
    files: Callable[[Item, int], list[str]]
    cells: Callable[[np.ndarray, int], list[np.ndarray]]
    joined: Callable[[Sequence[np.ndarray]], list[np.ndarray]]
    beside: Callable[[Item], dict[str, str]]
    judged: Callable[[Readers, Sequence[Picture]], list[dict[str, Any]]]
    figures: Callable[[Sequence[Item], Sequence[Mapping]], dict[str, Mean]]
    most: int = 0


def _digest(paths: Sequence[pathlib.Path]) -> str:
    """The sha256 of a file, as sha256sum prints it, or of the names and contents of several files."""
    if len(paths) == 1:
        return hashlib.sha256(opener.read(paths[0])).hexdigest()
    return hashlib.sha256(b"".join(path.name.encode() + b"\n" + opener.read(path) for path in paths)).hexdigest()


def _mean(rows: Sequence[Mapping], scale: float = 1.0) -> Mean:
    return clustered.mean([scale * row["score"] for row in rows], [row["prompt"] for row in rows])


def _by_group(rows: Sequence[Mapping]) -> dict[str, Mean]:
    groups = dict.fromkeys(row["group"] for row in rows)
    return {group: _mean([row for row in rows if row["group"] == group]) for group in groups}


def _itself(pixels: np.ndarray, count: int) -> list[np.ndarray]:
    return [pixels]


# ==== GenEval ====


def _geneval_figures(items: Sequence[Item], rows: Sequence[Mapping]) -> dict[str, Mean]:
    tasks = _by_group(rows)
    return {**tasks, "overall": clustered.mean_of_means(list(tasks.values()))}


def build_geneval() -> Benchmark:
    """GenEval: the share of right pictures for each task, and the mean over tasks."""
    rules = geneval.PUBLISHED

    def read(path: pathlib.Path) -> tuple[list[Item], str]:
        prompts = geneval.read(path)
        return [Item(f"{i:05}", i, row.text, row.tag, row) for i, row in enumerate(prompts)], _digest([path])

    def needs(items: Sequence[Item]) -> tuple[str, ...]:
        coloured = any(clause.colour for item in items for clause in item.content.include)
        return ("detector", "embedder") if coloured else ("detector",)

    def judged(available: Readers, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
        rows = []
        all_detections = readers.detected(
            named(available.detector, "detector"), [picture.pixels for picture in pictures]
        )
        for picture, detections in zip(pictures, all_detections):
            prompt = picture.item.content
            objects = geneval.counted_objects(detections, prompt.tag, rules)
            colours_of = lambda label, some, picture=picture: geneval.colours(
                named(available.embedder, "embedder"), picture.pixels, label, some
            )
            right, reason = geneval.judged(prompt, objects, colours_of, rules)
            details = {
                label: [[*map(float, detection.box), detection.score] for detection in some]
                for label, some in objects.items()
            }
            rows.append({"score": float(right), "reason": reason, "details": details})
        return rows

    return Benchmark(
        name="geneval",
        source="Ghosh et al. 2023; djghosh13/geneval, evaluation/evaluate_images.py and summary_scores.py",
        per_prompt=4,
        rules=rules._asdict(),
        read=read,
        needs=needs,
        files=lambda item, count: [f"{item.key}/samples/{index:04}.png" for index in range(count)],
        cells=_itself,
        joined=list,
        beside=lambda item: {f"{item.key}/metadata.jsonl": json.dumps(item.content.content) + "\n"},
        judged=judged,
        figures=_geneval_figures,
    )


# ==== DPG-Bench ====


def _grid(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """One picture, or a grid of two by two, with black in place of missing pictures."""
    if len(pictures) == 1:
        return list(pictures)
    blank = np.zeros_like(pictures[0])
    cells = [*pictures, *[blank] * (4 - len(pictures))]
    return [np.concatenate([np.concatenate(cells[:2], axis=1), np.concatenate(cells[2:], axis=1)])]


def _dpg_figures(items: Sequence[Item], rows: Sequence[Mapping]) -> dict[str, Mean]:
    questions = {item.key: item.content.questions for item in items}
    last = max(row["picture"] for row in rows)
    figures = {"overall": _mean(rows, 100.0)}
    for suffix, some in (("", rows), (" (last picture)", [row for row in rows if row["picture"] == last])):
        answers: dict[str, list[tuple[float, str]]] = {}
        for row in some:
            for proposition, right in row["answers"].items():
                category = questions[row["prompt"]][int(proposition)].category
                for name in dict.fromkeys((category.split("-")[0].strip(), category)):
                    answers.setdefault(name, []).append((100.0 * right, row["prompt"]))
        if not suffix or last:
            figures |= {name + suffix: clustered.mean(*zip(*rated)) for name, rated in sorted(answers.items())}
    return figures


def build_dpg_bench() -> Benchmark:
    """DPG-Bench: the share of questions with the answer yes in percent, for all questions and for each category."""

    def read(path: pathlib.Path) -> tuple[list[Item], str]:
        prompts = dpg_bench.read(path)
        for prompt in prompts:
            if not prompt.key or pathlib.PurePath(prompt.key).name != prompt.key:
                raise PromptsError(f"{path}: item_id = {prompt.key!r} cannot be the name of a file.")
        return [Item(prompt.key, i, prompt.text, "", prompt) for i, prompt in enumerate(prompts)], _digest([path])

    def judged(available: Readers, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
        asked = [(picture, number) for picture in pictures for number in picture.item.content.questions]
        answers = readers.answered(
            named(available.answerer, "answerer"),
            [picture.pixels for picture, _ in asked],
            [picture.item.content.questions[number].text for picture, number in asked],
        )
        right = iter(map(dpg_bench.yes, answers))
        rows = []
        for picture in pictures:
            prompt = picture.item.content
            rights = {number: next(right) for number in prompt.questions}
            shown = {str(number): answer for number, answer in rights.items()}
            rows.append({"score": dpg_bench.score(prompt, rights), "answers": shown})
        return rows

    return Benchmark(
        name="dpg-bench",
        source="Hu et al. 2024 (ELLA); TencentQQGYLab/ELLA, dpg_bench/compute_dpg_bench.py",
        per_prompt=4,
        rules={"right": "yes is the most probable answer", "dependencies": "0 where a parent has 0"},
        read=read,
        needs=lambda items: ("answerer",),
        files=lambda item, count: [f"{item.key}.png"],
        cells=dpg_bench.cells,
        joined=_grid,
        beside=lambda item: {},
        judged=judged,
        figures=_dpg_figures,
        most=4,
    )


# ==== T2I-CompBench ====


class Measured(NamedTuple):
    """The metrics of a prompt of T2I-CompBench.

    Attributes:
        by: the metrics' names in _NEEDED.
        objects: the objects that the prompt counts, with their numbers.
    """

    by: tuple[str, ...]
    objects: tuple[tuple[str, int], ...] = ()


def _compbench_items(path: pathlib.Path, categories: Sequence[str]) -> tuple[list[Item], str]:
    """The prompts of CATEGORY_val.txt, or of all such files in a folder."""
    files = [path] if path.is_file() else [path / f"{category}_val.txt" for category in categories]
    files = [file for file in files if file.is_file()]
    if not files:
        raise PromptsError(f"{path} holds no file CATEGORY_val.txt. Valid categories: {', '.join(categories)}.")
    items = []
    used = list(files)
    for file in files:
        category = file.stem.removesuffix("_val")
        if category not in categories:
            raise PromptsError(f"{file} belongs to the category {category!r}. Valid: {', '.join(categories)}.")
        prompts = t2i_compbench.read(file)
        scores: list[tuple[str, ...]] = {
            "spatial": [("spatial",)] * len(prompts),
            "3d_spatial": [("depth",)] * len(prompts),
            "numeracy": [("number",)] * len(prompts),
            "non_spatial": [("action",)] * len(prompts),
        }.get(category, [("attribute",)] * len(prompts))
        if category == "complex":
            scores = t2i_compbench.read_complex(file.parent, prompts)
            used += [file.parent / f"complex_val_{kind}.txt" for kind in ("spatial", "action")]
        measured = [Measured(by) for by in scores]
        if category == "numeracy":
            table = file.parent / "new_objects.txt"
            used.append(table)
            measured = _counted(file, prompts, t2i_compbench_plus.read_objects(table))
        items += [Item(f"{category}/{i}", i, text, category, by) for i, (text, by) in enumerate(zip(prompts, measured))]
    return items, _digest(used)


def _counted(file: pathlib.Path, prompts: Sequence[str], plurals: Mapping[str, str]) -> list[Measured]:
    """The objects that each prompt counts.

    Raises:
        PromptsError: if a prompt counts no object of the table.
    """
    counted = [tuple(t2i_compbench_plus.objects_and_numbers(prompt, plurals)) for prompt in prompts]
    for prompt, objects in zip(prompts, counted):
        if not objects:
            raise PromptsError(f"{file}: the prompt {prompt!r} counts no object of new_objects.txt.")
    return [Measured(("number",), objects) for objects in counted]


_NEEDED = {
    "attribute": ("answerer", "grammar"),
    "spatial": ("detector", "grammar"),
    "action": ("embedder",),
    "depth": ("detector", "grammar", "depth"),
    "number": ("detector",),
}


def _compbench_needs(items: Sequence[Item]) -> tuple[str, ...]:
    needed = [field for item in items for score in item.content.by for field in _NEEDED[score]]
    return tuple(dict.fromkeys([*needed, *["grammar"] * any(item.group == "complex" for item in items)]))


def _compbench_judged(available: Readers, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    texts = dict.fromkeys(picture.item.text for picture in pictures)
    parses = {text: readers.parsed(available.grammar, text) for text in texts} if available.grammar else {}
    parts: list[dict[str, float]] = [{} for _ in pictures]
    measured_by = lambda kind: [
        (row, picture) for row, picture in enumerate(pictures) if kind in picture.item.content.by
    ]
    detect = lambda some: readers.detected(
        named(available.detector, "detector"), [picture.pixels for _, picture in some]
    )
    asked = [
        (row, question)
        for row, picture in measured_by("attribute")
        for question in t2i_compbench.questions(parses[picture.item.text])
    ]
    if asked:
        pixels = [pictures[row].pixels for row, _ in asked]
        answers = readers.answered(named(available.answerer, "answerer"), pixels, [question for _, question in asked])
        if others := [answer for answer in answers if answer.get("yes") is None]:
            raise readers.ReaderError(
                f"the answerer returned {limits.short(others[0])}, but T2I-CompBench needs P(yes)."
            )
        yes = [answer["yes"] for answer in answers]
    for row, _ in measured_by("attribute"):
        probabilities = [value for (number, _), value in zip(asked, yes) if number == row] if asked else []
        parts[row]["attribute"] = t2i_compbench.attributes(probabilities)
    if some := measured_by("spatial"):
        for (row, picture), detections in zip(some, detect(some)):
            objects = t2i_compbench.objects_of(parses[picture.item.text], picture.item.group == "complex")
            parts[row]["spatial"] = t2i_compbench.spatial(picture.item.text, objects, detections)
    if some := measured_by("depth"):
        depths = readers.depths(named(available.depth, "depth"), [picture.pixels for _, picture in some])
        for (row, picture), detections, nearness in zip(some, detect(some), depths):
            objects = t2i_compbench.objects_of(parses[picture.item.text])
            parts[row]["depth"] = t2i_compbench_plus.spatial_3d(picture.item.text, objects, detections, nearness)
    if some := measured_by("number"):
        for (row, picture), detections in zip(some, detect(some)):
            parts[row]["number"] = t2i_compbench_plus.numeracy(picture.item.content.objects, detections)
    if some := measured_by("action"):
        plain = [
            t2i_compbench.action(parses[picture.item.text]) if picture.item.group == "complex" else picture.item.text
            for _, picture in some
        ]
        seen_rows = readers.embedded_pictures(
            named(available.embedder, "embedder"), [picture.pixels for _, picture in some]
        )
        cosines = (seen_rows * readers.embedded_texts(named(available.embedder, "embedder"), plain)).sum(axis=1)
        for (row, _), cosine in zip(some, cosines):
            parts[row]["action"] = float(cosine)
    return [{"score": t2i_compbench.three_in_one(list(scores.values())), "parts": scores} for scores in parts]


def build_t2i_compbench(plus: bool = False) -> Benchmark:
    """T2I-CompBench: the mean score of each category, each by its own published metric.

    Args:
        plus: whether to build T2I-CompBench++, which also has positions in depth and numbers of objects.
    """
    rules = {"phrases": t2i_compbench.PHRASES, "overlap": t2i_compbench.OVERLAP, "distance": t2i_compbench.DISTANCE}
    source = "Huang et al. 2023; Karine-Huang/T2I-CompBench, BLIPvqa_eval, UniDet_eval, CLIPScore_eval, 3_in_1_eval"
    categories = t2i_compbench.CATEGORIES
    if plus:
        source = f"Huang et al. 2025, T2I-CompBench++; {source}"
        rules |= {"depth overlap": t2i_compbench_plus.DEPTH_OVERLAP, "same": t2i_compbench_plus.SAME}
        categories = (*categories, *t2i_compbench_plus.CATEGORIES)

    def files(item: Item, count: int) -> list[str]:
        first = item.number * count
        return [f"{item.group}/samples/{item.text}_{first + index:06}.png" for index in range(count)]

    return Benchmark(
        name="t2i-compbench++" if plus else "t2i-compbench",
        source=source,
        per_prompt=10,
        rules=rules,
        read=lambda path: _compbench_items(path, categories),
        needs=_compbench_needs,
        files=files,
        cells=_itself,
        joined=list,
        beside=lambda item: {},
        judged=_compbench_judged,
        figures=lambda items, rows: _by_group(rows),
    )


BENCHMARKS: dict[str, Benchmark] = {
    entry.name: entry
    for entry in (build_geneval(), build_dpg_bench(), build_t2i_compbench(), build_t2i_compbench(plus=True))
}


def opened(benchmark: Benchmark, path: pathlib.Path) -> tuple[list[Item], str]:
    """The prompts of a benchmark, and the sha256 of their file.

    Raises:
        ConfigError: if the prompts cannot be read, or have another form.
    """
    try:
        items, digest = benchmark.read(path)
    except (PromptsError, OSError) as error:
        raise ConfigError(f"--prompts: {error}") from error
    for item in items:
        if any(part in ("", ".", "..") for file in benchmark.files(item, 1) for part in file.split("/")):
            raise ConfigError(f"--prompts={path}: the prompt {item.text!r} would name a file outside of its folder.")
    return items, digest
