"""Shows techniques that steer or change a text-to-image model, each with a row of pictures and a score.

    python -m examples.techniques.report --out=runs/techniques
    python -m examples.techniques.report --out=runs/techniques --only=slider --runs=slider=runs/concepts/slider

Each row shows pictures without and with the technique, from the same noise. They are generated through the same
requests and files that users have. The scores need no network: each picture is compared with drawn templates
(`examples.text.drawn_objects`). Without --runs, the command makes the rows that need no training. With --only it makes
only some rows, and keeps the other rows in --out. It writes NAME.png for each row, report.json and report.md.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", "drawings", "folder of the model, or the name of a model that ships with the package")
    flags.DEFINE_list("runs", [], "runs of the techniques that need training, as NAME=FOLDER, separated by commas")
    flags.DEFINE_list("only", [], "names of the rows to make; by default all that need no training or have a run")
    flags.DEFINE_string("out", None, "folder for the report", required=True)
    flags.DEFINE_integer("number", 32, "number of pictures per score, a multiple of 4", lower_bound=8)
    command_line.require_multiple("number", 4)
    flags.register_validator(
        "runs", lambda runs: all("=" in run for run in runs), "Valid: NAME=FOLDER, e.g. slider=runs/concepts/slider."
    )
    command_line.begin()

import functools
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion import text_to_image
from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.text import model as model_folder
from diffusion.io import json_files, opener
from diffusion.recipe import ConfigError, unknown
from diffusion.text_to_image import model_index
from examples.techniques import steered, taught
from examples.techniques.row import Row

SHOWN = 8  # pictures in a line
WRAPPED = 9  # letters of a caption in a line, as wide as a picture
WITHOUT_A_ROW = (
    "InstructPix2Pix and T2I-Adapter have no row: both change the U-Net of Stable Diffusion "
    "([instructions](../../tuning.md#edits-by-instructions), [adapters](../../control.md#train-one)), but the network "
    "of this model is a transformer. For this model, [image to image](../text/report.md) changes a picture by a "
    "prompt, and a ControlNet follows a drawing."
)
ENTRIES = ("title", "page", "commands", "look", "figures")  # of a row, in report.json


def makers(
    model: text_to_image.TextToImage, runs: Mapping[str, pathlib.Path], only: Sequence[str] = ()
) -> dict[str, Callable[[int], Row]]:
    """The functions (number of pictures) -> row of all rows that can be made, or of some of them.

    Args:
        model: the model.
        runs: the run folder of each technique of `taught.ROWS` that is shown.
        only: names of rows; () for all.

    Raises:
        ConfigError: for a name that no row has, or a row that needs a run.
    """
    for name in runs:
        if name not in taught.ROWS:
            raise unknown("--runs", name, taught.ROWS, "technique that trains")
    functions = {name: functools.partial(row, model) for name, row in steered.ROWS.items()}
    functions |= {name: functools.partial(taught.ROWS[name], model, run) for name, run in runs.items()}
    for name in only:
        if name in taught.ROWS and name not in runs:
            raise ConfigError(f"--only={name} needs a run. Valid: --runs={name}=FOLDER with the folder of its run.")
        if name not in functions:
            raise unknown("--only", name, functions, "row")
    return {name: row for name, row in functions.items() if not only or name in only}


def run(
    rows: Mapping[str, Callable[[int], Row]], out: pathlib.Path, number: int, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Makes rows, and writes their pictures and the report with the rows that are there already; returns its content.

    Args:
        rows: the rows' functions by their names, from `makers`.
        out: the folder of the report, made if missing.
        number: how many pictures each figure has.
        description: entries of the protocol that describe the model.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.json"
    content = opener.read_table(path) if path.is_file() else {"rows": {}}
    for name, make in rows.items():
        row = make(number)
        draw(row, out / f"{name}.png")
        protocol = {**description, "number": number, **report.software()}
        content["rows"][name] = json_files.plain(
            {entry: getattr(row, entry) for entry in ENTRIES} | {"protocol": protocol}
        )
        content["rows"] = {one: content["rows"][one] for one in order(content["rows"])}
        report.write(out, content, markdown)
        print(name, *figures(content["rows"][name]), sep="\n  ", flush=True)
    return content


def order(names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The names of rows as the table has them."""
    return [name for name in (*steered.ROWS, *taught.ROWS) if name in names]


def draw(row: Row, path: pathlib.Path) -> None:
    """Writes the PNG of a row: its lines below each other, the prompts above."""
    columns = [textwrap.fill(caption, WRAPPED) for caption in row.captions[:SHOWN]]
    lines = [np.asarray(line[:SHOWN]) for line in row.pictures.values()]
    plots.mosaic([lines], [f"{name} " for name in row.pictures], [columns], path)


def figures(row: Mapping[str, Any]) -> list[str]:
    """The figures of a row as text: what is measured, and each line's share with its interval."""
    return [
        f"{what}: " + ", ".join(f"{name} {_percent(share)}" for name, share in lines.items())
        for what, lines in row["figures"].items()
    ]


def _percent(share: Mapping[str, Any]) -> str:
    low, high = share["interval"]
    return f"**{share['share']:.0%}** ({100 * low:.0f} to {100 * high:.0f})"


def markdown(content: Mapping[str, Any]) -> str:
    """The page: one table with a row for each technique, the commands below it, and the protocol of each row."""
    rows = content["rows"]
    table = [
        (
            f"[{row['title']}]({row['page']})<br>{row['look']}<br><br>{'<br>'.join(figures(row))}",
            f"![{row['title']}: the same noise without it and with it]({name}.png)",
        )
        for name, row in rows.items()
    ]
    commands = [f"# {row['title']}\n" + "\n".join(row["commands"]) for row in rows.values()]
    protocol = [
        (
            row["title"],
            f"{row['protocol']['model']} {row['protocol']['checkpoint'][:8]}",
            *(row["protocol"][name] for name in ("number", "git_commit", "device")),
        )
        for row in rows.values()
    ]
    parts = [
        "# Techniques, with one row of pictures each",
        "Each row shows pictures without and with a technique, for the same prompts and the same noise. The scores are "
        "shares of pictures with 95 % intervals, by [drawn templates](../../../examples/text/drawn_objects.py), "
        "without a network.",
        report.table(("technique, what to look at, and figures", "pictures"), table),
        WITHOUT_A_ROW,
        "## Commands",
        "```sh\n" + "\n\n".join(commands) + "\n```",
        "## Protocol",
        report.table(("row", "model, its digest", "pictures of each figure", "commit", "device"), protocol),
    ]
    return report.page(parts)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    runs = {name: pathlib.Path(folder) for name, _, folder in (text.partition("=") for text in values.runs)}
    folder = model_folder.folder_of(values.model)
    rows = makers(model_folder.load(folder), runs, values.only)
    description = {"model": str(values.model), "checkpoint": model_index.fingerprint(folder)}
    run(rows, pathlib.Path(values.out), values.number, description)


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
