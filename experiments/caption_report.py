"""Measures by retrieval how well a text-to-image model follows the captions of real pictures, such as emoji.

    diffusion caption_report --model=runs/emoji/model --data="noto_emoji@train[:90%]" \\
        --held_out="noto_emoji@train[90%:]" --out=runs/emoji/report

Two small encoders, one for pictures and one for captions, are trained on --data, independently of the model. They find
the caption that is nearest to a generated picture, among its prompt and 49 other captions drawn at random. The report
compares the share of right captions with chance, with the training pictures of the encoders, and with held-out
pictures. It also lists the Frechet distance in the features of the encoders with its floor, and copies of training
pictures.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", None, "folder of the model, with model_index.json")
    flags.DEFINE_string("data", None, "captions for the prompts and pictures for comparison, as NAME@SPLIT")
    flags.DEFINE_string("held_out", None, "held-out pictures with captions, as NAME@SPLIT")
    flags.DEFINE_string("data_dir", "", "folder of prepared datasets; by default TFDS_DATA_DIR")
    flags.DEFINE_string("out", None, "folder for the report")
    flags.DEFINE_integer("number", 400, "number of pictures to generate", lower_bound=50)
    flags.DEFINE_float("guidance", 2.0, "guidance scale; 1 means no guidance", lower_bound=0)
    flags.DEFINE_integer("steps", 20, "number of sampling steps", lower_bound=1)
    flags.DEFINE_integer("batch_size", 50, "number of pictures at once", lower_bound=1)
    flags.mark_flags_as_required(["model", "data", "held_out", "out"])
    command_line.begin()

import functools
import hashlib
import pathlib

import numpy as np

from diffusion import text_to_image
from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.evaluation.held_out import trained_on
from diffusion.experiments.evaluation.real_images import captioned
from diffusion.experiments.evaluation.sample_metrics import FULL, distance
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.text.model import load
from diffusion.metrics import caption_retrieval, neighbours
from diffusion.metrics.features import Extractor
from diffusion.recipe import ConfigError
from diffusion.text_to_image import model_index
from diffusion.training.runtime import progress

STEPS = 1_500  # training steps of the encoders
SEED = 0  # the seed of the choice of captions
PICTURES = {
    "requested.png": "Requested captions, and the generated pictures; orange: another caption is nearer",
    "real.png": "The real pictures of the same captions",
}


def run(
    model: text_to_image.TextToImage,
    folder: pathlib.Path,
    out: pathlib.Path,
    data: str,
    held_out: str,
    *,
    data_dir: str = "",
    number: int = 400,
    guidance: float = 2.0,
    steps: int = 20,
    batch_size: int = 50,
    train_steps: int = STEPS,
    among: int = 50,
) -> dict:
    """Measures a model, and writes the report.

    Args:
        model: the model.
        folder: the folder of the model, for the record.
        out: the folder for the report.
        data, held_out, data_dir, number, guidance, steps, batch_size: the flags of the command.
        train_steps: the training steps of the encoders.
        among: the number of captions among which the caption of a picture is searched.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: if `held_out` shares pictures with `data`, or the pictures do not have the size of the model's.
    """
    real = captioned(data, data_dir)
    others = captioned(held_out, data_dir)
    if (shared := trained_on(real, others)).count:
        raise ConfigError(
            f"--held_out={held_out}: {shared.count:,} of its {shared.of:,} pictures also occur in --data={data}. "
            "Valid: splits that share no picture, e.g. NAME@train[:90%] and NAME@train[90%:]."
        )
    if real.images.shape[1] != model.side:
        raise ConfigError(
            f"{folder} makes pictures with sides of {model.side} pixels, but the pictures of {data} have "
            f"{real.images.shape[1]}. Name the data that the model was trained on."
        )
    with progress.bar("training the encoders", train_steps, "steps") as advance:
        retriever = caption_retrieval.train(
            real.images, list(real.captions), steps=train_steps, progress=lambda step, _: advance(step)
        )
    similar = functools.partial(caption_retrieval.similarities, retriever)
    retrieved = lambda images, texts: caption_retrieval.retrieved(similar(images, texts), texts, among)
    rows = np.sort(np.random.default_rng(SEED).permutation(len(real.captions))[:number])
    texts = [real.captions[row] for row in rows]
    images = text_to_image.generate(
        model, texts, seeds=range(len(texts)), guidance=guidance, steps=steps, batch_size=batch_size
    )
    features = Extractor(
        lambda batch: caption_retrieval.features(retriever, batch),
        {"features": "the towers' space", "unit": "length 1", "sha256": retriever.digest},
    )
    no_labels = np.zeros(len(images), np.int64)
    count = min(len(images), len(others.images))
    retrieval = {
        "pictures": retrieved(images, texts),
        "real_pictures": retrieved(real.images[rows], texts),
        "held_out_pictures": retrieved(others.images, list(others.captions)),
    }
    figures = {
        "retrieval": retrieval,
        "frechet": distance(features, images, no_labels, real, others, count, balanced=False, effort=FULL),
        "copies": neighbours.copying(images, others.images, real.images),
    }
    protocol = {
        "model": str(folder),
        "checkpoint": model_index.fingerprint(folder),
        "data": data,
        "held_out": held_out,
        "guidance": guidance,
        "steps": steps,
        "number": len(texts),
        "seeds": "0..",
        "towers": train_steps,
        "pictures_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
        **report.software(),
    }
    out.mkdir(parents=True, exist_ok=True)
    some = np.random.default_rng(SEED + 1).permutation(len(texts))[:48]
    captions = [texts[row] for row in some]
    nearest = similar(images[some], texts).argmax(1)
    right = [texts[best] == caption for best, caption in zip(nearest, captions)]
    plots.captioned(images[some], captions, right, out / "requested.png")
    plots.captioned(real.images[rows[some]], captions, [True] * len(some), out / "real.png")
    return report.write(out, {"figures": figures, "protocol": protocol}, lambda content: markdown(content, out))


def markdown(content: dict, folder: pathlib.Path) -> str:
    """The report as Markdown; pictures in the folder are embedded by relative links."""
    figures = content["figures"]
    protocol = content["protocol"]
    retrieval = figures["retrieval"]
    share = {name: report.percent(part) for name, part in retrieval.items()}
    beside = (
        f"chance {retrieval['pictures']['chance']:.1%}; real pictures {share['real_pictures']}, held-out ones "
        f"{share['held_out_pictures']}"
    )
    rows = [
        (f"the requested caption is the nearest of {retrieval['pictures']['among']}", share["pictures"], beside),
        report.frechet_row("features of the encoders", figures["frechet"], ".3g"),
        report.copies_row("held-out ones", figures["copies"]),
    ]
    parts = [
        f"# Text to image: {protocol['model']}",
        f"{protocol['number']} pictures of captions of {protocol['data']}; guidance {protocol['guidance']:g}, "
        f"{protocol['steps']} steps.",
        report.beside_table(rows),
        *report.pictures(folder, PICTURES),
        report.table(("", ""), protocol.items()),
    ]
    return report.page(parts)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    folder = pathlib.Path(values.model)
    out = workdir.output_folder(values.out)
    content = run(
        load(folder),
        folder,
        out,
        values.data,
        values.held_out,
        data_dir=values.data_dir,
        number=values.number,
        guidance=values.guidance,
        steps=values.steps,
        batch_size=values.batch_size,
    )
    print(markdown(content, out))


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
