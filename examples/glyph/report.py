"""Compares ways to finetune the model of `examples.text` on five pictures of a glyph: a table, and pictures.

    python -m examples.glyph.pictures --out=runs/glyph/pictures
    diffusion train --config=tuning/glyph:textual_inversion --workdir=runs/glyph/textual_inversion
    diffusion train --config=tuning/glyph:lora --workdir=runs/glyph/lora
    diffusion train --config=tuning/glyph:dreambooth --workdir=runs/glyph/dreambooth
    python -m examples.glyph.report --model=runs/text/model --out=runs/glyph/report \\
        --runs=runs/glyph/textual_inversion,runs/glyph/lora,runs/glyph/dreambooth

The judge of `examples.text` is trained separately from the model (once, which takes minutes). It decides whether
pictures of prompts with the glyph show the glyph and the other requested properties. Captions without the glyph, from
the same noise, show the side effects. The first row is the model before finetuning. The last rows are real pictures;
real pictures after the autoencoder are an upper bound for the model. The command writes report.json, report.md and
glyph.png.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", None, "folder of the model before finetuning, with model_index.json")
    flags.DEFINE_list("runs", None, "folders of the finetuning runs, separated by commas")
    flags.DEFINE_string("out", None, "folder for the report")
    flags.DEFINE_integer("number", 1000, "number of prompts with the glyph, and of captions without it", lower_bound=8)
    flags.DEFINE_integer("batch_size", 50, "number of pictures at once", lower_bound=1)
    flags.mark_flags_as_required(["model", "runs", "out"])
    command_line.begin()

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion import text_to_image
from diffusion.data import shapes
from diffusion.data.shapes.scenes import Scene
from diffusion.experiments.evaluation import report
from diffusion.experiments.evaluation.figures import training_minutes
from diffusion.experiments.run import tuned_files
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import tuned_run
from diffusion.experiments.text import model as model_folder
from diffusion.metrics import attribute_reader
from diffusion.recipe import ConfigError
from diffusion.recipe.parts import Resolver
from diffusion.text_to_image import TextToImage, model_index
from examples.glyph import glyph, glyph_metrics, report_pictures
from examples.text import edits, judge

SHOWN = (
    Scene("one", "plain", "cyan", glyph.NAME, "large", "top right"),
    Scene("one", "plain", "pink", glyph.NAME, "medium", "left"),
    Scene(
        "pair", "plain", "yellow", glyph.NAME, count=2, relation="above", second_colour="blue", second_shape="square"
    ),
    Scene("pair", "plain", "green", "star", count=2, relation="left of", second_colour="red", second_shape=glyph.NAME),
    Scene("one", "neon", "orange", glyph.NAME, "large", "middle"),
    Scene("one", "plain", "purple", "star", "large", "middle"),
)
"""The prompts of the figure: colours, places, neighbours and a style that are not in the five pictures, and a star."""
HEADER = (
    "",
    "pictures with the glyph",
    "templates: each shape overlaps most with its own",
    "templates: overlaps above 0.85",
    "attributes right, without shapes",
    "pictures with both",
    "attributes right of other captions",
    "their change, of 255",
    "minutes of training",
    "bytes",
)
SHARES = ("subject", "best", "whole", "prompt", "pictures")


class Taught(NamedTuple):
    """A model, and the word for the glyph in its prompts.

    Attributes:
        name: the name of its row, which is the folder of its run.
        model: the model.
        word: the word in prompts.
        costs: {"minutes" of training, "bytes" of the new weights}; {} for the base.
    """

    name: str
    model: TextToImage
    word: str = glyph.NAME
    costs: Mapping[str, float] = {}


def tuned(run: pathlib.Path) -> Taught:
    """The model that a run has tuned.

    Raises:
        ConfigError: for a run that tunes nothing.
    """
    config: Any = workdir.read_config(run)
    if not tuned_run.base_of(run):
        raise ConfigError(f"--runs: {run} is a run that tunes no model. Valid: runs of the recipe tuning/glyph.")
    word = config["tuning"].get("word", glyph.NAME)
    recipe: Any = Resolver(config).tuned
    costs = {"minutes": training_minutes(run), "bytes": weight(run, recipe.tuning.replaces)}
    return Taught(run.name.replace("_", " "), tuned_run.load(run)[0], word, costs)


def weight(run: pathlib.Path, replaced: Sequence[str]) -> int:
    """The bytes of the weights that a run has trained: of its file, or of the networks that it `replaced`."""
    folder = run / tuned_files.FOLDER
    folders = [folder / part for part in replaced] or [folder]
    return sum(path.stat().st_size for place in folders for path in place.glob("*.safetensors"))


def run(taught: Sequence[Taught], out: pathlib.Path, number: int, batch_size: int, protocol: Mapping[str, Any]) -> dict:
    """Measures models and writes the report; returns the content of report.json.

    Args:
        taught: the models, the base first.
        out: the folder of the report, made if missing.
        number: the number of prompts with the glyph, and of captions without it.
        batch_size: pictures at once.
        protocol: the entries of the protocol that describe the models.

    Raises:
        ConfigError: if two models have one name, or the model's pictures have another size than the shapes.
    """
    names = [tuning.name for tuning in taught]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f"two rows have the name {twice[0]!r}, that of the run's folder. Valid: other folders' names."
        )
    judge.check_side("--model", taught[0].model.side)
    out.mkdir(parents=True, exist_ok=True)
    reader = judge.reader()
    requested = glyph.requested(number)
    known = glyph_metrics.galleries(reader, requested)
    real = np.stack([glyph.picture(scene, glyph_metrics.CALIBRATION, i) for i, scene in enumerate(requested)])
    factor = glyph_metrics.refusal(attribute_reader.features(reader, real), known)
    captions = [shapes.example("test", i)[1] for i in range(number)]
    rows = {}
    tiles = []
    before = None
    for tuning in taught:
        print(f"pictures of {tuning.name}", flush=True)
        make = maker(tuning, batch_size)
        others = make(captions, range(number))
        before = others if before is None else before
        rows[tuning.name] = {
            **glyph_metrics.fidelity(reader, requested, make(requested, range(number)), known, factor),
            "drift": glyph_metrics.drift(reader, captions, before, others),
            **tuning.costs,
        }
        tiles.append(make(SHOWN, range(len(SHOWN))))
    report_pictures.draw(
        [glyph.picture(scene, 0, i) for i, scene in enumerate(glyph.TAUGHT)],
        [glyph.word(scene) for scene in glyph.TAUGHT],
        tiles,
        [tuning.name for tuning in taught],
        [glyph.word(scene) for scene in SHOWN],
        out / "glyph.png",
    )
    coded = functools.partial(edits.through_autoencoder, taught[0].model)
    real = glyph_metrics.real_figures(reader, requested, known, coded, factor)
    figures = {"models": rows, "real": real}
    settings = {"prompts": number, "captions": number, "seeds": "0..", "judge": judge.name()}
    content = {"figures": figures, "protocol": {**protocol, **settings, **report.software()}}
    return report.write(out, content, markdown)


def maker(taught: Taught, batch_size: int) -> Callable[[Sequence[Scene | str], Sequence[int]], np.ndarray]:
    """A function that makes pictures of scenes or captions with a model's default steps and guidance."""

    def make(requested: Sequence[Scene | str], seeds: Sequence[int]) -> np.ndarray:
        prompts = [one if isinstance(one, str) else glyph.word(one, taught.word) for one in requested]
        return text_to_image.generate(taught.model, prompts, seeds=list(seeds), batch_size=batch_size)

    return make


def table(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows of the report, in the columns of `HEADER`."""
    rows = []
    for name, row in figures["models"].items():
        drift = row["drift"]
        rows.append(
            (
                name,
                *(report.percent(row[key]) for key in SHARES),
                report.percent(drift["attributes"]),
                f"{drift['difference']:.2f}",
                f"{row['minutes']:.1f}" if "minutes" in row else "—",
                f"{row['bytes']:,}" if "bytes" in row else "—",
            )
        )
    for name, row in (("real pictures, by the autoencoder", "coded"), ("real pictures", "right")):
        shares = figures["real"][row]
        rows.append((name, *(report.percent(shares[key]) for key in SHARES), *["—"] * 4))
    return rows


def markdown(content: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    figures = content["figures"]
    parts = [
        "# A glyph from five pictures",
        report.table(HEADER, table(figures)),
        "![The five training pictures, and pictures of each model for the same prompts and noise](glyph.png)",
        f"The retriever mistakes {report.percent(figures['real']['mistaken'])} of real pictures of other shapes, and "
        f"{report.percent(figures['real']['spoilt'])} of corrupted glyphs, for the glyph.",
        report.protocol(content["protocol"]),
    ]
    return report.page(parts)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    base = pathlib.Path(values.model)
    taught = [Taught("no tuning", model_folder.load(base)), *(tuned(pathlib.Path(run)) for run in values.runs)]
    protocol = {"model": str(base), "checkpoint": model_index.fingerprint(base), "runs": ", ".join(values.runs)}
    content = run(taught, pathlib.Path(values.out), values.number, values.batch_size, protocol)
    report.show("A glyph from five pictures", HEADER, table(content["figures"]))
    print(f"{pathlib.Path(values.out) / 'report.md'}")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
