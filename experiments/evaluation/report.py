"""The report of an evaluation: report.json for programs, report.md for people, and a summary on the terminal."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from diffusion.io import limits
from experiments import config as configs
from experiments.run_folder.workdir import write_text

PACKAGES = ("jax", "flax", "optax", "grain", "numpy")
PICTURES = {
    "samples.png": "Samples, one row for each class",
    "trajectory.png": "From noise to image: the sample x_t, and the prediction of x_0, over the steps",
    "curves.png": "Training: the loss by step, and by t",
}

MODEL_FIGURES = {  # how they were measured, for the table; see experiments/evaluation/model_figures.py
    "cas": "classifier accuracy score: a classifier trained on samples alone, tested on real held-out images",
    "cas_of_real_images": "the same, trained on as many real training images: the ceiling",
    "data_copying": "C_T: below -3, samples lie nearer to the training images than held-out images do",
    "authenticity": "share of samples farther from their nearest training image than that is from its own neighbour",
    "authenticity_of_held_out": "the same share of real held-out images",
    "bits_per_dim": "probability flow, Hutchinson's estimate, uniform dequantisation; protocol in report.json",
}


def provenance(config: Mapping, folder: pathlib.Path, command: str) -> dict:
    """What made the samples and this report.

    Args:
        config: the run's config.
        folder: the run folder; its samples.json says how the samples were made.
        command: how the evaluation was started.

    Returns:
        {"sampling", "config_hash", "git_commit", "versions", "device", "commands"}; values that are not known are None.
    """
    try:
        sampling = limits.read_json(folder / "samples.json")
    except (FileNotFoundError, limits.Refused):  # samples from elsewhere: config.json is the best there is
        sampling = {
            "sample": configs.plain(config["sample"]),
            "nfe": None,
            "checkpoint": None,
            "note": "no samples.json: the settings are those of config.json",
        }
    return {
        "sampling": sampling,
        "config_hash": configs.digest(config),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "device": jax.devices()[0].device_kind,
        "commands": {"sample": sampling.get("command"), "evaluate": command},
    }


def git_commit() -> str | None:
    """The commit of this code, with "-dirty" where files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def plain(value: Any) -> Any:
    """Nested mappings, sequences and numpy numbers as what JSON holds."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def write(content: dict, folder: pathlib.Path) -> None:
    """Writes report.json and report.md, each whole or not at all.

    Args:
        content: {"figures", "protocol"}, as `experiments.evaluate.run` makes it.
        folder: the run folder.
    """
    write_text(folder / "report.json", json.dumps(content, indent=2) + "\n")
    write_text(folder / "report.md", markdown(content, folder))


def table(content: dict) -> list[tuple[str, str, str, str]]:
    """The figures as text: (what, of the samples, the reference beside it, how it was measured)."""
    measured = content["figures"]
    protocol = content["protocol"]
    data = protocol["dataset"]
    distance = protocol["distance"]
    split = data["split"]
    lines = []
    asked = measured["asked_class"]
    if asked:
        lines.append(
            (
                "asked class recognised",
                f"{asked['share']:.1%} ({_percent(asked['interval'])})",
                f"{asked['real']['share']:.1%} of real {split} images",
                f"{asked['count']:,} samples; classifier trained on the {data['train_size']:,} real "
                f"{data['train_split']} images alone (sha256 {asked['classifier_sha256'][:12]}); "
                "Wilson's 95 % interval",
            )
        )
    for name, figure in measured["frechet"].items():
        floor = figure["floor"]
        every = figure["all_samples"]
        interval = f" ({_range(figure['interval'])})" if figure["interval"] else ""
        ratio = " ({:.2f} to {:.2f})".format(*figure["ratio_interval"]) if figure["ratio_interval"] else ""
        weights = figure["extractor"]["sha256"]
        lines.append(
            (
                f"Frechet distance ({name})",
                f"{figure['distance']:.3g}{interval}",
                f"floor {floor['mean']:.3g} ± {floor['std']:.2g}; noise {figure['noise']:.3g}",
                f"N = {distance['N']:,} against all {data['split_size']:,} {split} images; {figure['dimensions']}"
                f" features{f' (sha256 {weights[:12]})' if weights else ''}; {figure['effort']['draws']} resamples, "
                f"{figure['effort']['subsets']} subsets",
            )
        )
        lines.append(
            (
                "… times the floor",
                f"{figure['ratio']:.2f}{ratio}",
                f"1; noise {figure['noise'] / floor['mean']:.0f}",
                f"mean over {figure['effort']['subsets']} random subsets of all samples: {every['ratio']:.2f} ± "
                f"{every['std'] / floor['mean']:.2f}",
            )
        )
    near = measured["neighbours"]
    medians = {name: near[name]["quantiles"]["0.5"] for name in ("samples", "held_out")}
    lines.append(
        (
            "nearest training image, median",
            f"{medians['samples']:.3g}",
            f"{medians['held_out']:.3g} from real {split} images",
            f"Euclidean, pixels in [0, 1]; {near['samples']['count']:,} samples, "
            f"{near['held_out']['count']:,} held out",
        )
    )
    share = near["share_below_held_out_percentile"]
    lines.append(
        (
            "… nearer than 1 % / 5 % of held-out images",
            f"{share['1']:.1%} / {share['5']:.1%}",
            "1 % / 5 % without copying",
            "share of samples below those quantiles of the held-out distances",
        )
    )
    lines.append(
        (
            "… exact copies",
            f"{near['samples']['exact_duplicates']}",
            f"{near['held_out']['exact_duplicates']} of the held-out images",
            f"the same bytes as one of the {data['train_size']:,} training images",
        )
    )
    if found := content.get("model"):
        lines += [(name, value, of, MODEL_FIGURES.get(name, "")) for name, value, of in figure_rows(found)]
    if found := content.get("inception"):
        from_record = f"Inception, protocol {found['protocol']}, against {found['reference']}; {found['record']}"
        lines += [(name, value, of, from_record) for name, value, of in figure_rows(found["figures"])]
    return lines


def figure_rows(figures: Mapping) -> list[tuple[str, str, str]]:
    """Figures of `experiments.evaluation.score` as text: (name, value with its error, of how many)."""
    lines = []
    for name, figure in figures.items():
        if figure["value"] is None:
            lines.append((name, "—", figure.get("why", "value not measured")))
            continue
        value = f"{figure['value']:.5g}"
        if figure.get("standard_error") is not None:
            value += f" ± {figure['standard_error']:.2g}"
        elif figure.get("standard_deviation") is not None:
            value += f" (sd {figure['standard_deviation']:.2g})"
        elif figure.get("interval") is not None:
            value += " ({:.3g} to {:.3g})".format(*figure["interval"])
        against = f" against {figure['reference']:,}" if figure.get("reference") else ""
        size = f", subsets of {figure['size']:,}" if "size" in figure else ""
        space = f", {figure['space']}" if figure.get("space") else ""
        lines.append((name, value, f"{figure['samples']:,} samples{against}{size}{space}"))
    return lines


def markdown(content: dict, folder: pathlib.Path) -> str:
    """The report as Markdown; pictures that are in the folder are embedded by relative links."""
    measured = content["figures"]
    protocol = content["protocol"]
    data = protocol["dataset"]
    distance = protocol["distance"]
    sampling = protocol["sampling"]
    parts = [f"# Report: {data['name']}", "", "| | samples | reference | measured |", "|---|---|---|---|"]
    parts += [f"| {what} | **{value}** | {beside} | {how} |" for what, value, beside, how in table(content)]
    parts.append("")
    for picture, words in PICTURES.items():
        if (folder / picture).is_file():
            parts += [f"![{words}]({picture})", f"*{words}.*", ""]
    unbalanced = {
        name: figure["floor"]["unbalanced_mean"]
        for name, figure in measured["frechet"].items()
        if figure["floor"]["unbalanced_mean"] is not None
    }
    parts += [
        "## How to read the figures",
        "",
        f"- **Distance**: squared Frechet distance between Gaussian fits, in float64 with unbiased covariances; "
        f"N = {distance['N']:,}: {distance['selection']}. Lower is better, and never 0: it depends on N.",
        "- **Floor**: the same distance for N real training images; mean and standard deviation over random subsets"
        + (
            ", with every class as often as any other, as the samples have them. Without that balance it is higher: "
            + ", ".join(f"{value:.3g} ({name})" for name, value in unbalanced.items())
            if unbalanced
            else ""
        )
        + ".",
        "- **Noise**: the same distance for N images of uniform random bytes.",
        "- **Intervals** (95 %) of distances are percentile bootstrap intervals over the samples, class by class, the "
        "real images held fixed, shifted by the bias of resampling with replacement. They do not hold the variation "
        "between training runs, nor that of the floor.",
    ]
    if "classifier" in measured["frechet"]:
        parts.append(
            "- **Classifier features** come from a network that was trained on the training images. It is surer of "
            "those than of new images, which raises this floor: a ratio below 1 is possible there."
        )
    parts += [f"- **Inception**: {text}" for text in content.get("inception", {}).get("warnings", ())]
    parts += ["", "## Protocol", "", "| | |", "|---|---|"]
    settings = sampling.get("sample") or {}
    point = sampling.get("checkpoint") or {}
    guidance = settings.get("guidance") or {}
    rows = {
        "data": f"{data['name']} {data['version']}: {data['train_split']} ({data['train_size']:,}), "
        f"{data['split']} ({data['split_size']:,})",
        "weights": f"{point['weights']} of step {point['step']}" if point else "not recorded",
        "sampler": f"{_entry(settings.get('sampler'))}, grid {_entry(settings.get('grid'))}, shift "
        f"{settings.get('shift')}, {settings.get('steps')} steps, {sampling.get('nfe')} network evaluations",
        "guidance": f"scale {guidance.get('scale')}, interval {guidance.get('interval')}",
        "samples": f"{protocol['samples']['number']:,}, seed {settings.get('seed')}, sha256 "
        f"{protocol['samples']['sha256'][:12]}, bytes {protocol['samples']['rounding']}",
        "evaluation": f"seed {distance['seed']}",
        "config": f"{protocol['config_hash']} (config.json); of the samples {sampling.get('config')}",
        "code": f"commit {protocol['git_commit']}; "
        + ", ".join(f"{name} {version}" for name, version in protocol["versions"].items()),
        "device": protocol["device"],
    }
    if "note" in sampling:
        rows["note"] = sampling["note"]
    parts += [f"| {name} | {value} |" for name, value in rows.items()]
    commands = [command for command in protocol["commands"].values() if command]
    parts += ["", "Commands:", "", "```", *commands, "```", "", "Every number in full: [report.json](report.json).", ""]
    return "\n".join(parts)


def show(
    content: dict, folder: str | pathlib.Path, console: Console | None = None, run: str | pathlib.Path = ""
) -> None:
    """Prints the figures, where to look, and what to try next.

    Args:
        content: as in `write`.
        folder: of the report.
        console: where to; standard output by default.
        run: the run folder, where it is another.
    """
    console = console or Console(highlight=False)
    folder = pathlib.Path(folder)
    run = pathlib.Path(run or folder)
    data = content["protocol"]["dataset"]
    shown = Table(title=f"{folder}: {data['name']}, samples against real images", title_justify="left")
    shown.add_column("")
    shown.add_column("samples", style="bold")
    shown.add_column("reference")
    for what, value, beside, _ in table(content):
        shown.add_row(what, value, beside)
    console.print(shown)
    pictures = [name for name in PICTURES if (folder / name).is_file()]
    say = lambda text: console.print(text, markup=False, soft_wrap=True)
    for text in content.get("inception", {}).get("warnings", ()):
        say(f"note: {text}")
    say("Look at:")
    say(f"  {folder / 'report.md'}  (figures and how they were measured)")
    for name in pictures:
        say(f"  {folder / name}")
    say("Try next:")
    settings = content["protocol"]["sampling"].get("sample") or {}
    steps = settings.get("steps")
    if measured_classes := content["figures"]["asked_class"]:
        some = ",".join(list(measured_classes["by_class"])[3:9:5])
        guided = "--config.sample.guidance.scale=3", f"--out={run / 'guided'}"
        say(f"  {configs.printed('sample', f'--workdir={run}', f'--labels={some}', *guided)}")
    if steps:
        fast = f"--config.sample.steps={max(1, steps // 4)}", f"--out={run / 'fast'}"
        say(f"  {configs.printed('sample', f'--workdir={run}', *fast)}   (fewer steps)")
    say("  python -m experiments.train --help   (other recipes: configs/)")


def version(name: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _entry(spec):
    if not isinstance(spec, Mapping):
        return str(spec)
    arguments = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "name")
    return f"{spec.get('name')}({arguments})"


def _range(interval):
    return f"{interval[0]:.3g} to {interval[1]:.3g}"


def _percent(interval):
    return f"{interval[0]:.1%} to {interval[1]:.1%}"
