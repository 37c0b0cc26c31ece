"""Compares discrete with Gaussian diffusion on codes of drawings, with networks of one size and cost.

    python -m examples.symbols.drawing_tokens --out=runs/tokens

A drawing shows one shape and consists of 64 codes of patches; its class is its colour and shape. The command writes
report.md, report.json, drawings.png, the codebook and the trained weights. A second call continues with the first model
whose weights are missing. It does not check that the flags are those of the first call, so choose a new --out for other
flags.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("out", None, "folder for the report and the weights", required=True)
    flags.DEFINE_integer("codes", 512, "number of codes in the codebook", lower_bound=2)
    flags.DEFINE_integer("drawings", 6000, "number of training drawings", lower_bound=32)
    flags.DEFINE_integer("steps", 1000, "number of training steps per model", lower_bound=1)
    flags.DEFINE_integer("batch", 32, "number of drawings per step, a multiple of 32", lower_bound=32)
    flags.DEFINE_integer("width", 64, "number of features per code, a multiple of 16", lower_bound=16)
    flags.DEFINE_integer("depth", 3, "number of layers", lower_bound=1)
    flags.DEFINE_integer("seeds", 1, "number of trainings per model, with different seeds", lower_bound=1)
    flags.DEFINE_integer(
        "number", 300, "number of test drawings, and of samples for each number of evaluations", lower_bound=20
    )
    flags.DEFINE_integer("pictures", 100, "number of test drawings whose likelihood is measured", lower_bound=2)
    flags.DEFINE_list("evaluations", "8,32", "numbers of network evaluations per sample, separated by commas")
    command_line.require_counts("evaluations")
    command_line.require_multiple("batch", 32)
    command_line.require_multiple("width", 16)
    command_line.begin()

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.data.shapes import drawing
from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.run_folder import workdir
from diffusion.io import json_files
from diffusion.metrics import bootstrap, frechet, frechet_error
from examples.symbols import bits_report, digit_models, drawing_codes, token_models
from examples.text import drawn_objects

SHOWN = 16  # samples of each model in the picture
LEARNED_FROM, ITERATIONS = 2000, 15  # drawings and Lloyd's iterations of the codebook
PARTS = ("shape", "colour", "whole")  # required entries of a verdict, without "sharp", as edges are soft at this size
TITLE = "Codes of drawings: symbols compared with Gaussian noise"


def enlarged(images: np.ndarray) -> np.ndarray:
    """Pictures uint8 `[N, 32, 32, 3]` enlarged to the side of the templates, 64 pixels."""
    shape = (len(images), drawing.SIDE, drawing.SIDE, 3)
    larger = jax.image.resize(jnp.asarray(images, jnp.float32), shape, "bilinear")
    return np.asarray(jnp.clip(jnp.round(larger), 0, 255)).astype(np.uint8)


def judged(images: np.ndarray, labels: Sequence[int] | np.ndarray) -> tuple[np.ndarray, list[bool]]:
    """Measures pictures by templates, without a network.

    Args:
        images: the pictures, uint8 `[N, 32, 32, 3]`.
        labels: their classes.

    Returns:
        (features float64 `[N, 19]`: overlaps with the eight shapes, shares of the eight colours, and the position and
        the radius of the best shape as shares of the picture's side; whether each picture shows the shape and the
        colour of its class as a whole object).
    """
    asked = [drawing_codes.scene_of(label) for label in labels]
    features, right = [], []
    for scene, picture in zip(asked, drawn_objects.measured(enlarged(images), asked)):
        one = picture.objects[0]
        best = int(one.overlap.argmax())
        place = np.array([*one.centre[best], one.radius[best]]) / drawing.SIDE
        features.append(np.concatenate([one.overlap, one.colours, place]))
        verdict = drawn_objects.verdict(scene, picture)
        right.append(all(verdict[part] for part in PARTS))
    return np.stack(features), right


def figures(judgements: Sequence[tuple[np.ndarray, list[bool]]], test: frechet.Moments) -> dict[str, Any]:
    """The figures of samples from several trainings of one model.

    Args:
        judgements: the result of `judged` for each training.
        test: the moments of the test drawings' features.

    Returns:
        {"distance": the mean Fréchet distance to the test drawings, "error": its standard error over the draws of
        samples, "range": the least and the greatest distance of a training, "right": the share of samples that fulfil
        all of `PARTS`, "interval": Wilson's 95 % interval of this share}.
    """
    distances = [frechet.frechet_distance(frechet.moments(features), test) for features, _ in judgements]
    errors = [frechet_error.standard_error(features, test) for features, _ in judgements]
    share = bootstrap.share([one for _, right in judgements for one in right])
    return {
        "distance": float(np.mean(distances)),
        "error": float(np.sqrt(np.mean(np.square(errors)) / len(errors))),
        "range": [min(distances), max(distances)],
        "right": share["share"],
        "interval": share["interval"],
    }


def measured(out: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All figures of the report, and pictures of each model at its greatest number of evaluations."""
    values = flags.FLAGS
    train = drawing_codes.drawings(values.drawings, "train")
    test = drawing_codes.drawings(2 * values.number, "test")
    vectors = drawing_codes.patches(train.images)
    some = vectors[:LEARNED_FROM].reshape(-1, drawing_codes.CHANNELS)
    learn = lambda: {"codes": drawing_codes.codebook(some, values.codes, ITERATIONS)}
    codes = np.asarray(bits_report.load_or_make(out / "codebook.safetensors", learn)[0]["codes"])
    x = np.concatenate([drawing_codes.tokens(codes, part) for part in np.array_split(vectors, 20)])

    # The first half of the test drawings is the reference; the second half gives the floor and the samples' classes.
    held_out, labels = test.images[: values.number], test.label[values.number :]
    reference = frechet.moments(judged(held_out, test.label[: values.number])[0])
    real = test.images[values.number :]
    quantised = lambda images: drawing_codes.joined(codes[drawing_codes.tokens(codes, images)])
    again = quantised(drawing_codes.patches(real))
    one_of = lambda images: figures([judged(images, labels)], reference)
    samples = {"real drawings": {"": one_of(real)}, "real drawings in codes": {"": one_of(again)}}
    shown, bits = {"real": real, "in codes": again}, {}
    print(f"{samples}", flush=True)

    def draw(rng: np.random.Generator) -> dict[str, jax.Array]:
        rows = rng.integers(0, len(x), values.batch)
        return {"x": jnp.asarray(x[rows]), "z": jnp.asarray(vectors[rows]), "label": jnp.asarray(train.label[rows])}

    part = slice(values.pictures)
    rows = {"x": drawing_codes.tokens(codes, drawing_codes.patches(test.images[part])), "label": test.label[part]}
    judgements: dict[tuple[str, str], list] = {}
    for seed in range(values.seeds):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(2), seed), values.number)
        for name, model in token_models.all_models(values.codes, values.width, values.depth).items():
            path = out / f"{name}_{seed}.safetensors"
            params, row = bits_report.measured(
                path, model, model.initial(seed), draw, rows, digit_models.TIMES, seed=seed
            )
            bits.setdefault(name, []).append(row)
            for steps in values.evaluations:
                result = np.asarray(jax.jit(model.sample, static_argnums=3)(params, keys, labels, int(steps)))
                symbols = np.issubdtype(result.dtype, np.integer)
                kinds = {name: codes[result]} if symbols else {name: result}
                if not symbols:
                    kinds[f"{name}, then the nearest codes"] = codes[drawing_codes.tokens(codes, result)]
                for kind, patches in kinds.items():
                    images = drawing_codes.joined(patches)
                    judgements.setdefault((kind, steps), []).append(judged(images, labels))
                    samples.setdefault(kind, {})[steps] = figures(judgements[kind, steps], reference)
                    if not seed:
                        shown[kind] = images
                    print(f"{kind} {steps}: {samples[kind][steps]}", flush=True)
    protocol = bits_report.protocol("codes", "drawings", "steps", "batch", "width", "depth", "seeds", "number") | {
        "pictures": len(rows["x"])
    }
    book = drawing_codes.figures(codes, real)
    return json_files.plain({"bits": bits, "samples": samples, "codebook": book, "protocol": protocol}), shown


def markdown(content: Mapping[str, Any]) -> str:
    """The page."""
    return bits_report.page(_parts(content), content["protocol"])


def _parts(content: Mapping[str, Any]) -> Iterator[str]:
    """The paragraphs, tables and pictures of the report."""
    protocol, book = content["protocol"], content["codebook"]
    number = protocol["number"]
    yield f"# {TITLE}"
    yield (
        f"The data are drawings of one shape, 32x32 pixels, in {len(drawing_codes.PAIRS)} classes, each a pair of a "
        "colour and a shape. A drawing consists of 64 patches of 4x4 pixels, and each patch is replaced by the nearest "
        f"of {protocol['codes']} codes, which Lloyd's algorithm learned from "
        f"{min(LEARNED_FROM, protocol['drawings']):,} drawings. Encoded test drawings have a PSNR of "
        f"{book['psnr']:.1f} dB and a structural similarity of {book['ssim']:.3f}. They use {100 * book['used']:.0f} % "
        f"of the codes, with a perplexity of {book['perplexity']:.1f}."
    )
    yield (
        f"Every model has {protocol['depth']} layers of width {protocol['width']}, receives the class and the time, "
        f"and was trained for {protocol['steps']:,} steps on the same batches of {protocol['batch']} of "
        f"{protocol['drawings']:,} drawings, with {protocol['seeds']} seed{'s'[: protocol['seeds'] > 1]}. The Gaussian "
        "model is a rectified flow of the patches before quantization, with the prediction, the weighting and the "
        "times of the recipe `text/shapes`. In its second row, its samples are replaced by the nearest codes."
    )
    yield "![Samples of each model, below real drawings](drawings.png)"
    yield (
        f"The table uses {number:,} samples of each training. Right: the share with the shape and the colour of the "
        "class and one complete object, by templates without a network, with Wilson's 95 % interval. Distance: the "
        f"Fréchet distance to {number:,} other test drawings, in the 19 numbers that the templates measure, times "
        "1,000, with its standard error over the samples, and the smallest and largest value over the seeds. Bits: an "
        f"upper bound for the first seed on {protocol['pictures']} test drawings given their class, with the standard "
        "error over the drawings; the likelihood of the Gaussian model is not comparable."
    )
    yield report.table(
        ("model", "evaluations", "right", "distance", "seeds", "bits per code", "estimator", "parameters"),
        [_cells(name, steps, one, content) for name, by in content["samples"].items() for steps, one in by.items()],
    )


def _cells(name: str, steps: str, one: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    low, high = one["interval"]
    row = content["bits"].get(name.split(",")[0], [{}])[0]
    return [
        name,
        steps,
        f"{100 * one['right']:.1f} % ({100 * low:.1f} to {100 * high:.1f})",
        f"{1000 * one['distance']:.1f} ± {1000 * one['error']:.1f}",
        f"{1000 * one['range'][0]:.1f} to {1000 * one['range'][1]:.1f}" if row else "",
        f"at most {row['bits']:.3f} ± {row['error']:.3f}" if "bits" in row else "",
        row["estimator"] if "bits" in row else "",
        f"{row['parameters']:,d}" if row else "",
    ]


def main(argv: list[str]) -> None:
    """Runs the command line."""
    out = pathlib.Path(flags.FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    content, shown = measured(out)
    rows = np.concatenate([images[:SHOWN] for images in shown.values()])
    plots.sample_grid(rows, np.repeat(np.arange(len(shown)), SHOWN), out / "drawings.png", SHOWN, list(shown))
    report.write(out, content, markdown)
    print(f"{out}/report.md and drawings.png")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
