"""Compares discrete with Gaussian diffusion on class-conditional binary digits, with networks of one size and cost.

    python -m examples.symbols.binary_digits --out=runs/binary

The data are scikit-learn's 8x8 digits, rounded to black and white. The command writes report.md, report.json,
digits.png and the trained weights. A second call continues with the first model whose weights are missing. It does not
check that the flags are those of the first call, so choose a new --out for other flags.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("out", None, "folder for the report and the weights", required=True)
    flags.DEFINE_integer("steps", 2500, "number of training steps per model", lower_bound=1)
    flags.DEFINE_integer("batch", 64, "number of pictures per step, a multiple of 32", lower_bound=32)
    flags.DEFINE_integer("width", 64, "number of features per pixel, a multiple of 16", lower_bound=16)
    flags.DEFINE_integer("depth", 3, "number of layers", lower_bound=1)
    flags.DEFINE_integer("number", 1000, "number of samples for each number of evaluations", lower_bound=20)
    flags.DEFINE_integer("pictures", 359, "number of test digits whose likelihood is measured", lower_bound=2)
    flags.DEFINE_list("evaluations", "16,64", "numbers of network evaluations per sample, separated by commas")
    command_line.require_counts("evaluations")
    command_line.require_multiple("batch", 32)
    command_line.require_multiple("width", 16)
    command_line.begin()

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.data import digits
from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.run_folder import workdir
from diffusion.io import json_files
from diffusion.metrics import classifier, frechet
from examples.symbols import bits_report, digit_models

SHOWN = 20  # samples of each model in the picture
TITLE = "Binary digits: symbols compared with Gaussian noise"


class Split(NamedTuple):
    """Pictures of one split.

    Attributes:
        x: int32 `[N, 64]` bits.
        label: int32 `[N]` classes.
    """

    x: np.ndarray
    label: np.ndarray


def splits() -> dict[str, Split]:
    """The digits of the splits "train", "validation" and "test"; a pixel is 1 from the middle grey value on."""
    images, labels, names = digits.digits()
    bits = (images.reshape(len(images), -1) >= 128).astype(np.int32)
    return {name: Split(bits[names == name], labels[names == name].astype(np.int32)) for name in np.unique(names)}


def pictures(bits: np.ndarray) -> np.ndarray:
    """uint8 `[N, 8, 8, 1]` of bits `[N, 64]`."""
    return (255 * bits).astype(np.uint8).reshape(-1, 8, 8, 1)


class Judge:
    """Measures samples by a classifier of binary digits, by its features, and by comparison with training pictures."""

    def __init__(self, train: Split, test: Split):
        self.classifier = classifier.cached(pictures(train.x), train.label)
        self.test = self._moments(test.x)
        self.known = {row.tobytes() for row in train.x}

    def _moments(self, bits: np.ndarray) -> frechet.Moments:
        return frechet.moments(classifier.features(self.classifier, pictures(bits)))

    def figures(self, bits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The distance to the test digits, the share recognised as their class, and the share of copies."""
        return {
            "distance": frechet.frechet_distance(self._moments(bits), self.test),
            "recognised": float(np.mean(classifier.predict(self.classifier, pictures(bits)) == labels)),
            "copies": float(np.mean([row.tobytes() in self.known for row in bits])),
        }


def measured(out: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All figures of the report, and the samples of each model at its greatest number of evaluations."""
    values, data = flags.FLAGS, splits()
    train, test = data["train"], data["test"]
    judge = Judge(train, test)
    labels = np.arange(values.number, dtype=np.int32) % digit_models.CLASSES
    keys = jax.random.split(jax.random.key(2), values.number)
    bits, shown = {}, {"real": test.x}
    samples = {"real training digits": {"": judge.figures(train.x[: values.number], train.label[: values.number])},
               "real test digits": {"": judge.figures(test.x, test.label)}}  # fmt: skip

    def draw(rng: np.random.Generator) -> dict[str, jax.Array]:
        chosen = rng.integers(0, len(train.x), values.batch)
        return {"x": jnp.asarray(train.x[chosen]), "label": jnp.asarray(train.label[chosen])}

    some = {field: rows[: values.pictures] for field, rows in test._asdict().items()}
    for name, model in digit_models.all_models(values.width, values.depth).items():
        params, bits[name] = bits_report.measured(
            out / f"{name}.safetensors", model, model.initial(0), draw, some, digit_models.TIMES
        )
        samples[name] = {}
        for steps in map(int, values.evaluations):
            x = np.asarray(jax.jit(model.sample, static_argnums=3)(params, keys, labels, steps), np.int32)
            samples[name][str(steps)] = judge.figures(x, labels)
            shown[name] = x
        print(f"{name}: {samples[name]}", flush=True)
    protocol = bits_report.protocol("steps", "batch", "width", "depth", "number")
    protocol["pictures"] = len(some["x"])
    sizes = {name: len(split.x) for name, split in data.items()}
    return json_files.plain({"bits": bits, "samples": samples, "protocol": protocol, "sizes": sizes}), shown


def markdown(content: Mapping[str, Any]) -> str:
    """The page."""
    return bits_report.page(_parts(content), content["protocol"])


def _parts(content: Mapping[str, Any]) -> Iterator[str]:
    """The paragraphs, tables and pictures of the report."""
    protocol = content["protocol"]
    yield f"# {TITLE}"
    yield (
        f"Scikit-learn's handwritten digits, 8x8, in black and white: {content['sizes']['train']:,} to train on, "
        f"{content['sizes']['test']:,} to test on. Every model has {protocol['depth']} layers of width "
        f"{protocol['width']}, reads the class and the time, and was trained for {protocol['steps']:,} steps on the "
        f"same batches of {protocol['batch']}. The Gaussian model is a rectified flow of the numbers -1 and 1, whose "
        "samples are rounded to the nearer one."
    )
    yield "![Samples of each model, below real digits](digits.png)"
    yield "## Bits a pixel"
    yield (
        f"Upper bounds on {protocol['pictures']} test digits given their class, at {digit_models.TIMES} times each, "
        "with the standard error over the digits. Each is a bound of its own, and may lie above the bits of its model."
    )
    yield bits_report.table(content["bits"], "pixel")
    yield "## Samples"
    yield (
        f"{protocol['number']:,} samples each, a tenth of each class. Distance: Fréchet, in the features of a "
        "classifier of binary digits, to the test digits. Recognised: share that the classifier takes for the "
        "requested class. Copies: share that equals a training digit in every pixel."
    )
    yield report.table(
        ("model", "evaluations", "distance", "recognised", "copies"),
        [
            (name, steps, f"{one['distance']:.2f}", f"{100 * one['recognised']:.1f} %", f"{100 * one['copies']:.1f} %")
            for name, by_steps in content["samples"].items() for steps, one in by_steps.items()
        ],
    )  # fmt: skip


def main(argv: list[str]) -> None:
    """Runs the command line."""
    out = pathlib.Path(flags.FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    content, shown = measured(out)
    rows = np.concatenate([pictures(x[:SHOWN]) for x in shown.values()])
    plots.sample_grid(rows, np.repeat(np.arange(len(shown)), SHOWN), out / "digits.png", SHOWN, list(shown))
    report.write(out, content, markdown)
    print(f"{out}/report.md and digits.png")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
