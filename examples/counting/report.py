"""Compares counting before and after each method, with its evaluations, by measures that were not used in training.

    python -m examples.counting.report --out=runs/counting/report \\
        --runs=nft=runs/counting/nft,policy_gradient=runs/counting/policy_gradient

The rows are the base model with its default guidance and with the guidance of the trainings, the best of several
pictures of the base model as chosen by the rewarding judge, and each run. A run that trained all weights is also
measured with the default guidance of the base model. All rows use the same captions and the same noise. The command
writes pictures.png, report.json and report.md. It keeps the pictures of each row in OUT/pictures, so the same command
continues after an interruption. Pictures of other captions or weights are made again.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string(
        "model", "drawings", "folder of the base model, or the name of a model that ships with the package"
    )
    flags.DEFINE_list("runs", [], "runs of examples/counting/recipe.py, as NAME=FOLDER, separated by commas")
    flags.DEFINE_string("out", None, "folder for the report", required=True)
    flags.DEFINE_float("share", 1.0, "share of the captions of each kind to use", lower_bound=0.02, upper_bound=1)
    flags.DEFINE_list("best_of", ["2", "4"], "numbers of candidates for best of N with the base model")
    command_line.require_counts("best_of", least=0)
    command_line.begin()

import hashlib
import json
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffusion import text_to_image
from diffusion.data.shapes import scenes
from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.run import tuned_files
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.text import model as model_folder
from diffusion.io import json_files, npz, opener
from diffusion.metrics.attribute_reader import Reader
from diffusion.recipe import ConfigError
from diffusion.text_to_image import TextToImage, model_index
from examples.counting import judges, measures, own_samples, rewards

LORA = "tuning/pytorch_lora_weights.safetensors"
MODEL = "tuning/model_index.json"  # the file that a run of all weights writes, which saves a complete model
GUIDED, PLAIN = "base, guidance 2", "base"
SHOWN = 8  # pictures of a row
WRAPPED = 9  # letters of a caption in a line
APART = 10_000_000  # difference between the seeds of two candidates for one picture
TRAINED = {
    "rejection": "Rejection sampling, own accepted samples",
    "preferences": "Diffusion-DPO, own pairs",
    "preferences_2": "Diffusion-DPO, a second round",
    "policy_gradient_long": "Flow-GRPO, longer",
    "policy_gradient": "Flow-GRPO",
    "nft": "DiffusionNFT",
    "reward_backpropagation": "Reward backpropagation (DRaFT)",
    "drawings": "Real drawings, all weights",
    "drawings_lora": "Real drawings, a LoRA",
    "drawings_long": "Real drawings, all weights, longer",
}
HOW_TO_READ = (
    "- **Counting**: the share of captions of two to five objects for which the number of objects is right: by "
    "connected components, without a network; by the judge that was not used in training; and by the rewarding judge. "
    "The gap is the last number minus the number before. Intervals are Wilson's 95 % intervals, "
    "for as many independent pictures as have the same error, since the pictures of one caption are correlated.\n"
    "- **Shape, colour, relation, word**: the share among all captions that request the property, without a network, "
    "as in [the text report](../drawings/report.md).\n"
    "- **Frechet distance**: to real drawings with the same captions, in the features of the judge that was not used "
    "in training, as a multiple of the distance in the row `base`. **Variety**: the mean distance in these features "
    "between pictures of one caption, as a share of that between real drawings.\n"
    "- **Evaluations**: of the denoiser. An evaluation with its gradient counts as three; the text encoder, the "
    "autoencoder and the judges are not counted."
)


def evaluations(config: Mapping[str, Any], samples: int = 0) -> int:
    """The evaluations of the denoiser in a training; an evaluation with its gradient counts as three.

    Args:
        config: the config of the run.
        samples: the evaluations that drew the pictures on which the run trains.

    Raises:
        ConfigError: if the objective is none of this folder's recipe.
    """
    steps, rows, grid = config["train"]["steps"], config["train"]["batch_size"], config["sample"]["steps"]
    objective = config["objective"]
    match objective["name"]:
        case "diffusion_nft":  # the samples, the model with its gradient, the old model, and perhaps a reference
            per_example = grid + 3 + 1 + (objective.get("divergence", 0) > 0)
        case "policy_gradient":
            per_example = grid + grid * (3 + (objective.get("beta", 0) > 0))
        case "reward_backpropagation":
            per_example = grid + 2 * objective["last"]
        case "denoising":
            return steps * rows * 3 + samples
        case "diffusion_dpo":  # the model and the reference, on both pictures
            return steps * rows * (6 + 2) + samples
        case name:
            raise ConfigError(f"config.objective.name = {name!r} is none of this folder's recipe. Valid: its presets")
    return steps * rows * per_example


def evaluations_of_run(folder: pathlib.Path) -> int:
    """The evaluations of a run, with those of the pictures on which it trains and of the run from which it starts."""
    config = opener.read_table(folder / "config.json")
    source = config["data"]["source"]
    first = source["of"][0] if "of" in source else source
    drawn = pathlib.Path(first.get("path", folder)).parent / own_samples.DRAWN
    sampling = opener.read_table(drawn) if drawn.is_file() else {"drawn": 0, "steps": 0}
    before = config["init_from"]["path"]
    here = evaluations(config, sampling["drawn"] * sampling["steps"])
    return here + (evaluations_of_run(pathlib.Path(before)) if before else 0)


def best_of(model: TextToImage, number: int, rewarding: Reader, **how: Any) -> measures.Make:
    """A function that makes several pictures of a model for each seed, and returns the best by the rewarding judge.

    Args:
        model: the model.
        number: the number of candidates; the first one has the noise of the other rows.
        rewarding: the rewarding judge.
        **how: arguments of `text_to_image.generate`, such as guidance.
    """
    make = measures.make(model, **how)

    def best(texts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        candidates, values = [], []
        for k in range(number):
            candidates.append(make(texts, [seed + k * APART for seed in seeds]))
            values.append(rewards.log_probabilities(rewarding, candidates[-1], texts))
        return np.stack(candidates)[np.argmax(values, 0), np.arange(len(texts))]

    return best


def makers(
    model: TextToImage, runs: Mapping[str, pathlib.Path], rewarding: Reader, numbers: Sequence[int]
) -> dict[str, tuple[measures.Make, int, int]]:
    """The rows of the report: {row: (function that makes pictures, evaluations of its training, of a picture)}.

    Args:
        model: the base model.
        runs: {name: folder of the run}.
        rewarding: the rewarding judge.
        numbers: the numbers of candidates, one for each row.

    Raises:
        ConfigError: if a run has neither a LoRA nor a model.
    """
    plain = {"guidance": 1.0, "steps": measures.STEPS}
    rows = {
        GUIDED: (measures.make(model), 0, 2 * model.usual.steps),
        PLAIN: (measures.make(model, **plain), 0, measures.STEPS),
    }
    for number in numbers:
        rows[f"best of {number}"] = (best_of(model, number, rewarding, **plain), 0, number * measures.STEPS)
    for name, folder in runs.items():
        lora_file, index_file = folder / LORA, folder / MODEL
        if not lora_file.is_file() and not index_file.is_file():
            raise ConfigError(
                f"--runs={name}={folder}: it has no {LORA}, nor {MODEL}. Valid: a run of this folder's recipe"
            )
        training = evaluations_of_run(folder)
        if lora_file.is_file():
            tuned = text_to_image.with_loras(model, {lora_file: 1.0})
        else:
            tuned = model_folder.load(index_file.parent)
            rows[GUIDED.replace(PLAIN, name)] = (measures.make(tuned), training, 2 * tuned.usual.steps)
        rows[name] = (measures.make(tuned, **plain), training, measures.STEPS)
    return rows


def run(
    rows: Mapping[str, tuple[measures.Make, int, int]],
    out: pathlib.Path,
    texts: Sequence[str],
    read: Callable[[Sequence[str], np.ndarray], Mapping[str, Any]],
    description: Mapping[str, Any],
) -> dict[str, Any]:
    """Makes and measures the pictures of each row, and writes the report; returns its content.

    Args:
        rows: {row: (function that makes pictures, evaluations of its training, evaluations of a picture)}.
        out: the folder of the report, made if missing.
        texts: the captions; each has `measures.SEEDS` pictures.
        read: a function (caption of each picture, pictures) -> figures, as `measures.measured` returns them.
        description: entries of the protocol that describe the model and the judges; "runs" has the digest of each
            run's weights by its name.
    """
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    repeated = [text for text in texts for _ in range(measures.SEEDS)]
    seeds = range(measures.FIRST_SEED, measures.FIRST_SEED + len(repeated))
    content: dict[str, Any] = {"rows": {}, "protocol": {**description, "captions": len(texts), **report.software()}}
    shown = {}
    for name, (make, training, picture) in rows.items():
        path = out / "pictures" / f"{name}.npz"
        weights = {**description, "runs": description.get("runs", {}).get(name.partition(", ")[0])}
        digest = hashlib.sha256(json.dumps([repeated, picture, weights], sort_keys=True).encode()).digest()
        stored = npz.load(path, ["pictures", "digest"]) if path.is_file() else {}
        if "digest" not in stored or stored["digest"].tobytes() != digest:
            stored = {"pictures": make(repeated, seeds), "digest": np.frombuffer(digest, np.uint8)}
            np.savez_compressed(path, **stored)
        shown[name] = stored["pictures"]
        figures = read(repeated, shown[name])
        content["rows"][name] = {"training": training, "picture": picture, **figures}
        print(name, {by: f"{share['share']:.1%}" for by, share in figures["count"].items()}, flush=True)
        report.write(out, content, markdown)
    draw(repeated, shown, out / "pictures.png")
    return json_files.plain(content)


def draw(texts: Sequence[str], shown: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
    """Draws pictures of captions of several objects, a line for each row of the report, from the same noise.

    Args:
        texts: the caption of each picture.
        shown: {row: its pictures}.
        path: the PNG file to write.
    """
    several = [i for i, text in enumerate(texts) if scenes.parsed(text).kind == "several"][:: measures.SEEDS][:SHOWN]
    columns = [textwrap.fill(texts[i], WRAPPED) for i in several]
    rows = [pictures[several] for pictures in shown.values()]
    plots.mosaic([rows], [f"{title(name)} " for name in shown], [columns], path)


def title(name: str) -> str:
    """The name of a row in the table."""
    method, comma, guidance = name.partition(", ")
    return TRAINED.get(method, method[:1].upper() + method[1:]) + comma + guidance


def markdown(content: Mapping[str, Any]) -> str:
    """The page: the table, the pictures, how to read the figures, and the protocol."""
    rows = content["rows"]
    before = rows.get(PLAIN)
    counting, others = [], []
    for name, row in rows.items():
        count, templates = row["count"], row["templates"]
        counting.append(
            (
                title(name),
                f"{row['training']:,}" if row["training"] else "",
                f"{row['picture']:,}",
                f"**{count['templates']['share']:.0%}**{report.span(_percents(count['templates']))}",
                f"{count['measuring']['share']:.0%}{report.span(_percents(count['measuring']))}",
                f"{count['rewarding']['share']:.0%}",
                f"{round(100 * row['gap']):+d}",
            )
        )
        parts = ("shape", "colour", "position", "relation", "word")
        share = lambda part, templates=templates: f"{templates[part]['share']:.0%}" if part in templates else ""
        distance = f"{measures.ratio(row, before):.2f}" if before else ""
        others.append((title(name), *map(share, parts), distance, f"{row['variety']:.2f}"))
    parts = [
        "# Counting objects, trained with rewards",
        "The model of drawings is trained on rewards for agreement with captions, most of which request several "
        "objects, or on real drawings with such captions. One judge gives the rewards. The reported figures come from "
        "a count of connected components, without a network, and from a second judge that was not used in training.",
        report.table(
            ("", "evaluations, training", "a picture", "counts, by parts", "other judge", "rewarding judge", "gap"),
            counting,
        ),
        "The other properties, measured without a network, and two figures for complete sets of pictures:",
        report.table(("", "shape", "colour", "place", "relation", "word", "Frechet, times base", "variety"), others),
        "![Pictures of each row of the table, for the same noise and captions](pictures.png)",
        "## How to read the figures",
        HOW_TO_READ,
        report.protocol(content["protocol"]),
    ]
    return report.page(parts)


def _percents(share: Mapping[str, Any]) -> list[float]:
    return [100 * end for end in share["interval"]]


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    runs = {name: pathlib.Path(folder) for name, _, folder in (text.partition("=") for text in values.runs)}
    folder = model_folder.folder_of(values.model)
    model = model_folder.load(folder)
    rewarding, measuring = judges.rewarding(), judges.measuring()
    number = {kind: max(1, round(values.share * count)) for kind, count in measures.CAPTIONS.items()}
    description = {
        "model": str(values.model),
        "checkpoint": model_index.fingerprint(folder),
        "rewarding judge": rewarding.digest,
        "measuring judge": measuring.digest,
        "runs": {name: model_index.fingerprint(run / tuned_files.FOLDER) for name, run in runs.items()},
    }
    read = lambda asked, pictures: measures.measured(asked, pictures, rewarding, measuring)
    rows = makers(model, runs, rewarding, [int(number) for number in values.best_of])
    run(rows, pathlib.Path(values.out), measures.captions(number), read, description)


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
