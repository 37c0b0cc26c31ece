"""Measures the samples of a run against real images, and writes report.md and report.json beside them.

    python -m experiments.evaluate --workdir=runs/digits
    python -m experiments.evaluate --workdir=runs/digits --samples=runs/digits/guided --config.evaluate.split=validation

Reads config.json, and samples.npz (from experiments.sample, whose --out is our --samples). Measures the share of
samples that a classifier of real images takes for the class asked for, the Frechet distance to the real images of
config.evaluate.split in each feature space of config.evaluate.features, beside real images and noise, and nearest
neighbours in the training set. Also draws curves.png from the metrics of the training.
"""

import functools
import hashlib
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from absl import flags

from diffusion.data import sources
from diffusion.metrics import bootstrap, classifier, frechet, neighbours
from diffusion.metrics.features import FEATURES, moments, rows
from experiments import config as configs
from experiments import figures, progress, report, workdir
from experiments.workdir import WorkdirError

SEED = 0  # of the subsets, the resamples and the noise, so that the same samples give the same report
NEIGHBOURS = 2000  # images whose nearest training image is sought, at most: drawn at random where there are more
SELECTION = "the first N samples in class order 0, 1, .., 0, 1, .. (every class as often as any other, up to one)"


class Effort(NamedTuple):
    """How much work an evaluation spends.

    Attributes:
      draws: bootstrap resamples of an interval; 0 for no intervals.
      subsets: random subsets of real training images whose mean distance is the floor.
    """

    draws: int
    subsets: int


FULL, IN_LOOP = Effort(500, 20), Effort(0, 4)
AFFORDABLE = ((256, FULL), (1024, Effort(20, 4)), (np.inf, Effort(0, 2)))  # by the features D: a distance costs D^3


class Split(NamedTuple):
    """Real images uint8 [N, H, W, C], labels int64 [N] (zeros without classes), and the description of the split."""

    images: np.ndarray
    labels: np.ndarray
    spec: sources.DataSpec


def evaluate_samples(images: np.ndarray, labels: np.ndarray, config: Mapping, split: str = "validation") -> dict:
    """The few figures of some samples that a training loop logs, without intervals.

    Args:
      images: uint8 `[N, H, W, C]`, samples.
      labels: int `[N]`, the classes that were asked for; zeros if the model has none.
      config: the run's config; its dataset's training split and `split` are the real images.
      split: that the samples are compared with; by default the one that choices may be made on.

    Returns:
      {"asked_class": share in [0, 1], "fd_FEATURE": distance, "fd_FEATURE_over_floor": ratio,
      "nearest_over_held_out": ratio of median distances to the training set}; "asked_class" where the classifier is
      among the features and the model has classes.

    Raises:
      ConfigError, WorkdirError, ValueError: as in `measure`.
    """
    measured = measure(images, labels, config, split, effort=IN_LOOP)
    flat = {} if measured["asked_class"] is None else {"asked_class": measured["asked_class"]["share"]}
    for name, figure in measured["frechet"].items():
        flat |= {f"fd_{name}": figure["distance"], f"fd_{name}_over_floor": figure["ratio"]}
    median = {name: measured["neighbours"][name]["quantiles"]["0.5"] for name in ("samples", "held_out")}
    return flat | {"nearest_over_held_out": median["samples"] / median["held_out"]}


def measure(
    images: np.ndarray, labels: np.ndarray, config: Mapping, split: str, effort: Effort = FULL,
    advance: Callable[[int], None] = lambda done: None,
) -> dict:  # fmt: skip
    """Every figure of a set of samples, each beside its reference.

    Args:
      images: uint8 `[N, H, W, C]`, samples.
      labels: int `[N]`, the classes that were asked for.
      config: the run's config.
      split: of the dataset, that the samples are compared with.
      effort: how many resamples and subsets.
      advance: told the number of parts done, of len(config.evaluate.features) + 2.

    Returns:
      {"asked_class": dict | None, "frechet": {feature: dict}, "neighbours": dict, "count": N of the distances}.

    Raises:
      ConfigError: if a feature is not known, or a split is not in the dataset.
      WorkdirError: if the samples do not fit the dataset.
    """
    names = tuple(config["evaluate"]["features"])
    for name in names:
        if name not in FEATURES:
            raise configs.unknown("config.evaluate.features", name, FEATURES, "feature")
    if split == config["data"]["split"]:
        raise configs.ConfigError(
            f"config.evaluate.split = {split!r} is what the model was trained on, and the floor would compare images "
            "with themselves. Valid: another split, e.g. 'test', or 'train[90%:]' after training on 'train[:90%]'."
        )
    train, real = (_split(config, name) for name in (config["data"]["split"], split))
    classes = real.spec.num_classes if config["model"].get("num_classes", 0) else 0
    check_samples(images, labels, real.spec.shape, classes)
    if "classifier" in names and not real.spec.num_classes:
        raise configs.ConfigError(
            f"config.evaluate.features holds 'classifier', but {real.spec.name} has no classes to train it on. "
            f"Valid: {', '.join(sorted(set(FEATURES) - {'classifier'}))}."
        )
    asked = asked_class(images, labels, train, real) if "classifier" in names and classes else None
    advance(1)
    count = min(len(images), len(real.images), len(train.images))
    distances = {}
    for done, name in enumerate(names):
        extractor = FEATURES[name](train.images, train.labels)
        distances[name] = distance(extractor, images, labels, train, real, count, bool(classes), effort)
        advance(done + 2)
    rng = np.random.default_rng(SEED)
    some = lambda of: of if len(of) <= NEIGHBOURS else of[rng.permutation(len(of))[:NEIGHBOURS]]
    copies = neighbours.copying(some(images), some(real.images), train.images)
    advance(len(names) + 2)
    return {"asked_class": asked, "frechet": distances, "neighbours": copies, "count": count}


def asked_class(images: np.ndarray, labels: np.ndarray, train: Split, real: Split) -> dict:
    """Share of samples that a classifier, trained on the real training images alone, takes for the class asked for.

    Args:
      images: uint8 `[N, H, W, C]`, samples.
      labels: int `[N]`, the classes asked for.
      train: real images that the classifier learns from.
      real: real images that it is tested on, for reference.

    Returns:
      {"share", "interval", "count", "by_class", "real": {...}, "classifier_sha256"}, shares in [0, 1], intervals
      Wilson's of 95 %.
    """
    net = classifier.cached(train.images, train.labels)

    def share(of, wanted):
        right = classifier.predict(net, of) == wanted
        by_class = {str(c): float(right[wanted == c].mean()) for c in np.unique(wanted)}
        interval = bootstrap.wilson_interval(int(right.sum()), len(right))
        return {"share": float(right.mean()), "interval": interval, "count": len(right), "by_class": by_class}

    return share(images, labels) | {"real": share(real.images, real.labels), "classifier_sha256": net.digest}


def distance(extractor, images, labels, train: Split, real: Split, count: int, balanced: bool, effort: Effort) -> dict:
    """Frechet distance of samples to all images of a split, beside real training images and noise, N alike.

    Args:
      extractor: a `features.Extractor`.
      images: uint8 `[M, H, W, C]`, samples, M >= N.
      labels: int `[M]`.
      train: real images that the floor's subsets are drawn from.
      real: the reference; all of its images.
      count: N.
      balanced: whether samples and the floor's subsets hold every class alike.
      effort: how many resamples and subsets, at most; see AFFORDABLE.

    Returns:
      {"distance", "interval" (or None), "floor": {"mean", "std", "unbalanced_mean" (or None)}, "noise", "ratio",
      "ratio_interval" (or None), "all_samples": {"mean", "std", "ratio"}, "dimensions", "extractor", "effort"}:
      the distance of the first N, and under "all_samples" the mean over random subsets of N of all samples.
    """
    rng = np.random.default_rng(SEED)
    reference = moments(extractor.extract, real.images)
    distance_to_real = frechet.distance_to(reference)
    to_reference = lambda features: distance_to_real(_moments(features))
    most = next(most for dim, most in AFFORDABLE if len(reference.mean) <= dim)
    effort = Effort(min(effort.draws, most.draws), min(effort.subsets, most.subsets))
    as_they_are = lambda wanted: np.arange(len(wanted))
    order = balanced_order if balanced else as_they_are

    def subsets(features, wanted, order):
        values = []
        for _ in range(effort.subsets):
            shuffled = rng.permutation(len(wanted))
            values.append(to_reference(features[shuffled[order(wanted[shuffled])[:count]]]))
        return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}

    made, real_made = rows(extractor.extract, images), rows(extractor.extract, train.images)
    first = order(labels)[:count]
    chosen = made[first]
    measured = to_reference(chosen)
    floor, every = subsets(real_made, train.labels, order), subsets(made, labels, order)
    floor["unbalanced_mean"] = subsets(real_made, train.labels, as_they_are)["mean"] if balanced else None
    noise = rng.integers(0, 256, (count, *images.shape[1:]), dtype=np.uint8)
    interval = None
    if effort.draws:
        values = bootstrap.replicates(lambda chosen_rows: to_reference(chosen[chosen_rows]), count, effort.draws, rng,
                                      labels[first] if balanced else None)  # fmt: skip
        interval = bootstrap.percentile_interval(values, estimate=measured)
    return {
        "distance": measured,
        "interval": interval,
        "ratio": measured / floor["mean"],
        "ratio_interval": None if interval is None else tuple(end / floor["mean"] for end in interval),
        "floor": floor,
        "all_samples": every | {"ratio": every["mean"] / floor["mean"]},
        "noise": distance_to_real(moments(extractor.extract, noise)),
        "dimensions": len(reference.mean),
        "extractor": extractor.record,
        "effort": effort._asdict(),
    }


def balanced_order(labels: np.ndarray) -> np.ndarray:
    """Row numbers `[N]` so that the classes take turns, each in the order of its rows."""
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        mine = labels == label
        turn[mine] = np.arange(mine.sum())
    return np.lexsort((labels, turn))


def read_samples(folder: str | pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads samples.npz; nothing in it is executed.

    Args:
      folder: the run folder.

    Returns:
      images uint8 `[N, H, W, C]` and labels int64 `[N]`.

    Raises:
      WorkdirError: if it is missing, damaged, or lacks an array; says which command makes it.
    """
    path = pathlib.Path(folder) / "samples.npz"
    again = f"Make it by: python -m experiments.sample --workdir={folder}"
    if not path.is_file():
        raise WorkdirError(f"{path} is not there. {again}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"images", "labels"} - set(arrays.files)
            if missing:
                raise WorkdirError(f"{path} lacks {', '.join(sorted(missing))}; it holds {arrays.files}. {again}")
            images, labels = arrays["images"], arrays["labels"]
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise WorkdirError(f"{path} cannot be read ({error}). {again}") from error
    if labels.dtype.kind not in "iu":
        raise WorkdirError(f"{path}: labels are {labels.dtype}, not integers. {again}")
    return images, labels.astype(np.int64)


def check_samples(images: np.ndarray, labels: np.ndarray, shape: tuple[int, ...], classes: int) -> None:
    """Refuses samples that cannot be compared with a dataset.

    Args:
      images: to be uint8 `[N, *shape]`, N >= 2.
      labels: to be int `[N]`; if the model has classes, all of them, in 0..classes - 1.
      shape: of one image of the dataset.
      classes: of the dataset, or 0 where the model has none.

    Raises:
      WorkdirError: says what was found and what is needed.
    """
    if images.dtype != np.uint8:
        raise WorkdirError(f"samples: images are {images.dtype}, not uint8 (bytes 0..255)")
    if images.ndim != 4 or images.shape[1:] != tuple(shape):
        raise WorkdirError(f"samples: images have shape {list(images.shape)}, not [N, {', '.join(map(str, shape))}] "
                           "as the dataset's")  # fmt: skip
    if labels.shape != (len(images),):
        raise WorkdirError(f"samples: {len(images)} images, but labels of shape {list(labels.shape)}")
    if len(images) < 2:
        raise WorkdirError(f"samples: there are {len(images)}; a distance needs at least 2. Raise config.sample.number")
    if classes:
        wrong = sorted(set(np.unique(labels).tolist()) - set(range(classes)))
        if wrong:
            raise WorkdirError(f"samples: labels {wrong[:5]} are no classes of the dataset; valid: 0 to {classes - 1}")
        absent = sorted(set(range(min(classes, len(images)))) - set(np.unique(labels).tolist()))
        if absent:
            raise WorkdirError(f"samples: no sample of classes {absent[:10]}, so that a distance to a dataset that has "
                               "them would mean nothing. Sample all classes: leave out --labels")  # fmt: skip


def _split(config: Mapping, split: str) -> Split:
    data = config["data"]
    try:
        return _read_split(data["name"], split, data["dir"])
    except ValueError as error:
        raise configs.ConfigError(f"config.data, config.evaluate.split: {error}") from error


@functools.lru_cache(maxsize=4)
def _read_split(name: str, split: str, data_dir: str) -> Split:
    records, spec = sources.open_source(name, split, data_dir)
    images = np.empty((spec.size, *spec.shape), np.uint8)
    labels = np.zeros(spec.size, np.int64)
    for start in range(0, spec.size, 1000):
        for i, record in enumerate(records.__getitems__(list(range(start, min(start + 1000, spec.size)))), start):
            images[i], labels[i] = record["image"], record.get("label", 0)
    return Split(images, labels, spec)


def _moments(features: np.ndarray) -> frechet.Moments:
    return frechet.update(frechet.init(features.shape[1]), features)


def run(config: Mapping, folder: str | pathlib.Path, command: str, effort: Effort = FULL) -> dict:
    """Evaluates the samples in a folder and writes report.json and report.md there (and curves.png, in a run folder).

    Args:
      config: the run's config.
      folder: the run folder, or another that experiments.sample wrote to (--out).
      command: how this was started, for the record.
      effort: how many resamples and subsets.

    Returns:
      The content of report.json.

    Raises:
      ConfigError, WorkdirError: as in `measure` and `read_samples`.
    """
    folder = pathlib.Path(folder)
    images, labels = read_samples(folder)
    split = config["evaluate"]["split"]
    with progress.bar("evaluating", len(config["evaluate"]["features"]) + 2, "parts") as advance:
        measured = measure(images, labels, config, split, effort, advance)
    if (folder / "metrics.jsonl").is_file():
        figures.curves(folder / "metrics.jsonl", folder / "curves.png")
    real, train = _split(config, split), _split(config, config["data"]["split"])
    conditional = bool(config["model"].get("num_classes", 0))
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    protocol = {
        "dataset": {"name": real.spec.name, "version": real.spec.version, "train_split": config["data"]["split"],
                    "train_size": len(train.images), "split": split, "split_size": len(real.images)},
        "samples": {"number": len(images), "sha256": digest, "rounding": "floor(clip(127.5 x + 128, 0, 255))"},
        "distance": {"N": measured["count"], "selection": SELECTION if conditional else "the first N samples",
                     "seed": SEED, "level": 0.95},
        **report.provenance(config, folder, command),
    }  # fmt: skip
    content = report.plain({"figures": measured, "protocol": protocol})
    report.write(content, folder)
    return content


def main(argv: list[str]) -> None:
    """Runs the command line."""
    folder = flags.FLAGS.samples or flags.FLAGS.workdir
    content = run(CONFIG.value, folder, workdir.command("experiments.evaluate"))
    report.show(content, folder)


if __name__ == "__main__":
    CONFIG = configs.saved_flag()
    flags.DEFINE_string("workdir", None, "the run folder, e.g. runs/digits")
    flags.DEFINE_string("samples", None, "folder of samples.npz, and of the report; the run folder by default")
    configs.run(main, workdir.FAILURES)
