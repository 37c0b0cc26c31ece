"""Compares runs: their differences in the config, their training curves, and their results with statistical tests.

    diffusion compare runs/digits runs/other
    diffusion compare runs/v_0 runs/v_1 runs/x0_0 runs/x0_1 --figures=fd_pixels,asked_class --out=runs/v_x0
    diffusion compare runs/digits runs/digits/guided        # two sets of samples of one run

Runs whose configs differ only in the seed form one setting, and their results are averaged. Runs with the same config
and seed are separate settings. Each setting is compared with the first. The statistical test depends on the runs:

    several seeds          Student's t of the pairs of equal seeds if there are two or more, else Welch's t
    single runs            a permutation test of samples, in pairs if sample i of both runs starts from the same noise
    neither is possible    the confidence intervals of both

The command refuses to compare results from different protocols. It writes comparison.md and comparison.png into --out.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("out", "comparison", "folder for comparison.md and comparison.png")
    flags.DEFINE_list("figures", None, "names of the figures to compare, e.g. fd_pixels,loss; all by default")
    command_line.begin(takes_words=True)

import collections
import itertools
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diffusion.experiments.evaluation import figures, plots, real_images, report, sample_metrics, significance
from diffusion.experiments.evaluation.significance import Difference, Samples
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sampling import sample_files
from diffusion.experiments.sweeps import naming
from diffusion.experiments.sweeps.results import Group, Results, Run, by_seed, over_seeds, records_of, seed_of_training
from diffusion.experiments.sweeps.sweep_folder import DONE
from diffusion.io import limits
from diffusion.io.files import write_text
from diffusion.recipe import ConfigError, unknown
from diffusion.recipe.extensions import printed
from diffusion.recipe.values import MISSING, differences, flattened, plain, require_sections
from diffusion.training.checkpointing import checkpoints
from diffusion.training.runtime import progress

SEEDS = ("seed", "sample.seed")
UNTESTED = ("loss", "step", "nfe", "steps_per_second")  # losses of two objectives do not compare; the others are exact
LOSS_SECTIONS = (  # the fields that define the loss on held-out records: it compares only between runs that share them
    "objective.", "schedule.", "parameterization.", "data.", "teacher.", "autoencoder.", "evaluate.loss.",
)  # fmt: skip
WEIGHTS = ("average", "quantised", "infill", "watermark")  # entries of samples.json that describe the weights further
# Entries in the protocol of a metric that depend on the run, and not on how it was measured.
RESULTS = ("step", "steps", "seed", "evaluations", "deviation_of_a_draw")
SCALED = "_over_floor"  # the ending of a figure that is another one divided by a constant of the protocol
CURVES = "Training: the loss by step, and by t. Losses of different objectives or weightings do not compare"


class Compared(NamedTuple):
    """A comparison of each setting with the first. A setting is one run, or several that differ in their seeds."""

    fields: dict[str, list[Any]]  # {field that differs: its values in the order of the settings}
    groups: list[Group]  # the settings
    tests: dict[str, dict[str, Difference]]  # differences from the first setting, by setting and figure
    notes: list[str]  # notes on what could not be compared


def compare(folders: Sequence[str | pathlib.Path], requested: Sequence[str] = ()) -> Compared:
    """Compares the runs in some folders.

    Args:
        folders: at least two folders: run folders, or folders inside a run folder that hold other samples of the run.
        requested: names of the figures to compare; () for all.

    Raises:
        ConfigError: for fewer than two folders, a folder that is named twice, an unknown figure, or figures of two
            protocols.
        WorkdirError: if a folder holds no run.
    """
    paths = [pathlib.Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise ConfigError(
            f"compare needs at least two different run folders, e.g. runs/a runs/b; got "
            f"{', '.join(map(str, paths)) or 'none'}."
        )
    configs = [_config_of(path) for path in paths]
    reports = {path: figures.read_report(path) for path in paths}
    earlier = [path for path, content in reports.items() if figures.is_of_other_samples(content, path)]
    reports |= {path: {} for path in earlier}
    _require_one_protocol({path: _protocol(path, content) for path, content in reports.items() if content})
    fields = sorted({change.field for config in configs for change in differences(configs[0], config)})
    runs = [_run(path, config, fields) for path, config in zip(paths, configs)]
    known = list(dict.fromkeys(name for run in runs for name in run.figures))
    for name in requested:
        if name not in known:
            raise unknown("--figures", name, known, "figure")
    if any(run.overrides == other.overrides for run, other in itertools.combinations(runs, 2)):
        fields.append("folder")  # two runs of one config, such as of two commits, or on two machines
        runs = [run._replace(overrides={**run.overrides, "folder": run.name}) for run in runs]
    settings = [field for field in fields if field not in SEEDS]
    seeds = [field for field in SEEDS if field in fields]
    groups = over_seeds(Results("comparison", "", settings, seeds, runs, pathlib.Path(), ""))
    groups = _told_apart([_named(group, paths, requested or known) for group in groups])
    notes = [
        f"{path} has no report.json{' of its present samples' if path in earlier else ''}: "
        f"{printed('evaluate', f'--workdir={path}')}"
        for path, content in reports.items()
        if not content
    ]
    notes += [note for path, content in reports.items() if (note := _earlier_step_note(path, content))]
    notes += [*_step_notes(reports), *_condition_notes(paths)]
    if len(groups) == 1:
        notes.append("These runs differ in their seeds alone, so that there is one setting and no difference to test.")
    return Compared(
        {field: [group.runs[0].overrides[field] for group in groups] for field in settings},
        groups,
        {group.name: _tests(groups[0], group, configs[0]) for group in groups[1:]},
        notes,
    )


def _earlier_step_note(folder: pathlib.Path, content: Mapping[str, Any]) -> str:
    """A note where a run has been trained on since its samples were measured; "" otherwise."""
    with figures.reading(folder / "report.json"):
        step, latest = figures.checkpoint_of_samples(content).get("step"), checkpoints.latest(folder)
    if step is None or latest in (None, step):
        return ""
    return f"{folder}: the figures of its samples are of step {step}, but its latest checkpoint is of step {latest}."


def _step_notes(reports: Mapping[pathlib.Path, Mapping]) -> list[str]:
    """A note where the samples of the runs come from checkpoints of different steps; [] otherwise."""
    steps = {path: figures.checkpoint_of_samples(content).get("step") for path, content in reports.items()}
    steps = {path: step for path, step in steps.items() if step is not None}
    listed = ", ".join(f"{path}: {step}" for path, step in steps.items())
    return [f"The figures of samples are of different steps: {listed}."] if len(set(steps.values())) > 1 else []


def _condition_notes(folders: Sequence[pathlib.Path]) -> list[str]:
    """A note on folders with the same number of samples but different classes or conditions; [] otherwise."""
    known: dict[Any, dict[str, pathlib.Path]] = {}
    for folder in folders:
        record = sample_files.read_record(folder) or {}
        if "conditions" in record:  # earlier versions did not write them
            known.setdefault(_sampling(folder).get("number"), {}).setdefault(str(record["conditions"]), folder)
    others = [" and ".join(map(str, by_digest.values())) for by_digest in known.values() if len(by_digest) > 1]
    return [f"The samples in {folders_named} have different classes or conditions." for folders_named in others]


def _config_of(folder: pathlib.Path) -> dict[str, Any]:
    """The config of a run, with the settings that made the samples in the folder.

    The folder is a run folder, or lies in one and holds other samples of its run.
    """
    inside = not (folder / "config.json").is_file() and (folder / "samples.npz").is_file()
    run = folder.resolve().parent if inside else folder
    if inside and not (run / "config.json").is_file():
        raise WorkdirError(
            f"{folder} holds samples, but lies in no run folder: {run} has no config.json. Valid: a run folder, or a "
            "folder of samples inside the run that made them, which diffusion sample --out=RUN/NAME writes."
        )
    config = workdir.read_config(run)
    require_sections(config, run)
    config = plain(config)
    if type(config.get("seed", 0)) is not int:
        raise WorkdirError(f"{run / 'config.json'} has seed = {limits.short(config['seed'])}. Valid: an integer.")
    return {**config, "sample": {**(_sampling(folder) or config["sample"]), **_weights(folder)}}


def _sampling(folder: pathlib.Path) -> dict[str, Any]:
    """The settings in samples.json; {} if there is no such file."""
    sample = (sample_files.read_record(folder) or {}).get("sample") or {}
    if not isinstance(sample, Mapping) or type(sample.get("seed", 0)) is not int:
        raise WorkdirError(
            f"{folder / 'samples.json'} has sample = {limits.short(sample)}, which `diffusion sample` does not write. "
            "Make the samples again."
        )
    return dict(sample)


def _weights(folder: pathlib.Path) -> dict[str, Any]:
    """The weights that made the samples in a folder, by the flags of `diffusion sample`; "ema" without samples.

    The step is left out, since the runs of one setting may differ in it.
    """
    checkpoint = (sample_files.read_record(folder) or {}).get("checkpoint")
    checkpoint = checkpoint if isinstance(checkpoint, Mapping) else {}
    name = checkpoint.get("weights")  # a table of numbers, for an average of several checkpoints
    facts = {fact: checkpoint[fact] for fact in WEIGHTS if fact in checkpoint}
    return {"weights": name if isinstance(name, str) else "ema", **facts}


def _require_one_protocol(protocols: Mapping[pathlib.Path, Mapping]) -> None:
    """Refuses figures that were measured under different protocols."""
    for folder, protocol in protocols.items():
        first = next(iter(protocols))
        changes = differences(protocols[first], protocol)
        if changes := [change for change in changes if MISSING not in (change.old, change.new)]:
            raise ConfigError(
                f"{first} and {folder} were measured under different protocols, so their figures cannot be compared: "
                f"{'; '.join(map(str, changes))}. Evaluate both with the same --config.evaluate, --protocol and "
                "number of samples."
            )


def _protocol(folder: pathlib.Path, content: Mapping) -> dict[str, Any]:
    """The entries of report.json that two folders must share, where both have them, for their figures to compare."""
    facts = ("samples", "reference", "space", "k", "size", "protocol")
    with figures.reading(folder / "report.json"):
        inception = content.get("inception") or {}
        return {
            "dataset": content["protocol"]["dataset"],
            "distance": content["protocol"]["distance"],
            "features": {name: part["extractor"] for name, part in content["figures"]["frechet"].items()},
            "inception": {name: inception[name] for name in ("protocol", "reference") if name in inception},
            "encoders": {
                part["protocol"]: {"reference": part["reference"]} for part in content.get("encoders", {}).values()
            },
            "of": {
                name: {fact: _without_results(part[fact]) for fact in facts if fact in part}
                for name, part in figures.named(content).items()
            },
        }


def _without_results(fact: Any) -> Any:
    """The protocol of a metric, without the entries of `RESULTS`; any other fact as it is."""
    if not isinstance(fact, Mapping):
        return fact
    return {name: value for name, value in fact.items() if name not in RESULTS}


def _run(folder: pathlib.Path, config: dict[str, Any], fields: Sequence[str]) -> Run:
    """A run in the form of a sweep's run; `fields` are the fields that vary."""
    flat = flattened(config)
    overrides = {field: flat.get(field, MISSING) for field in fields}
    return Run(str(folder), overrides, folder, DONE, figures.read_run(folder), "", 0.0, "", 1)


def _named(group: Group, paths: Sequence[pathlib.Path], shown: Sequence[str]) -> Group:
    """The group, named by its runs' folders; a single run has its own figures, with intervals over its samples."""
    common = os.path.commonpath([path.absolute() for path in paths])
    below = [os.path.relpath(run.workdir.absolute(), common) for run in group.runs]
    names = [run.workdir.name if name == "." else name for name, run in zip(below, group.runs)]
    values = group.runs[0].figures if len(group.runs) == 1 else group.figures
    return group._replace(name=", ".join(names), figures={name: values[name] for name in shown if name in values})


def _told_apart(groups: Sequence[Group]) -> list[Group]:
    """The groups; those that share a name are named by the full paths of their runs."""
    number = collections.Counter(group.name for group in groups)
    paths = lambda group: ", ".join(str(run.workdir.absolute()) for run in group.runs)
    return [group._replace(name=paths(group)) if number[group.name] > 1 else group for group in groups]


def _tests(first: Group, second: Group, config: Mapping) -> dict[str, Difference]:
    """The difference of each figure that both settings have, by the best test that their runs allow."""
    single = len(first.runs) == len(second.runs) == 1
    sampled = any(name.startswith(("asked_class", "fd_")) for name in first.figures)
    by_samples = _sample_tests(first.runs[0].workdir, second.runs[0].workdir, config) if single and sampled else {}
    seed = seed_of_training([*first.runs, *second.runs], SEEDS)
    tests = {}
    for name in first.figures:
        if name in UNTESTED or name.endswith(SCALED) or name not in second.figures:
            continue
        if name.startswith("held_out_loss") and fields_of_loss(first, second):
            continue
        values = [by_seed(group.runs, seed, name) for group in (first, second)]
        tests[name] = (
            by_samples.get(name)
            or significance.compare_seeds(*values)
            or significance.compare_intervals(first.figures[name], second.figures[name])
        )
    return {name: test for name, test in tests.items() if test}


def fields_of_loss(first: Group, second: Group) -> list[str]:
    """The fields of `LOSS_SECTIONS` in which two settings differ, so that their losses do not compare."""
    before, after = (group.runs[0].overrides for group in (first, second))
    return [field for field in before if field.startswith(LOSS_SECTIONS) and before[field] != after[field]]


def _sample_tests(first: pathlib.Path, second: pathlib.Path, config: Mapping) -> dict[str, Difference]:
    """The tests of `significance.compare_samples`, if both folders hold the samples that their reports measured."""
    if not all((folder / file).is_file() for folder in (first, second) for file in ("samples.npz", "report.json")):
        return {}
    if any(figures.is_of_other_samples(figures.read_report(folder), folder) for folder in (first, second)):
        return {}
    dataset = figures.read_report(first)["protocol"]["dataset"]
    train, real = (real_images.split_of(config, dataset[name]) for name in ("train_split", "split"))
    if "classifier" in config["evaluate"]["features"] and train.spec.num_classes:
        sample_metrics.trained_classifier(train)
    with progress.bar("exchanging samples", len(config["evaluate"]["features"]) + 1, "figures") as advance:
        return significance.compare_samples(_samples(first), _samples(second), config, (train, real), advance)


def _samples(folder: pathlib.Path) -> Samples:
    """The samples of a run's folder, with the seed that they began with."""
    return Samples(*sample_files.read_samples(folder), _sampling(folder).get("seed"))


def tables(compared: Compared) -> list[tuple[str, list[str], list[list[str]]]]:
    """The comparison as (title, header, rows of cells): the fields that differ, the figures, the differences."""
    names = [group.name for group in compared.groups]
    known = dict.fromkeys(name for group in compared.groups for name in group.figures)
    settings = [dict(zip(compared.fields, values)) for values in zip(*compared.fields.values())]
    columns = naming.distinct_texts(settings, compared.fields)
    fields = [[field, *texts] for field, *texts in zip(compared.fields, *columns)]
    runs = [run for group in compared.groups for run in group.runs]
    values = [
        [name, *(report.cell(group.figures.get(name)) for group in compared.groups), records_of(runs, name)]
        for name in known
    ]
    header = ["", "setting", "difference", "95 % interval", "p", "tested by"]
    tests = [
        [name, setting, f"{test.value:+.4g}", *_tested(test), test.how]
        for setting, tests_of_setting in compared.tests.items()
        for name, test in tests_of_setting.items()
    ]
    every = [
        ("Config fields that differ", ["field", *names], fields),
        ("Figures", ["", *names, "records"], values),
        (f"Differences from {names[0]}", header, tests),
    ]
    return [table for table in every if table[2]]


def _tested(test: Difference) -> list[str]:
    """The cells of the interval and of p; empty for a difference that no test can judge."""
    return ["", ""] if math.isnan(test.p) else [f"{test.low:+.3g} to {test.high:+.3g}", f"{test.p:.2g}"]


def write(compared: Compared, out: pathlib.Path) -> list[pathlib.Path]:
    """Writes comparison.md and, where a run has losses, comparison.png; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "comparison.md"]
    losses: dict[str, list[pathlib.Path]] = {}
    for group in compared.groups:
        for run in group.runs:
            if "loss" in run.measured.curves:
                losses.setdefault(group.name, []).append(run.workdir / "metrics.jsonl")
    if losses:
        paths.append(out / "comparison.png")
        plots.curves(losses, paths[1])
    parts = [f"# Comparison of {'; '.join(group.name for group in compared.groups)}"]
    for title, header, rows in tables(compared):
        parts += [f"## {title}", report.table(header, rows)]
    parts += [*report.pictures(out, {path.name: CURVES for path in paths[1:]}), *compared.notes, HOW_TO_READ]
    write_text(paths[0], "\n\n".join(parts) + "\n")
    return paths


HOW_TO_READ = (
    "± is the standard deviation over runs that differ in their seeds, with Student's 95 % interval of their mean in "
    "brackets. Without ±, the brackets hold the 95 % interval over the samples of one run, which does not include the "
    "variation between trainings. Only a test over several seeds shows that one setting is better than another. A test "
    "over samples shows that these two trained models differ. p is not corrected for the number of figures."
)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    out = workdir.output_folder(flags.FLAGS.out)
    compared = compare(argv[1:], flags.FLAGS.figures or ())
    paths = write(compared, out)
    for title, header, rows in tables(compared):
        report.show(title, header, rows)
    print("\n".join([*compared.notes, "wrote " + ", ".join(map(str, paths))]))


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
