"""Compares few-step students with their teacher: metrics by the number of network evaluations, from the same noise.

    diffusion few_steps --teacher=runs/digits --out=runs/few_steps \\
        --students=runs/digits_few_step/seed=0,student=lcm --students=runs/digits_few_step/seed=0,student=turbo
    diffusion few_steps --teacher=runs/digits --students="runs/digits_few_step/*" --out=runs/few_steps

Each run samples with the settings of its config, except for the number of steps: students use 1, 2, 4 and 8 steps
(--steps), and the teacher 8, 20 and 50 (--teacher_steps). A one-step generator always uses one step. For K steps, a
progressive student uses the checkpoint at the end of the stage for K steps. The metrics are the Frechet distance to the
real images of config.evaluate.split, with pixels and with features of a classifier (and FID with --inception=FILE); the
share of these real images that have a sample near them (coverage, in the features of the classifier); and the share of
samples that the classifier recognizes as the requested class. Runs that differ only in the seed (seed=0,student=lcm and
seed=1,student=lcm) share a row, which shows their mean and standard deviation. An overview has a row for each model,
with its distances divided by the teacher's and the minutes of its training. The command writes table.md,
few_steps.json, plot.png and samples.png (with the same noise for all, from the first seed) into --out. It continues
after an interruption, and measures again what has changed.
"""

from absl import flags

from diffusion.experiments import command_line
from diffusion.experiments.evaluation import few_step_flags

if __name__ == "__main__":  # before the imports that take seconds
    few_step_flags.define("runs/digits", "runs/digits_few_step", "runs/few_steps")
    flags.adopt_module_key_flags(few_step_flags)  # --help then lists them
    flags.DEFINE_string("inception", "", "file of FID's Inception-v3, to add FID to the other distances")
    command_line.begin()

import functools
import glob
import hashlib
import json
import pathlib
import textwrap
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from diffusion.experiments.evaluation import plots, real_images, report, sample_metrics
from diffusion.experiments.evaluation.figures import training_minutes
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import generate
from diffusion.io import json_files
from diffusion.io.files import atomic, write_text
from diffusion.metrics import manifold
from diffusion.objectives import Jumps
from diffusion.recipe import ConfigError, Recipe, as_config_errors, checks
from diffusion.recipe.parts import Resolver
from diffusion.recipe.values import config_hash, differences, from_json, to_json
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import progress

EFFORT = sample_metrics.Effort(0, 10)
SHOWN = 5  # samples of a model in a block of the picture; only these are stored (earlier versions stored ten)
PANELS = 7  # the most panels of a plot side by side
WRAPPED = 10  # letters in a line above a sample
SHARES = {"coverage": "coverage", "asked_class": "class recognised"}  # {key: title} of the figures that are shares

Made = tuple[Mapping[str, Any], np.ndarray, Sequence | np.ndarray]
"""(figures, all samples, the class or caption of each)."""


class Row(NamedTuple):
    """A run at a number of sampling steps."""

    name: str  # name of the run in the table
    folder: pathlib.Path
    step: int  # step of its checkpoint
    config: Any  # the config of the run, with this number of sampling steps

    @property
    def steps(self) -> int:
        """The number of sampling steps."""
        return self.config.sample.steps

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.config.seed


def name_of(folder: str | pathlib.Path) -> str:
    """The name of a run in the table: the name of its folder, or "lcm" for a sweep's folder student=lcm,seed=1."""
    entries = [entry.rpartition("=") for entry in pathlib.Path(folder).name.split(",")]
    return ",".join(value for key, _, value in entries if key != "seed") or pathlib.Path(folder).name


def runs_of(pattern: str) -> list[str]:
    """The run folders that a pattern matches, by name; a name without wildcards stands for itself."""
    if not glob.has_magic(pattern) or pathlib.Path(pattern).is_dir():
        return [pattern]
    folders = sorted(str(path.parent) for path in map(pathlib.Path, glob.glob(f"{pattern}/config.json")))
    if not folders:
        raise ConfigError(f"--students={pattern} matches no run folder. Valid: e.g. 'runs/digits_few_step/*'.")
    return folders


def rows_of(folder: str | pathlib.Path, name: str, steps: Sequence[int], number: int, inception: str) -> list[Row]:
    """The rows of a run, one for each requested number of sampling steps that it supports.

    Args:
        folder: the run folder.
        name: the name of the run in the table.
        steps: the requested numbers of sampling steps.
        number: the number of samples.
        inception: the file of FID's Inception-v3; "" for no FID.

    Raises:
        ConfigError: if the run has no checkpoint, or its config does not fit.
    """
    latest = checkpoints.latest(folder)
    if latest is None:
        workdir.read_config(folder)
        raise ConfigError(f"{folder} has no checkpoint yet. Train this run to its end first.")
    rows = []
    for count in steps:
        config = workdir.read_config(folder)
        config.sample.update({"steps": count, "number": number})
        if inception:
            features = dict.fromkeys((*config.evaluate.features, "inception"))
            config.evaluate.update({"features": tuple(features), "inception": inception})
        objective = Resolver(config).objective
        at = latest
        if isinstance(objective.reads, Jumps) and objective.reads.one_step and count > 1:
            continue
        if objective.teacher and (stages := objective.teacher.stages):
            ends = {steps: (k + 1) * stages.length for k, steps in enumerate(stages.sampling_steps)}
            at = ends.get(count, -1)
            if at not in checkpoints.steps(folder):
                continue
        checks.validate(config)
        rows.append(Row(name, pathlib.Path(folder), at, config))
    return rows


def require_comparable(rows: Sequence[Row]) -> None:
    """Refuses runs that cannot be compared, and warns of runs that differ in more than a comparison shows.

    The warnings name students with other real examples than the teacher's, and runs that would be averaged as seeds
    although they differ in other settings.

    Args:
        rows: the rows of all runs; the last one is of the teacher.

    Raises:
        ConfigError: if a student's distances cannot be divided by the teacher's, if a student is named as the teacher,
            or if two students have one name and one seed.
    """
    form = lambda row: (workdir.example_shape(row.config), row.config.model.get("num_classes", 0))
    described = lambda row: f"{row.folder} (examples of {form(row)[0]}, {form(row)[1]} classes)"
    real = lambda row: {
        "config.data.name": row.config.data.name,
        "config.data.source": to_json(row.config.data.source),
        "config.evaluate.split": row.config.evaluate.split,
    }
    teacher = rows[-1]
    for row in {row.folder: row for row in rows[:-1]}.values():
        if form(row) != form(teacher):
            raise ConfigError(
                f"--students={described(row)} cannot be compared with --teacher={described(teacher)}. Valid: "
                "students on the examples and classes of the teacher."
            )
        if others := [name for name, value in real(row).items() if value != real(teacher)[name]]:
            warnings.warn(
                f"{row.folder} and {teacher.folder} are compared with different real examples: they differ in "
                f"{', '.join(others)}",
                stacklevel=2,
            )
    _require_names_apart(rows)


def _require_names_apart(rows: Sequence[Row]) -> None:
    """Refuses runs that share a name by mistake, and warns of seeds of a run that differ in other settings too."""
    teacher = rows[-1]
    first: dict[str, Row] = {}
    seeds: dict[tuple[str, int], pathlib.Path] = {}
    for row in {(row.name, row.folder): row for row in rows}.values():
        other = seeds.setdefault((row.name, row.seed), row.folder)
        if row.name == teacher.name:
            other = teacher.folder
        if other != row.folder:
            raise ConfigError(
                f"{other} and {row.folder} would share the rows of {row.name!r}, as if they differed in their seeds "
                "alone. Rename a folder, or compare them by two commands."
            )
        shared = first.setdefault(row.name, row)
        changes = [change.field for change in differences(shared.config, row.config)]
        if changed := [f"config.{field}" for field in changes if field not in ("seed", "sample.steps")]:
            warnings.warn(
                f"the means of {row.name!r} are over {shared.folder} and {row.folder}, which differ in more than the "
                f"seed: {', '.join(changed)}",
                stacklevel=3,
            )


def counts_of(flag: str) -> list[int]:
    """The numbers of sampling steps that a flag of `few_step_flags` lists.

    Raises:
        ConfigError: if the flag names a number twice.
    """
    words = flags.FLAGS[flag].value or []
    counts = [*map(int, words)]
    if len(set(counts)) < len(counts):
        raise ConfigError(f"--{flag}={','.join(words)} names a number twice. Valid: different numbers, such as 1,2,4.")
    return counts


def measured_once(row: Row, out: pathlib.Path, make: Callable[[], Made], *judges: str) -> dict:
    """The figures of a row. They are measured now, unless the same samples were measured before.

    Args:
        row: a run at a number of steps.
        out: the folder of the figures and samples.
        make: a function that makes the samples and their figures.
        *judges: the names of other things on which the figures depend.

    Returns:
        {"name", "seed", "steps", the figures, "checkpoint", "folder", "key"}; the images are in NAME-SEED-STEPS.npz.
    """
    path = _file(out, row.name, row.seed, row.steps)
    leaves = checkpoints.read_about(row.folder, row.step)["leaves"]
    identity = json.dumps([config_hash(row.config), leaves, *judges], sort_keys=True)
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    if path.exists() and (before := json.loads(path.read_text()))["key"] == key:
        return before
    figures, images, labels = make()
    source = {"checkpoint": row.step, "folder": str(row.folder), "key": key}
    content = {"name": row.name, "seed": row.seed, "steps": row.steps, **figures, **source}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path.with_suffix(".npz")) as file:
        np.savez_compressed(file, images=images[:SHOWN], labels=labels[:SHOWN])
    json_files.write(path, content)
    return content


def _file(out: pathlib.Path, name: str, seed: int, steps: int) -> pathlib.Path:
    """The file of a row's figures; its first samples are in the .npz file beside it."""
    return out / "rows" / f"{name}-{seed}-{steps}.json"


def measured(row: Row) -> Made:
    """({"nfe", "asked_class", "coverage", "fd_FEATURE", "floor_FEATURE", "count"}, samples, labels) of a row."""
    config = row.config
    number = config.sample.number
    params, _ = checkpoints.load_ema(row.folder, row.step)
    recipe = Recipe.from_config(config, workdir.example_shape(config))
    make = generate.generator(generate.trained(recipe, params))
    conditions = generate.conditions_of(recipe, number)
    labels = generate.classes_of(recipe, conditions)
    with as_config_errors():
        images = generate.checked_images(make, config, params, conditions, generate.seeds(config, number))
    metrics = sample_metrics.measure(images, labels, config, config.evaluate.split, EFFORT)
    figures = {"nfe": make.nfe, "asked_class": metrics["asked_class"] and metrics["asked_class"]["share"]}
    for name, part in metrics["frechet"].items():
        figures |= {f"fd_{name}": part["all_samples"]["mean"], f"floor_{name}": part["floor"]["mean"]}
    if "classifier" in config.evaluate.features:
        order = sample_metrics.balanced_order(labels)[: metrics["count"]]
        extract, real = real_rows(to_json({"data": config.data, "evaluate": {"split": config.evaluate.split}}))
        figures["coverage"] = coverage(sample_metrics.rows(extract, images[order]), real)
    return figures | {"count": metrics["count"]}, images, labels


@functools.lru_cache(maxsize=1)
def real_rows(settings: str) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """(the classifier's features as a function of images, the features of the real images that `settings` name)."""
    config = from_json(settings)
    train, real = real_images.splits_of(config)
    extract = sample_metrics.extractor_of("classifier", config, train).extract
    return extract, sample_metrics.rows(extract, real.images)


def coverage(samples: np.ndarray, real: np.ndarray) -> float:
    """The share of real rows [M, D] that have one of the samples [N, D] near them, see `manifold.overlap`."""
    return manifold.overlap(samples, real).coverage


def over_seeds(rows: Sequence[Mapping]) -> list[dict]:
    """One row for each model and number of evaluations: the mean of its figures over the seeds of the training.

    Returns:
        The rows, in the order of the first row of each. "seeds" is the number of trainings, and "spread" has the
        standard deviation of each figure over them; it is {} for a single training.
    """
    groups: dict[tuple, list[Mapping]] = {}
    for row in rows:
        groups.setdefault((row["name"], row["steps"]), []).append(row)
    means = []
    for group in groups.values():
        values = {
            key: np.array([row[key] for row in group]) for key, value in group[0].items() if isinstance(value, float)
        }
        spread = {key: float(value.std(ddof=1)) for key, value in values.items()} if len(group) > 1 else {}
        mean = {key: float(value.mean()) for key, value in values.items()}
        means.append({**group[0], **mean, "seeds": len(group), "spread": spread})
    return means


def table(
    rows: Sequence[Mapping],
    features: Sequence[str],
    reference: Mapping | None,
    shares: Mapping[str, str] = types.MappingProxyType(SHARES),
) -> str:
    """The rows of `over_seeds` as Markdown; numbers in brackets are distances divided by the reference's.

    Args:
        rows: the rows.
        features: the names of the features whose distances are shown.
        reference: the row of the teacher at the steps of its config; None if there is no such row.
        shares: {key: title} of the figures that are shares.
    """
    shown = {key: title for key, title in shares.items() if any(key in row for row in rows)}
    distances = [f"fd_{name}" for name in features]
    titles = {"fd_inception": "FID", **{f"fd_{name}": f"FD {name}" for name in features if name != "inception"}}

    def line(row: Mapping) -> list:
        rounded = lambda value: f"{float(f'{value:.2g}'):g}"  # 180, not 1.8e+02
        deviation = lambda key, scale=1: f" ± {rounded(scale * row['spread'][key])}" if row["spread"] else ""
        over = lambda key: f" ({row[key] / reference[key]:.2f})" if reference else ""
        share = lambda key: "—" if row.get(key) is None else f"{100 * row[key]:.1f}{deviation(key, 100)} %"
        cells = [f"{row[key]:.4g}{deviation(key)}{over(key)}" for key in distances]
        return [row["name"], row["nfe"], row["seeds"], *cells, *map(share, shown)]

    heads = ["model", "evaluations", "trainings", *(titles[key] for key in distances), *shown.values()]
    return report.table(heads, [line(row) for row in rows]) + "\n"


def overview(rows: Sequence[Mapping], features: Sequence[str], reference: Mapping) -> str:
    """A row for each model as Markdown: its distances divided by the reference's, by the number of evaluations.

    Args:
        rows: the rows of `over_seeds`.
        features: the names of the features; a cell has one figure for each.
        reference: the row of the teacher at the steps of its config.
    """
    counts = sorted({row["nfe"] for row in rows})
    cells: dict[str, dict[int, str]] = {}
    minutes: dict[str, float] = {}
    for row in rows:
        shown = []
        for key in (f"fd_{name}" for name in features):
            deviation = f" ± {row['spread'][key] / reference[key]:.2f}" if row["spread"] else ""
            shown.append(f"{row[key] / reference[key]:.2f}{deviation}")
        cells.setdefault(row["name"], {})[row["nfe"]] = "; ".join(shown)
        minutes[row["name"]] = max(minutes.get(row["name"], 0), row["minutes"])
    lines = [[name, f"{minutes[name]:.1f}", *(mine.get(count, "") for count in counts)] for name, mine in cells.items()]
    return report.table(["model", "minutes", *map(str, counts)], lines) + "\n"


def draw(rows: Sequence[Mapping], features: Sequence[str], reference: Mapping | None, path: pathlib.Path) -> None:
    """A panel for each model: its distances by the number of evaluations, divided by those of the reference, if any.

    Args:
        rows: the rows of `over_seeds`.
        features: the names of the features; each has a line in every panel.
        reference: the row of the teacher at the steps of its config; None if there is no such row.
        path: the PNG to write.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator  # imported here, since it takes a while

    models = list(dict.fromkeys(row["name"] for row in rows))
    columns = min(PANELS, len(models))
    lines = -(-len(models) // columns)
    figure = plots.blank(0.6 + 1.9 * columns, 0.7 + 1.7 * lines, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    counts = sorted({row["nfe"] for row in rows})
    keys = [f"fd_{feature}" for feature in features]
    heights = [row[key] / (reference[key] if reference else 1) for row in rows for key in keys]
    decades = max(heights) > 3 * min(heights)  # otherwise ticks at 1, 2 and 5 would leave at most one on the axis
    for axes, model in zip(panels, models):
        mine = sorted((row for row in rows if row["name"] == model), key=lambda row: row["nfe"])
        for colour, feature in zip(plots.COLOURS, features):
            key = f"fd_{feature}"
            unit = reference[key] if reference else 1.0
            height = [row[key] / unit for row in mine]
            spread = [row["spread"].get(key, 0) / unit for row in mine]
            line = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1.6, "capsize": 2}
            axes.errorbar([row["nfe"] for row in mine], height, spread, label=feature, **line)
        if reference:
            axes.axhline(1, color="#222222", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", yscale="log")
        axes.set_title(model, fontsize=10, parse_math=False)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if decades else MaxNLocator(4))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
        plots.style(axes)
    for axes in panels[len(models) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(models) - columns) : len(models)]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("network evaluations", fontsize=10)
    figure.supylabel(
        "Frechet distance" + (",\ntimes the teacher's" if reference else ""), fontsize=10, multialignment="center"
    )
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(features), frameon=False)
    plots.save(figure, path)


def picture(rows: Sequence[Mapping], reference: Mapping | None, out: pathlib.Path, path: pathlib.Path) -> None:
    """Draws the first samples of every model, in a block for each number of evaluations.

    The samples of a column have the same seed and the same class. The teacher's samples are the last row of each block.

    Args:
        rows: the rows of `over_seeds`; the teacher's rows are last.
        reference: the row of the teacher to show; None for its largest number of steps.
        out: the folder of the figures and samples.
        path: the PNG to write.
    """
    teacher = reference or rows[-1]
    students = [row for row in rows if row["name"] != teacher["name"]]
    names = [*dict.fromkeys(row["name"] for row in students), f"{teacher['name']}, {teacher['nfe']}"]
    counts = sorted({row["nfe"] for row in students})

    def samples(row: Mapping) -> Mapping[str, np.ndarray]:
        file = _file(out, row["name"], row["seed"], row["steps"]).with_suffix(".npz")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name][:SHOWN] for name in ("images", "labels")}

    last = samples(teacher)
    blocks = [[*([] for _ in names[1:]), plots.coloured(last["images"][None])[0]] for _ in counts]
    for row in students:
        block = blocks[counts.index(row["nfe"])]
        block[names.index(row["name"])] = plots.coloured(samples(row)["images"][None])[0]
    above = [textwrap.fill(str(label), WRAPPED) for label in last["labels"]]
    plots.mosaic(blocks, names, [above] * len(counts), path, [_evaluations(count) for count in counts])


def _evaluations(count: int) -> str:
    """A number of evaluations in words."""
    return f"{count} evaluation{'s' * (count > 1)}"


def compare(
    measure: Callable[[Row], Made], inception: str, shares: Mapping[str, str], program: str, *judges: str
) -> None:
    """Measures the runs that the flags name, and prints and writes the results.

    Args:
        measure: a function from a row to its figures and samples; the figures are "nfe", those of `shares`, and
            "fd_FEATURE" and "floor_FEATURE" for each feature.
        inception: the file of FID's Inception-v3; "" for no FID.
        shares: {key: title} of the figures that are shares, as in `table`.
        program: the words that start the program, for the record.
        *judges: the names of other things on which the figures depend, as in `measured_once`.
    """
    values = flags.FLAGS
    console = Console(highlight=False, soft_wrap=True)
    out = workdir.output_folder(values.out)
    counts, teacher_counts = counts_of("steps"), counts_of("teacher_steps")
    folders = {pathlib.Path(folder).resolve(): folder for pattern in values.students for folder in runs_of(pattern)}
    runs = [(folder, name_of(folder), counts) for folder in folders.values()]
    runs.append((values.teacher, "teacher", teacher_counts))
    to_measure = [row for run in runs for row in rows_of(*run, values.number, inception)]
    if all(row.name == "teacher" for row in to_measure):
        raise ConfigError(f"--steps={','.join(values.steps)}: no student samples in so many steps.")
    require_comparable(to_measure)
    rows = []
    with progress.bar("measuring", len(to_measure), "rows", console) as advance:
        for row in to_measure:
            minutes = training_minutes(row.folder, row.step)
            rows.append({**measured_once(row, out, lambda row=row: measure(row), *judges), "minutes": minutes})
            features = [name.removeprefix("fd_") for name in rows[-1] if name.startswith("fd_")]
            distances = "  ".join(f"{name} {rows[-1][f'fd_{name}']:.4g}" for name in features)
            console.print(f"{row.name}, {_evaluations(rows[-1]['nfe'])}: {distances}", markup=False)
            advance(len(rows))
    teacher_steps = workdir.read_config(values.teacher).sample.steps
    means = over_seeds(rows)
    reference = next((row for row in means if row["name"] == "teacher" and row["steps"] == teacher_steps), None)
    text = table(means, features, reference, shares)
    if reference:
        title = f"Distances ({'; '.join(features)}) divided by those of the teacher, by evaluations:"
        text = f"{text}\n{title}\n\n{overview(means, features, reference)}"
    record = {"command": workdir.command(program), "number": values.number, "rows": rows}
    json_files.write(out / "few_steps.json", record)
    write_text(out / "table.md", text)
    draw(means, features, reference, out / "plot.png")
    picture(means, reference, out, out / "samples.png")
    print(text)
    print(f"wrote {', '.join(str(out / name) for name in ('table.md', 'few_steps.json', 'plot.png', 'samples.png'))}")


def main(argv: list[str]) -> None:
    """Runs the command line."""
    compare(measured, flags.FLAGS.inception, SHARES, "diffusion few_steps")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
