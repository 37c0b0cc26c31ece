"""Measures a text-to-image model on real captioned pictures, such as emoji, by retrieval: report.json and pictures.

    python -m experiments.caption_report --model=runs/emoji/model --data="noto_emoji@train[:90%]" \\
        --held_out="noto_emoji@train[90%:]" --out=runs/emoji/report

Two small towers, trained on the pictures of --data apart from the model, say which caption a picture is nearest to:
the asked one, or one of 49 others drawn by lot. Beside it stand chance, and the same figure of real pictures: those
that the towers learned from, and held-out ones. Also measured: the Frechet distance in the towers' features beside its
floor, and copies of training pictures.
"""

from absl import flags

from experiments.config import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("model", None, "folder of the model, with model_index.json")
    flags.DEFINE_string("data", None, "captions to ask for, and pictures for the towers: NAME@SPLIT")
    flags.DEFINE_string("held_out", None, "other pictures: NAME@SPLIT")
    flags.DEFINE_string("data_dir", "", "folder of prepared datasets; TFDS_DATA_DIR by default")
    flags.DEFINE_string("out", None, "folder of the report")
    flags.DEFINE_integer("number", 400, "pictures", lower_bound=50)
    flags.DEFINE_float("guidance", 2.0, "scale of the guidance", lower_bound=0)
    flags.DEFINE_integer("steps", 20, "steps of the sampler", lower_bound=1)
    flags.DEFINE_integer("batch_size", 50, "pictures at once", lower_bound=1)
    flags.mark_flags_as_required(["model", "data", "held_out", "out"])
    command_line.begin()

import functools
import hashlib
import json
import pathlib

import jax
import numpy as np

from diffusion import text_to_image
from diffusion.data import captions as captions_of
from diffusion.data import sources
from diffusion.metrics import caption_retrieval, neighbours
from diffusion.metrics.features import Extractor
from diffusion.text_to_image import pipelines
from experiments.config import ConfigError
from experiments.evaluation import report
from experiments.evaluation.real_images import Split
from experiments.evaluation.sample_metrics import FULL, distance
from experiments.run import progress
from experiments.run_folder import workdir
from experiments.text import figures, prompt_metrics

STEPS = 1_500  # of the towers' training
SEED = 0


@functools.lru_cache(maxsize=4)
def split_of(data: str, data_dir: str = "") -> tuple[Split, list[str]]:
    """Pictures and captions of NAME@SPLIT.

    Raises:
        ConfigError: if they are not there, or captions are empty.
    """
    name, at, part = data.rpartition("@")
    if not at:
        raise ConfigError(f"{data} is no dataset with its split. Valid: NAME@SPLIT, e.g. noto_emoji@train.")
    try:
        records, spec = sources.open_source(name, part, data_dir)
        texts = captions_of.texts_of(name, part, data_dir)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(f"{data}: {error}") from error
    images = np.stack([record["image"] for record in records.__getitems__(range(spec.size))])
    return Split(images, np.zeros(spec.size, np.int64), spec), texts


def retrieval(retriever: caption_retrieval.Retriever, images: np.ndarray, texts: list[str], among: int = 50) -> dict:
    """`caption_retrieval.retrieved` of pictures and the captions that they were asked for."""
    return caption_retrieval.retrieved(caption_retrieval.similarities(retriever, images, texts), texts, among)


def run(
    model: text_to_image.TextToImage,
    folder: pathlib.Path,
    out: pathlib.Path,
    data: str,
    held_out: str,
    *,
    data_dir: str = "",
    number: int = 400,
    guidance: float = 4.0,
    steps: int = 20,
    batch_size: int = 50,
    train_steps: int = STEPS,
    among: int = 50,
) -> dict:
    """Measures a model, and writes the report.

    Args:
        model: of `text_to_image.load`.
        folder: of the model, for the record.
        out: where to write.
        data: NAME@SPLIT whose captions are asked for, and whose pictures the towers learn from.
        held_out: NAME@SPLIT of other pictures.
        data_dir: folder of prepared datasets.
        number: of pictures.
        guidance, steps, batch_size: of `text_to_image.generate`.
        train_steps: of the towers.
        among: candidates of the retrieval.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: if the data are not there, or the model makes pictures of another size.
    """
    (real, texts), (others, other_texts) = split_of(data, data_dir), split_of(held_out, data_dir)
    if real.images.shape[1] != model.side:
        raise ConfigError(
            f"{folder} makes pictures of {model.side} pixels, and those of {data} have "
            f"{real.images.shape[1]}: give the data that it was trained on."
        )
    with progress.bar("training the towers", train_steps, "steps") as advance:
        retriever = caption_retrieval.train(
            real.images, texts, steps=train_steps, progress=lambda step, _: advance(step)
        )
    rows = np.sort(np.random.default_rng(SEED).permutation(len(texts))[:number])
    asked = [texts[row] for row in rows]
    images = text_to_image.generate(
        model, asked, seeds=range(len(asked)), guidance=guidance, steps=steps, batch_size=batch_size
    )
    features = Extractor(
        lambda batch: caption_retrieval.features(retriever, batch),
        {"features": "the towers' space", "unit": "length 1", "sha256": retriever.digest},
    )
    content = report.plain(
        {
            "figures": {
                "retrieval": {
                    "pictures": retrieval(retriever, images, asked, among),
                    "real_pictures": retrieval(retriever, real.images[rows], asked, among),
                    "held_out_pictures": retrieval(retriever, others.images, other_texts, among),
                },
                "frechet": distance(
                    features,
                    images,
                    np.zeros(len(images), np.int64),
                    real,
                    others,
                    min(len(images), len(others.images)),
                    False,
                    FULL,
                ),
                "copies": neighbours.copying(images, others.images, real.images),
            },
            "protocol": {
                "model": str(folder),
                "checkpoint": pipelines.fingerprint(folder),
                "data": data,
                "held_out": held_out,
                "guidance": guidance,
                "steps": steps,
                "number": len(asked),
                "seeds": "0..",
                "towers": train_steps,
                "pictures_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
                "git_commit": report.git_commit(),
                "device": jax.devices()[0].device_kind,
            },
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    some = np.random.default_rng(SEED + 1).permutation(len(asked))[:48]
    nearest = caption_retrieval.similarities(retriever, images[some], asked).argmax(1)
    right = [asked[found] == asked[row] for found, row in zip(nearest, some)]
    figures.gallery(images[some], [asked[row] for row in some], right, out / "asked.png")
    figures.gallery(real.images[rows[some]], [asked[row] for row in some], [True] * len(some), out / "real.png")
    workdir.write_text(out / "report.json", json.dumps(content, indent=2) + "\n")
    workdir.write_text(out / "report.md", markdown(content))
    return content


def markdown(content: dict) -> str:
    """The report as Markdown."""
    found = content["figures"]
    protocol = content["protocol"]
    told = found["retrieval"]
    share = lambda each: "{:.1%} ({:.1%} to {:.1%})".format(each["share"], *each["interval"])
    near = found["copies"]["share_below_held_out_percentile"]
    frechet = found["frechet"]
    lines = [
        f"# Text to image: {protocol['model']}", "",
        f"{protocol['number']} pictures of captions of {protocol['data']}; guidance {protocol['guidance']:g}, "
        f"{protocol['steps']} steps.", "",
        "| | pictures | beside |", "|---|---|---|",
        f"| the asked caption is the nearest of {told['pictures']['among']} | **{share(told['pictures'])}** | chance "
        f"{told['pictures']['chance']:.1%}; real pictures {share(told['real_pictures'])}, held-out ones "
        f"{share(told['held_out_pictures'])} |",
        f"| Frechet distance (the towers' space) | **{frechet['distance']:.3g}** | floor "
        f"{frechet['floor']['mean']:.3g}, {frechet['ratio']:.2f} times; noise {frechet['noise']:.3g} |",
        f"| nearer to training pictures than 1 % / 5 % of held-out ones | **{near['1']:.1%} / {near['5']:.1%}** | "
        f"exact copies {found['copies']['samples']['exact_duplicates']} |",
        "", "![asked](asked.png)", "*Asked, and made; orange: the towers prefer another caption of all.*", "",
        "![real](real.png)", "*The real pictures of the same captions.*", "",
        *(f"- {name}: {value}" for name, value in protocol.items()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    given = flags.FLAGS
    folder = pathlib.Path(given.model)
    how = {name: given[name].value for name in ("data_dir", "number", "guidance", "steps", "batch_size")}
    content = run(prompt_metrics.load(folder), folder, pathlib.Path(given.out), given.data, given.held_out, **how)
    print(markdown(content))


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
