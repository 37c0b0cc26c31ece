"""Checks whether records that should be held out were used in training, and refuses or reports this.

Figures that compare a model with records outside of its training (the floor, copying, nearest neighbours, likelihoods,
classifiers) call `require` first. A FID under a published protocol does not, since the user names its reference, which
may be the training set.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion.data import fingerprints, packing, shared_records, sources
from diffusion.data.sources import python_objects
from diffusion.data.sources.spec import listed
from diffusion.data.sources.streams import Stream
from diffusion.experiments.evaluation import real_images
from diffusion.experiments.evaluation.real_images import Split
from diffusion.experiments.run_folder import workdir
from diffusion.recipe import ConfigError, data
from diffusion.recipe.recipe import Recipe
from diffusion.recipe.values import plain
from diffusion.training.checkpointing import checkpoints

VALID = "splits that share none, e.g. train on 'train[:90%]' and compare with 'train[90%:]'"
COMPARED = 100_000  # the most records of a set whose contents are read only to compare them
ACCEPT = "--config.evaluate.overlap=accept, and reports say how many they are"


class Overlap(ConfigError):
    """Some records are both trained on and held out."""


class TrainedOn(NamedTuple):
    """The number of reference records that are among the training records.

    Attributes:
        count: the number of reference records that were trained on.
        of: the number of reference records.
    """

    count: int
    of: int

    def __str__(self) -> str:
        return f"trained on: {self.count:,} of {self.of:,}"


def trained_on(train: Split, real: Split) -> TrainedOn:
    """Counts the shared records by their numbers; by the content of the examples if the sets have no common dataset.

    Args:
        train: the records of the training.
        real: the records that samples are compared with.
    """
    total = len(real.images)
    count = shared_records.by_number(real.stored, train.stored)
    shared = shared_records.by_content(real.images, train.images) if count is None else min(count, total)
    return TrainedOn(shared, total)


def require(config: Mapping, train: Split, real: Split) -> TrainedOn:
    """Refuses to compare with records that a model was trained on, unless config.evaluate.overlap = "accept".

    A model has been trained on the records of its run, and on the records of the runs that it started from or learned
    from, as far as their folders and their data still exist.

    Args:
        config: the run's config.
        train, real: the records, as in `trained_on`.

    Returns:
        The number of shared records, the largest over these trainings.

    Raises:
        ConfigError: names both splits, and the number of records that they share.
    """
    require_same_classes(train.spec, real.spec)
    shared, by = trained_on(train, real), train.spec
    for source in _records_of_earlier_runs(config):
        count = shared_records.by_number(real.stored, shared_records.identify(source)) or 0
        if count > shared.count:
            shared, by = TrainedOn(min(count, shared.of), shared.of), source.spec
    return _checked(config, shared, real.spec, by)


def require_same_classes(train: sources.DataSpec, other: sources.DataSpec) -> None:
    """Refuses records in which the number of a class stands for another class than in the training records.

    Classes are numbered by the labels that occur in a split, so that one without some class would shift those after it.

    Args:
        train: the description of the records of the training.
        other: the description of the records that samples are compared with.

    Raises:
        ConfigError: names the classes of both.
    """
    if not train.classes or other.classes == train.classes[: len(other.classes)]:
        return
    name = lambda spec: f"{spec.name} ({spec.split})"
    raise ConfigError(
        f"the held-out examples, {name(other)}, have the classes {listed(other.classes)}, but the training examples, "
        f"{name(train)}, have {listed(train.classes)}, so the same number would mean different classes. Valid: a split "
        "with the same classes (config.evaluate.split), or one list of names for both: "
        'config.data.source.classes = ("...", "...")'
    )


def _records_of_earlier_runs(config: Mapping, depth: int = 8) -> Iterator[sources.Source | Stream]:
    """The training records of the runs whose weights a run started from or learned from, and of their earlier runs."""
    for path in (config["init_from"]["path"], config["teacher"]["path"]):
        folder = pathlib.Path(path).expanduser()
        if not path or not depth or not (folder / "config.json").is_file():
            continue
        with contextlib.suppress(ConfigError, workdir.WorkdirError):  # Python built the run, or its data are gone
            earlier = workdir.read_config(folder)
            yield data.source(earlier, earlier["data"]["split"])
            yield from _records_of_earlier_runs(earlier, depth - 1)


def _checked(config: Mapping, shared: TrainedOn, real: sources.DataSpec, train: sources.DataSpec) -> TrainedOn:
    """The number of shared records; refuses any unless config.evaluate.overlap = "accept"."""
    if shared.count and config["evaluate"]["overlap"] != "accept":
        raise Overlap(
            f"{shared.count:,} of the {shared.of:,} records of {real.split!r}, which samples are compared with "
            f"(config.evaluate.split), are among those of {train.split!r}, which the model is trained on; the floor, "
            f"nearest neighbours, likelihoods and classifiers need others. Valid: {VALID}; or {ACCEPT}. (An FID "
            "against the training set is measured without --workdir: diffusion evaluate --samples=RUN/samples.npz "
            f"--reference=NAME@{train.split} --protocol=NAME --inception=FILE --out=FILE.json.)"
        )
    return shared


def require_trained_split(config: Mapping, saved: Mapping) -> None:
    """Refuses a config whose training splits differ from the splits that the run was trained on.

    Args:
        config: the run's config, perhaps changed by flags.
        saved: the config in the run's folder.

    Raises:
        ConfigError: names the split of the training.
    """
    said, trained = ([one["data"]["split"], *_splits(plain(one["data"]["source"]))] for one in (config, saved))
    if said != trained:
        raise ConfigError(
            f"config.data.split = {', '.join(map(repr, said))}, but the run was trained on "
            f"{', '.join(map(repr, trained))}, which cannot be changed afterwards. Valid: the split of the training; "
            "set config.evaluate.split to choose what samples are compared with."
        )


def require_trained_data(config: Mapping, run_folder: str | pathlib.Path) -> None:
    """Refuses data that have changed since the run's last checkpoint, since parts of a split then hold other records.

    A picture that is added to a folder moves others between "train[:90%]" and "train[90%:]", so that trained records
    count as held out. Runs on latents, runs that tune, and checkpoints of earlier versions are not checked, since they
    do not store the fingerprint of their data.

    Args:
        config: the run's config, as in `require_trained_split`.
        run_folder: the run's folder.

    Raises:
        ConfigError: names what differs; never with config.data.changed = "accept".
    """
    settings = config["data"]
    unchecked = settings["latents"]["dir"] or config["base"]["path"] or settings["changed"] == "accept"
    if unchecked or not (steps := checkpoints.steps(run_folder)):
        return
    try:
        before = checkpoints.read_about(run_folder, max(steps)).get("data") or {}
    except checkpoints.CheckpointError:  # samples are evaluated without their checkpoint
        return
    if changes := fingerprints.changes(before, data.source(config, settings["split"]).fingerprint()):
        raise ConfigError(
            f"the data have changed since {run_folder} was trained on them ({'; '.join(changes)}), so that records "
            "that were trained on may now count as held out. Valid: the data of the training; or "
            "--config.data.changed=accept, by which diffusion evaluate accepts the present data."
        )


def _splits(entry: Any) -> Iterator[str]:
    """The splits in the entry of a source, and in the entries within it."""
    for key, value in entry.items() if isinstance(entry, Mapping) else enumerate(entry):
        if key == "split":
            yield str(value)
        elif isinstance(value, (Mapping, tuple, list)):
            yield from _splits(value)


def at_start(recipe: Recipe, source: sources.Source | Stream) -> str:
    """The sentence that a run prints before it trains, about the records that its samples are compared with.

    Args:
        recipe: the run's recipe.
        source: the records that it trains on.

    Returns:
        One line; "" if these records are held out, or if the run makes no samples.

    Raises:
        ConfigError: if the numbers of the records show that some are both trained on and held out, or if both sets
            number their classes differently.
    """
    if not recipe.makes_samples:
        return ""
    try:
        other = open_held_out(recipe)
        source = data.open_recipe(recipe) if recipe.on_latents else source
    except (ConfigError, sources.DamagedRecord) as error:
        return "" if recipe.on_latents else f"no records are held out ({error}), and an evaluation needs some: {VALID}"
    if other is None:
        return "no records are held out, and an evaluation needs some: Recipe(held_out=records)"
    require_same_classes(source.spec, other.spec)
    count = _by_number(other, source)
    number = max(other.spec.size, 0)
    if count is None and not isinstance(other, Stream) and other.fingerprint() == source.fingerprint():
        count = number
    if not count:
        return ""
    shared = TrainedOn(min(count, number or count), number or count)
    _checked(recipe.config, shared, other.spec, source.spec)
    return f"of the records that samples are compared with, {shared}"


def split_in_the_loop(config: Mapping) -> str:
    """The split that a run is measured on while it trains: "validation" if it is held out, else config.evaluate.split.

    Raises:
        ConfigError: if the data have neither split.
    """
    split = config["evaluate"]["split"]
    try:
        validation = data.source(config, "validation")
    except ConfigError:
        data.source(config, split)
        return split
    return split if _by_number(validation, data.source(config, config["data"]["split"])) else "validation"


def require_sources(recipe: Recipe, train: sources.Source | Stream, other: sources.Source | Stream) -> TrainedOn | None:
    """Does what `require` does, for records that are not in memory.

    If the numbers of the records do not compare, their contents are compared, in sets of at most `COMPARED` records.

    Args:
        recipe: the run's recipe.
        train: the records of the training.
        other: the records that are held out.

    Returns:
        The number of shared records; None if it is not known.

    Raises:
        ConfigError: names both splits, and the number of records that they share.
    """
    require_same_classes(train.spec, other.spec)
    size = max(other.spec.size, 0)
    counts = [_count(other, train)]
    counts += [_by_number(other, earlier) or 0 for earlier in _records_of_earlier_runs(recipe.config)]
    known = [count for count in counts if count is not None]
    most = max(known, default=0)
    shared = _checked(recipe.config, TrainedOn(min(most, size or most), size or most), other.spec, train.spec)
    return None if counts[0] is None and not shared.count else shared


def count_in_reference(config: Mapping, reference: str, data_dir: str = "") -> int | None:
    """The number of records of a reference, NAME@SPLIT, that the model was trained on; None if unknown.

    Args:
        config: the run's config.
        reference: the text of --reference; a file of statistics has no records.
        data_dir: the folder of prepared datasets.
    """
    try:
        return _by_number(data.named(reference, data_dir), data.source(config, config["data"]["split"]))
    except (ConfigError, sources.DamagedRecord):
        return None


def _by_number(other: sources.Source | Stream, train: sources.Source | Stream) -> int | None:
    """The number of records of a source that are among the training records, by their numbers; None if unknown."""
    return shared_records.by_number(shared_records.identify(other), shared_records.identify(train))


def _count(other: sources.Source | Stream, train: sources.Source | Stream) -> int | None:
    """The number of records of a source that are among the training records; None if unknown."""
    count = _by_number(other, train)
    if count is not None or isinstance(other, Stream) or isinstance(train, Stream):
        return count
    if other.fingerprint() == train.fingerprint():
        return len(other)
    if max(len(other), len(train)) > COMPARED:
        return None
    examples = lambda source: (
        np.asarray(packing.pack(record[source.spec.entry], source.spec.shape)) for record in real_images.records(source)
    )
    return shared_records.by_content(examples(other), examples(train))


def open_held_out(recipe: Recipe) -> sources.Source | Stream | None:
    """The records that samples of a run are compared with; None if Python built it without any.

    Raises:
        ConfigError, DamagedRecord: as `data.source`.
    """
    if recipe.data is None:
        return data.source(recipe.config, recipe.config["evaluate"]["split"])
    if recipe.held_out is None:
        return None
    return python_objects.source_of(recipe.held_out, recipe.examples.num_classes, "held out")
