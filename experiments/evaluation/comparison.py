"""Compares a set of images with a reference, in Inception features under a published protocol or in another space.

A command line cannot name your own features, since it would have to run the code that it names. In Python:

    extractor = features.Extractor(my_network, {"features": "DINOv2 ViT-L/14", "sha256": "..."})
    comparison.measure(image_sets.open_set("a.npz"), references.open_reference("cifar10@train"),
                       references.function_space(extractor), metrics=("fid", "kid"))
"""

import hashlib
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusion.data import pipeline
from diffusion.experiments.evaluation.image_metrics import METRICS, NEEDS_ROWS, TAPS, FeatureSets, NotMeasured, called
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.metrics import (
    clip_protocols,
    clip_sets,
    encoder_protocols,
    features,
    image_sets,
    inception,
    protocols,
    references,
    statistics,
)
from diffusion.metrics.clip_protocols import ClipProtocol
from diffusion.metrics.encoder_protocols import EncoderProtocol
from diffusion.metrics.image_sets import ImageSet, ImageSetError
from diffusion.metrics.inception_weights import KNOWN, WeightsError
from diffusion.metrics.references import Gathered, Reference, Space
from diffusion.metrics.statistics import StatisticsError
from diffusion.recipe import ConfigError, data, unknown
from diffusion.training.runtime import progress

FAILURES = (ImageSetError, StatisticsError, WeightsError)  # errors that command_line.run prints as one sentence
DEFAULT = ("fid", "kid", "pr")
FEATURES = ("inception", "pixels")  # the spaces that a command line can name


class Request(NamedTuple):
    """A request to measure images: the values of the command line, with which `--verify` repeats the measurement."""

    samples: str = ""  # images, as `image_sets.open_set` reads them
    reference: str = ""  # images or statistics, as `references.open_reference` reads them
    protocol: str = ""  # a name of `protocols`, `encoder_protocols` or `clip_protocols`; "" for other features
    inception: str = ""  # file of Inception-v3; "" for other features
    inception_sha256: str = ""  # digest that the network must have; "" for the digest of FID's published network
    features: str = "inception"  # a name of FEATURES
    metrics: tuple[str, ...] = DEFAULT  # names of METRICS
    data_dir: str = ""  # folder of prepared datasets
    seed: int = 0  # seed of random subsets
    autoencoder: str = ""  # folder or file of an autoencoder, whose reconstructions are measured in place of samples
    size: int = 0  # side of the squares that images of any size become; 0 for images of one size
    encoder: str = ""  # folder or file of the network of an encoder's protocol


def measure(
    samples: ImageSet,
    reference: Reference,
    space: Space,
    metrics: Sequence[str] = DEFAULT,
    seed: int = 0,
    score_splits: str = "ten, shuffled",
    folder: pathlib.Path | None = None,
    fresh: bool = False,
) -> dict:
    """Measures samples against their reference.

    Args:
        samples: images to measure.
        reference: images or statistics.
        space: the features.
        metrics: names of METRICS.
        seed: the seed of random subsets.
        score_splits: the splits of the Inception Score: "ten, shuffled", "every 5,000", or "one".
        folder: the cache of features; None for no cache.
        fresh: whether to compute the features of the samples even where the cache holds them.

    Returns:
        {"figures": {name (see `image_metrics.called`): {"value" (None if not measured), "why", "space",
        "standard_error", "samples", "reference", ...}}, "warnings": [text], "samples": dict, "reference": dict,
        "seconds": dict}.

    Raises:
        ConfigError: for a metric that is not known.
        ImageSetError, StatisticsError: if either side cannot be measured, or if the statistics of the reference are of
            another protocol or of another number of features.
        WorkdirError: if the cache of features cannot be read or written.
    """
    for name in metrics:
        if name not in METRICS:
            raise unknown("--metrics", name, METRICS, "metric")
    began = time.perf_counter()
    reference = references.in_space(reference, space)
    # The rows of the reference are needed by some metrics only; the rows of the samples always, for standard errors.
    taps = {tap for name in metrics for tap in (space.main, *TAPS.get(name, ()))}
    rows = tuple(tap for tap in space.taps if tap in taps)
    row_taps = (space.main,) if set(metrics) & set(NEEDS_ROWS) else ()
    if reference.statistics is None or (reference.images and row_taps):
        real = _gather("the reference", reference.images, space, row_taps, folder)
        real = real._replace(statistics=reference.statistics or real.statistics)
    else:
        real = Gathered(reference.statistics, {}, 0.0, 0)
    gathered = _gather("the samples", samples, space, rows, folder, fresh)
    _require_same_dims(reference, gathered, real)
    sets = FeatureSets(gathered, real, space, seed, score_splits)
    figures = {}
    then = time.perf_counter()
    with progress.bar("measuring", len(metrics), "metrics") as advance:
        for done, name in enumerate(metrics):
            try:
                figures |= METRICS[name](sets)
            except NotMeasured as reason:
                figures[called(space, name)] = {"value": None, "why": f"value not measured: {reason}"}
            advance(done + 1)
    figures = {name: {**figure, "space": space.name} for name, figure in figures.items()}
    now = time.perf_counter()
    return {
        "figures": figures,
        "warnings": warnings(samples, reference, sets),
        "samples": {**gathered.statistics.description["images"], "count": samples.count, "shape": list(samples.shape)},
        "reference": _described(reference, real),
        "seconds": {
            "reference": real.seconds,
            "samples": gathered.seconds,
            "figures": now - then,
            "total": now - began,
            "images_per_second": (samples.count - gathered.from_disk) / gathered.seconds if gathered.seconds else None,
        },
    }


def _gather(what, images, space, keep, folder, fresh=False):
    with progress.bar(f"features of {what}", images.count, "images") as advance:
        try:
            return references.gather(images, space, keep, None if fresh else folder, advance)
        except OSError as error:
            raise WorkdirError(
                f"features of {what} cannot be read or stored in {folder} ({error}). Free some space, or choose "
                "another folder by DIFFUSION_CACHE; then repeat the command."
            ) from error


def _require_same_dims(reference, samples, real):
    for tap, moments in real.statistics.moments.items():
        ours = samples.statistics.moments.get(tap)
        if ours is not None and len(ours.mean) != len(moments.mean):
            raise StatisticsError(
                f"{reference.spec} has {len(moments.mean)} features for each image, but the samples have "
                f"{len(ours.mean)}. Compare images of one size and one number of channels, in the same features."
            )


def _described(reference: Reference, real: Gathered) -> dict:
    stored = real.statistics.description
    described = stored.get("images") or {"images": reference.spec, "kind": "statistics"}
    if reference.statistics is not None:
        described = {**described, "file": reference.spec, "sha256": stored.get("sha256") or described.get("sha256")}
    return {**described, "count": real.statistics.count, "space": stored["space"]}


def warnings(samples: ImageSet, reference: Reference, sets: FeatureSets) -> list[str]:
    """Warnings about figures that are biased or not comparable."""
    texts = []
    dim = len(sets.samples.statistics.moments[sets.space.main].mean)
    if samples.count <= dim:
        texts.append(
            f"{samples.count:,} samples are too few for {dim:,} features: their covariance is singular, and the "
            "Frechet distance is far too high (its bias falls as 1 / N). Do not report it; compare KID, or generate "
            "more samples than there are features."
        )
    elif samples.count != (usual := sets.space.usual) and usual:
        texts.append(
            f"published figures are of {usual:,} samples. With {samples.count:,} samples the Frechet distance of the "
            f"same model is {'higher' if samples.count < usual else 'lower'}."
        )
    count = sets.reference.statistics.count
    if count is not None and count <= dim:
        texts.append(
            f"the {count:,} images of the reference are too few for {dim:,} features: its covariance is singular, and "
            "the Frechet distance is far too high."
        )
    if sets.reference.statistics.description.get("space") is None:
        texts.append(
            f"{reference.spec} does not record how it was made, so it may have been measured under another protocol."
        )
    ours, theirs = list(samples.shape), (sets.reference.statistics.description.get("images") or {}).get("shape")
    if theirs is not None and theirs != ours:
        texts.append(
            f"the samples have the shape {ours}, but the images of the reference {theirs}. The figures also measure "
            "this difference. Compare images of one size and one number of channels."
        )
    if reference.images is not None and reference.images.fingerprint == samples.fingerprint:
        return [*texts, "the samples are the reference itself."]
    return texts + _copies(sets)


def _copies(sets: FeatureSets) -> list[str]:
    """Warnings about samples with exactly the features of another sample, or of an image of the reference."""
    marks = lambda rows: [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).digest() for row in rows]
    samples = marks(sets.samples.rows[sets.space.main])
    reference = set(marks(sets.reference.rows.get(sets.space.main, ())))
    texts = []
    if repeated := len(samples) - len(set(samples)):
        texts.append(
            f"{repeated:,} of the {len(samples):,} samples repeat an earlier one: their features are exactly equal. "
            "The standard errors treat them as separate draws."
        )
    if shared := sum(mark in reference for mark in samples):
        texts.append(
            f"{shared:,} of the {len(samples):,} samples are copies of images of the reference: their features are "
            "exactly equal."
        )
    return texts


# ==== A request of the command line ====


def space_of(request: Request) -> tuple[Space, dict]:
    """The features of a request, and their entry in a record.

    Returns:
        (the features, {"features", "protocol" or None, "weights" or None}).

    Raises:
        ConfigError: for a name that is unknown or missing.
        WeightsError: if the network cannot be read, or has another digest.
    """
    if request.features not in FEATURES:
        raise unknown("--features", request.features, FEATURES, "features")
    if request.features == "pixels":
        if request.protocol or request.inception:
            raise ConfigError("--features=pixels takes neither --protocol nor --inception.")
        extractor = features.pixels(None, None)
        return references.function_space(extractor), {"features": extractor.record, "protocol": None, "weights": None}
    if protocol := find_protocol(request.protocol):
        return _network_space(protocol, request)
    if request.encoder:
        valid = [*encoder_protocols.PROTOCOLS, *clip_protocols.PROTOCOLS]
        raise ConfigError(f"--encoder is valid only with --protocol={' or '.join(valid)}.")
    if request.protocol not in protocols.PROTOCOLS:
        valid = [*sorted(protocols.PROTOCOLS), *encoder_protocols.PROTOCOLS, *clip_protocols.PROTOCOLS]
        if not request.protocol:
            raise ConfigError(
                "--protocol is missing: name the protocol of the published figure that yours is compared with. Valid: "
                f"{', '.join(valid)}."
            )
        raise unknown("--protocol", request.protocol, valid, "protocol")
    if not request.inception:
        raise ConfigError(
            "--inception is missing: name the file of FID's Inception-v3. docs/evaluation.md says where to get it. "
            "(--features=pixels needs none.)"
        )
    protocol = protocols.PROTOCOLS[request.protocol]
    net = inception.load(request.inception)
    if not request.inception_sha256:
        inception.require_known(net)
    elif net.digest != request.inception_sha256:
        raise WeightsError(
            f"{request.inception} has the digest {net.digest}, not the {request.inception_sha256} that "
            "--inception_sha256 names."
        )
    others = dict.fromkeys(tap for name in request.metrics for tap in TAPS.get(name, ()))
    taps = ("2048", *(tap for tap in others if tap != "logits" or net.logits))
    description = {
        "features": {"features": "Inception-v3, 2048 averages of the last block", "dimensions": 2048},
        "protocol": protocols.record(protocol),
        "weights": inception.record(net),
    }
    return references.inception_space(net, protocol, taps), description


def find_protocol(name: str | None) -> EncoderProtocol | ClipProtocol | None:
    """The protocol of that name if its network is named by --encoder, an image encoder or a network of clips.

    None for a protocol of Inception, for an unknown name, and for None.
    """
    return encoder_protocols.PROTOCOLS.get(name or "") or clip_protocols.PROTOCOLS.get(name or "")


def opened(spec: str, request: Request) -> ImageSet:
    """Opens the pictures that a request names, or the clips under a protocol of clips."""
    protocol = clip_protocols.PROTOCOLS.get(request.protocol)
    if not spec.startswith("{"):
        if protocol is None:
            return image_sets.open_set(spec, request.data_dir, request.size)
        return clip_sets.open_set(spec, protocol.frames, protocol.every, request.size, request.seed)
    source = data.named(spec)
    examples = source.spec
    valid = "clips of bytes [F, H, W, C]" if protocol else "pictures of bytes [H, W, C]"
    if request.size or not isinstance(examples.shape, tuple) or examples.dtype != "uint8" or examples.size < 0:
        raise ImageSetError(f"{spec} has {examples.dtype} {examples.shape}. Valid: {valid}, without --size.")
    read = lambda start, stop: np.stack(
        [record[examples.entry] for record in pipeline.fetch(source, np.arange(start, stop))]
    )
    shape = (examples.size, *examples.shape)
    mark = json.dumps([spec, source.fingerprint()], sort_keys=True, default=str)
    if protocol:
        records = clip_sets.from_records(spec, shape, read, mark, protocol.frames, protocol.every, request.seed)
    else:
        records = image_sets.from_records(spec, shape, read, mark)
    stamp = getattr(source, "stamp", None)
    return records._replace(stamp=stamp()) if stamp else records


def _network_space(protocol: EncoderProtocol | ClipProtocol, request: Request) -> tuple[Space, dict]:
    """`space_of` for a protocol whose network is an image encoder or a network of clips."""
    if request.inception:
        raise ConfigError(f"--protocol={protocol.name} takes no --inception: its network is {protocol.network}.")
    if not request.encoder:
        raise ConfigError(
            f"--encoder is missing: name the folder or file of {protocol.network}; docs/evaluation.md says which."
        )
    if isinstance(protocol, ClipProtocol):
        network = clip_protocols.load(protocol, request.encoder)
        description = {
            "features": {"features": network.name, "dimensions": network.dimensions},
            "protocol": clip_protocols.described(protocol),
            "weights": clip_protocols.record(network),
        }
        return clip_protocols.space(protocol, network), description
    encoder = encoder_protocols.load(protocol, request.encoder)
    description = {
        "features": {"features": protocol.network, "dimensions": protocol.dimensions},
        "protocol": encoder_protocols.described(protocol),
        "weights": encoder_protocols.record(encoder),
    }
    return encoder_protocols.space(encoder), description


def run(request: Request, fresh: bool = False) -> dict:
    """Compares the samples of a request with its reference; returns the entries of `measure` and of `space_of`."""
    if not request.metrics:
        raise ConfigError(f"--metrics is empty. Valid: one or several of {', '.join(METRICS)}.")
    if request.seed < 0:
        raise ConfigError(f"--seed={request.seed}. Valid: at least 0.")
    for name in request.metrics:
        if name not in METRICS:
            raise unknown("--metrics", name, METRICS, "metric")
    space, description = space_of(request)
    reference = references.open_reference(request.reference, opened=lambda spec: opened(spec, request))
    samples = opened(request.samples, request)
    splits = (description["protocol"] or {}).get("score_splits", "ten, shuffled")
    measured = measure(
        samples, reference, space, request.metrics, request.seed, splits, references.cache_folder(), fresh
    )
    if space.main in inception.TAPS and description["weights"]["sha256"] not in KNOWN:
        measured["warnings"].append("the Inception weights are not those of the published figures.")
    return measured | description


def make_reference(request: Request, out: pathlib.Path) -> statistics.Statistics:
    """Computes the statistics of a request's reference, and writes them.

    Args:
        request: the request; its samples are not read.
        out: the file, .safetensors, .npz or .pkl.

    Raises:
        ConfigError: for a file of another ending, or one that cannot hold statistics of these features.
    """
    if out.suffix not in (".safetensors", ".npz", ".pkl"):
        raise ConfigError(
            f"--out={out}: statistics can only be written as .safetensors, or as .npz or EDM2's .pkl for other "
            "programs. (To measure samples, name --samples.)"
        )
    space, _ = space_of(request)
    if out.suffix == ".pkl" and not space.edm2:
        raise ConfigError(
            f"--out={out}: EDM2's tools know no distance in the features of {space.name}. Valid: .safetensors, .npz."
        )
    images = opened(request.reference, request)
    foreign = out.suffix == ".npz"
    gathered = _gather("the reference", images, space, (space.main,) * foreign, references.cache_folder())
    if foreign:
        statistics.write_npz(out, gathered.statistics, space.main, gathered.rows[space.main])
    elif out.suffix == ".pkl":
        statistics.write_pickle(out, gathered.statistics, space.main, space.edm2)
    else:
        statistics.write(out, gathered.statistics)
    return gathered.statistics


def parse(fields: Mapping[str, Any]) -> Request:
    """The checked request of a record; nothing in it is executed.

    Raises:
        ValueError: if fields are missing or unknown, or one has another type.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"its request is of type {type(fields).__name__}, not a table of fields")
    fields = {"autoencoder": "", "size": 0, "encoder": "", **fields}  # records of earlier versions lack these fields
    if set(fields) != set(Request._fields):
        raise ValueError(f"its request has the fields {sorted(fields)}, not {sorted(Request._fields)}")
    for name, value in fields.items():
        kind = {"metrics": (list, tuple), "seed": int, "size": int}.get(name, str)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"its request.{name} is {value!r}, of the wrong type")
    if not all(isinstance(name, str) for name in fields["metrics"]):
        raise ValueError("its request.metrics are not names")
    return Request(**{**fields, "metrics": tuple(fields["metrics"])})
