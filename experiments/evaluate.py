"""Measures the samples of a run, or any images, against real images.

    python -m experiments.evaluate --workdir=runs/digits
    python -m experiments.evaluate --workdir=runs/digits --samples=runs/digits/guided --config.evaluate.split=validation
    python -m experiments.evaluate --workdir=runs/digits --metrics=cas,copying,bpd
    python -m experiments.evaluate --samples=a.npz --reference=b.npz --protocol=pytorch-fid \\
        --inception=inception.safetensors --out=result.json
    python -m experiments.evaluate --autoencoder=sd-vae --reference=cifar10@test --protocol=adm \\
        --inception=inception.safetensors --out=result.json
    python -m experiments.evaluate --verify=result.json

With --workdir: reads config.json, and samples.npz (from experiments.sample, whose --out is our --samples). Measures
the share of samples that a classifier of real images takes for the class asked for, the Frechet distance to the real
images of config.evaluate.split in each feature space of config.evaluate.features, beside real images and noise, and
nearest neighbours in the training set. Also draws curves.png from the metrics of the training, and writes report.md
and report.json beside the samples; with --protocol and --inception also the Inception figures, in inception.json; with
--metrics=cas,copying,bpd also the classifier accuracy score, tests of copying, and bits per dimension.

Without: FID, KID, precision and recall and more (--metrics) of any images against any reference, under a published
protocol, into a record (--out) that --verify measures again: exit status 1 where it finds another value. A --reference
alone is computed and written as a statistics file (--out=FILE.safetensors). With --autoencoder: PSNR, SSIM and, with
--inception, rFID of its reconstructions of the reference. See docs/evaluation.md.
"""

import hashlib
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags

from diffusion.metrics import classifier, protocols
from experiments import config as configs
from experiments.evaluation import figures, measures, model_figures, records, report, score
from experiments.evaluation.measures import FULL, Effort
from experiments.run import progress
from experiments.run_folder import workdir
from experiments.sampling import autoencoder_folders
from experiments.sampling.sample_files import read_samples

SELECTION = "the first N samples in class order 0, 1, .., 0, 1, .. (every class as often as any other, up to one)"


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
    learned_from = measures.split_of(config, config["data"]["split"])
    if "classifier" in config["evaluate"]["features"] and learned_from.spec.num_classes:
        classifier.cached(learned_from.images, learned_from.labels, training=_train_classifier)
    with progress.bar("evaluating", len(config["evaluate"]["features"]) + 2, "parts") as advance:
        measured = measures.measure(images, labels, config, split, effort, advance)
    if (folder / "metrics.jsonl").is_file():
        figures.curves(folder / "metrics.jsonl", folder / "curves.png")
    real = measures.split_of(config, split)
    train = measures.split_of(config, config["data"]["split"])
    conditional = bool(config["model"].get("num_classes", 0))
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    protocol = {
        "dataset": {
            "name": real.spec.name,
            "version": real.spec.version,
            "train_split": config["data"]["split"],
            "train_size": len(train.images),
            "split": split,
            "split_size": len(real.images),
        },
        "samples": {"number": len(images), "sha256": digest, "rounding": "floor(clip(127.5 x + 128, 0, 255))"},
        "distance": {
            "N": measured["count"],
            "selection": SELECTION if conditional else "the first N samples",
            "seed": measures.SEED,
            "level": 0.95,
        },
        **report.provenance(config, folder, command),
    }
    content = report.plain({"figures": measured, "protocol": protocol})
    report.write(content, folder)
    return content


def _train_classifier(images: np.ndarray, labels: np.ndarray, seed: int) -> classifier.Classifier:
    with progress.bar("training the classifier of real images", classifier.STEPS, "steps") as advance:
        return classifier.train(images, labels, seed, advance=advance)


def figures_of_model(
    content: dict, config: Mapping, run_folder: pathlib.Path, folder: pathlib.Path, names: Sequence[str]
) -> dict:
    """Adds figures of `model_figures` to the report.

    Args:
        content: from `run`.
        config: the run's config.
        run_folder: the run folder.
        folder: of the samples and of the report.
        names: of `model_figures.FIGURES`.

    Returns:
        The content with {"model": {figure: dict}}.
    """
    images, labels = read_samples(folder)
    train, real = (measures.split_of(config, name) for name in (config["data"]["split"], config["evaluate"]["split"]))
    subject = model_figures.Subject(config, run_folder, images, labels, train, real)
    content["model"] = {}
    for name in names:
        content["model"] |= report.plain(model_figures.FIGURES[name](subject))
    report.write(content, folder)
    return content


def inception_figures(content: dict, folder: pathlib.Path, request: score.Request, out: pathlib.Path) -> dict:
    """Adds the Inception figures of the same samples to the report, and writes their record.

    Args:
        content: from `run`.
        folder: of the report.
        request: what to measure.
        out: file of the record.

    Returns:
        The content with {"inception": {"figures", "warnings", "protocol": name, "record": file}}.
    """
    found = records.record(request, score.run(request))
    records.write(out, found)
    content["inception"] = {
        "figures": found["figures"],
        "warnings": found["warnings"],
        "protocol": request.protocol,
        "reference": request.reference,
        "record": str(out),
    }
    report.write(content, folder)
    return content


def split_metrics(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of --metrics with --workdir: those of `score.METRICS`, and those of `model_figures.FIGURES`.

    Raises:
        ConfigError: for a name of neither, or one that needs --protocol where there is none.
    """
    valid = {**score.METRICS, **model_figures.FIGURES}
    for name in names:
        if name not in valid:
            raise configs.unknown("--metrics", name, valid, "metric")
    of_pair = [name for name in names if name in score.METRICS]
    if of_pair and not flags.FLAGS.protocol:
        raise configs.ConfigError(
            f"--metrics={of_pair[0]} is taken in Inception features: name --protocol and "
            f"--inception. (Without: {', '.join(model_figures.FIGURES)}.)"
        )
    return of_pair, [name for name in names if name in model_figures.FIGURES]


def requested(**given) -> score.Request:
    """The request of the command line, with some fields given."""
    values = {name: getattr(flags.FLAGS, name) for name in score.Request._fields if name in flags.FLAGS}
    values = {name: value for name, value in {**values, **given}.items() if value is not None}
    if values.get("autoencoder") and {"samples", "metrics"} & values.keys():
        raise configs.ConfigError(
            "--autoencoder is measured by psnr, ssim and rfid of its reconstructions of "
            "--reference: leave out --samples and --metrics."
        )
    if "metrics" in values:
        values["metrics"] = tuple(values["metrics"])
    return score.Request(**{"samples": "", "reference": ""} | values)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    out = pathlib.Path(flags.FLAGS.out) if flags.FLAGS.out else None
    if flags.FLAGS.verify:
        differences = records.verify(pathlib.Path(flags.FLAGS.verify))
        told = [f"differs: {line}" for line in differences] or [f"{flags.FLAGS.verify}: every figure is found again"]
        print("\n".join(told))
        sys.exit(bool(differences))
    if flags.FLAGS.workdir:
        folder = pathlib.Path(flags.FLAGS.samples or flags.FLAGS.workdir)
        names, of_model = split_metrics(flags.FLAGS.metrics or ())
        content = run(CONFIG.value, folder, workdir.command("experiments.evaluate"))
        if of_model:
            content = figures_of_model(content, CONFIG.value, pathlib.Path(flags.FLAGS.workdir), folder, of_model)
        if flags.FLAGS.protocol or flags.FLAGS.inception:
            data = CONFIG.value.data
            protocol = protocols.PROTOCOLS.get(flags.FLAGS.protocol)
            reference = flags.FLAGS.reference or f"{data.name}@{protocol.split if protocol else 'train'}"
            request = requested(
                samples=str(folder / "samples.npz"),
                reference=reference,
                metrics=names or None,
                data_dir=flags.FLAGS.data_dir or data.dir,
            )
            content = inception_figures(content, folder, request, out or folder / "inception.json")
        report.show(content, folder, run=flags.FLAGS.workdir)
        return
    if out is None:
        raise configs.ConfigError(
            "--out is missing: where to write, e.g. --out=result.json (with --samples), or "
            "--out=reference.safetensors (a --reference alone)."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    if not (flags.FLAGS.samples or flags.FLAGS.autoencoder):
        made = score.make_reference(requested(), out)
        print(f"{out}: statistics of {made.count:,} images")
        return
    content = records.record(requested(), score.run(requested()))
    records.write(out, content)
    records.show(content)
    print(f"{out}; measure it again by: {configs.printed('evaluate', f'--verify={out}')}")


if __name__ == "__main__":
    CONFIG = configs.saved_flag(unless=("reference", "verify"))
    flags.DEFINE_string("workdir", None, "the run folder, e.g. runs/digits")
    flags.DEFINE_string(
        "samples",
        None,
        "with --workdir: folder of samples.npz, and of the report, the run folder by "
        "default; else images: a .npz, a folder of pictures, an .array_record, or NAME@SPLIT",
    )
    flags.DEFINE_string(
        "reference",
        None,
        "images likewise, or statistics: .safetensors, or .npz with mu and sigma; "
        "with --workdir by default the run's dataset at the protocol's split",
    )
    flags.DEFINE_string("autoencoder", None, "folder or file of an autoencoder, to measure its reconstructions")
    flags.DEFINE_string("protocol", None, f"how images are prepared: {', '.join(protocols.PROTOCOLS)}")
    flags.DEFINE_string("inception", None, "file of FID's Inception-v3: .pth, TorchScript or .safetensors")
    flags.DEFINE_string("inception_sha256", None, "digest that the network must have; that of 2015-12-05 by default")
    flags.DEFINE_string("features", None, f"space to compare in, without --workdir: {', '.join(score.FEATURES)}")
    flags.DEFINE_list(
        "metrics",
        None,
        f"figures, of {','.join(score.METRICS)}; {','.join(score.DEFAULT)} by default; "
        f"with --workdir also {','.join(model_figures.FIGURES)}, in the report",
    )
    flags.DEFINE_string("data_dir", None, "folder of prepared datasets; TFDS_DATA_DIR by default")
    flags.DEFINE_integer(
        "size",
        None,
        "make squares of this side of a dataset's pictures of any size, as ADM's code "
        "does; 0, for pictures of one size, by default",
        lower_bound=0,
    )
    flags.DEFINE_integer("seed", None, "of random subsets; 0 by default")
    flags.DEFINE_string("out", None, "file of the record (.json), or of a reference's statistics (.safetensors)")
    flags.DEFINE_string("verify", None, "a record to measure again")
    configs.run(main, (*workdir.FAILURES, *score.FAILURES, *autoencoder_folders.FAILURES, records.ResultError))
