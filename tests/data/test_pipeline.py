"""Order, shuffle and augmentation are functions of (seed, global example index) alone."""

import threading
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from diffusion.data import pipeline, transforms
from diffusion.data.sources import DataSpec
from diffusion.data.sources.spec import Leaf
from tests.reliability.driver import until

SIZE, SHAPE = 23, (6, 6, 1)
SPEC = DataSpec("numbers", "train", SHAPE, 5, SIZE)
AUGMENT = (transforms.flip(), transforms.crop(2))


@pytest.fixture
def source():
    """23 random images; the first pixel holds the row, so that an unaugmented image names its record."""
    images = np.random.default_rng(0).integers(0, 256, (SIZE, *SHAPE), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(SIZE)
    return [{"image": image, "label": row % 5} for row, image in enumerate(images)]


@pytest.fixture(params=["sorted", "keyed"])
def order(request, monkeypatch):
    """Both kinds of permutation; the second is otherwise that of more records than a test has."""
    if request.param == "keyed":
        monkeypatch.setattr(pipeline, "SORTED", 0)


def take(source, count, **arguments):
    """The first `count` batches, unless said otherwise of 4 examples with seed 7."""
    arguments = {"seed": 7, "batch_size": 4} | arguments
    iterator = pipeline.batches(source, SPEC, **arguments)
    try:
        return list(islice(iterator, count))
    finally:
        iterator.close()


def concatenate(batches):
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def assert_equal(got, expected):
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert got[key].dtype == value.dtype
        np.testing.assert_array_equal(got[key], value, err_msg=key)


def rows(source, start, count, **arguments):
    """The records that the examples start..start + count - 1 come from."""
    batch = take(source, 1, start=start, batch_size=count, **arguments)[0]
    return batch["image"][:, 0, 0, 0].tolist()


def test_batches_have_the_promised_form(source):
    batch = take(source, 1)[0]
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "image": ((4, 6, 6, 1), "uint8"),
        "label": ((4,), "int32"),
        "index": ((4,), "int64"),
    }


@pytest.mark.extended
@pytest.mark.parametrize("augment", [(), AUGMENT], ids=["plain", "augmented"])
@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "ordered"])
@pytest.mark.parametrize("start", [0, 4 * 7, 61])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_shares_of_processes_make_up_the_global_batch(source, order, processes, start, shuffle, augment):
    options = {"shuffle": shuffle, "augment": augment}
    whole = take(source, start // 4 + 14, **options)
    expected = concatenate(whole)
    shares = [
        take(source, 12, start=start, positions=range(4)[p * 4 // processes : (p + 1) * 4 // processes], **options)
        for p in range(processes)
    ]
    for step in range(12):
        joined = concatenate([share[step] for share in shares])
        at = slice(start + 4 * step, start + 4 * step + 4)
        assert_equal(joined, {key: value[at] for key, value in expected.items()})


@pytest.mark.parametrize("batch_size", [1, 5, 10, 60])
def test_batches_only_cut_one_sequence(source, order, batch_size):
    expected = concatenate(take(source, 15, augment=AUGMENT))
    assert_equal(concatenate(take(source, 60 // batch_size, batch_size=batch_size, augment=AUGMENT)), expected)


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_threads_do_not_change_the_batches(source, threads):
    expected = concatenate(take(source, 30, augment=AUGMENT, threads=2))
    assert_equal(concatenate(take(source, 30, augment=AUGMENT, threads=threads)), expected)


def test_labels_belong_to_their_images(source):
    batch = concatenate(take(source, 20))
    np.testing.assert_array_equal(batch["label"], batch["image"][:, 0, 0, 0] % 5)
    np.testing.assert_array_equal(batch["index"], np.arange(80))


def test_every_epoch_is_another_permutation(source, order):
    epochs = [tuple(rows(source, epoch * SIZE, SIZE)) for epoch in range(6)]
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert len({*epochs, tuple(range(SIZE))}) == 7


def test_seeds_and_epochs_never_share_an_order(source, order):
    orders = {tuple(rows(source, epoch * SIZE, SIZE, seed=seed)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_permutations_are_uniform():
    counts = Counter(tuple(pipeline.permutation(3, seed, epoch)) for seed in range(60) for epoch in range(20))
    assert len(counts) == 6
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 25  # 5 degrees of freedom: probability 1.4e-4


def test_an_order_of_version_1_is_sorted_for_any_number_of_records(monkeypatch):
    index = np.arange(3 * SIZE)
    sorted_ = np.concatenate([pipeline.permutation(SIZE, 7, epoch) for epoch in range(3)])
    monkeypatch.setattr(pipeline, "SORTED", SIZE)
    np.testing.assert_array_equal(pipeline.records_at(index, SIZE, 7), sorted_)
    monkeypatch.setattr(pipeline, "SORTED", SIZE - 1)
    np.testing.assert_array_equal(pipeline.records_at(index, SIZE, 7, order=1), sorted_)
    assert not np.array_equal(pipeline.records_at(index, SIZE, 7), sorted_)


def test_without_shuffle_the_order_is_the_sources(source):
    assert rows(source, 40, 30, shuffle=False) == [i % SIZE for i in range(40, 70)]


def test_augmentation_of_a_record_changes_from_epoch_to_epoch(source):
    first, second = (
        take(source, 1, start=epoch * SIZE, batch_size=SIZE, shuffle=False, augment=AUGMENT)[0]["image"]
        for epoch in range(2)
    )
    changed = [not np.array_equal(a, b) for a, b in zip(first, second)]
    assert sum(changed) > SIZE / 2


def test_augmentation_depends_on_the_seed(source):
    first, second = (take(source, 5, seed=seed, shuffle=False, augment=AUGMENT) for seed in range(2))
    assert not np.array_equal(concatenate(first)["image"], concatenate(second)["image"])


def test_each_augmentation_has_draws_of_its_own(source):
    """What one augmentation draws depends neither on how much the one before it draws, nor repeats it."""
    drawn = {"greedy": [], "modest": [], "first": [], "second": []}

    def record(name, count):
        def apply(rng, image):
            drawn[name].append(tuple(rng.random(count)))
            return image

        return apply

    take(source, 5, augment=(record("first", 1), record("modest", 1)), threads=0)
    take(source, 5, augment=(record("greedy", 9), record("second", 1)), threads=0)
    assert drawn["modest"] == drawn["second"]
    assert not set(drawn["first"]) & set(drawn["modest"])
    assert [draws[:1] for draws in drawn["greedy"]] == drawn["first"]
    assert len(set(drawn["first"])) == 20


def test_all_pictures_of_a_condition_move_as_the_example_does():
    """Rolled by a number of pixels that is drawn; the number, which is no picture, stays."""
    shift = lambda rng, image: np.roll(image, int(rng.integers(6)), axis=1)
    shift.moves = True
    columns = np.broadcast_to(np.arange(6, dtype=np.uint8), (6, 6))
    condition = {"mask": columns, "two": np.stack([columns, columns + 10], -1), "number": np.arange(6)}
    leaves = {name: Leaf(leaf.shape, str(leaf.dtype)) for name, leaf in condition.items()}
    records = [{"image": columns[..., None], "condition": condition}] * 8
    batch = next(pipeline.batches(records, SPEC._replace(num_classes=0, condition=leaves), seed=0, batch_size=8,
                                  augment=(shift,), threads=0))  # fmt: skip
    moved = batch["image"][..., 0]
    assert len({tuple(row) for row in moved[:, 0].tolist()}) > 2
    np.testing.assert_array_equal(batch["condition"]["mask"], moved)
    np.testing.assert_array_equal(batch["condition"]["two"], np.stack([moved, moved + 10], -1))
    assert (batch["condition"]["number"] == np.arange(6)).all()


def test_clips_and_pictures_of_a_condition_move_as_the_clip_does():
    """Mirrored or not, the mask of each pixel, and a picture of the frames' sides, stay where they belong."""
    clip = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 2), np.uint8)
    condition = {"mask": clip[..., 0], "two": clip, "first": clip[0], "number": np.arange(6)}
    leaves = {name: Leaf(leaf.shape, str(leaf.dtype)) for name, leaf in condition.items()}
    spec = SPEC._replace(num_classes=0, shape=clip.shape, condition=leaves)
    assert spec.masks and not spec._replace(condition={"number": leaves["number"]}).masks
    records = [{"image": clip, "condition": condition}] * 16
    augment = (transforms.flip(), transforms.crop(2))
    batch = next(pipeline.batches(records, spec, seed=0, batch_size=16, augment=augment, threads=0))
    moved = batch["image"]
    assert len({frames.tobytes() for frames in moved}) > 8
    np.testing.assert_array_equal(batch["condition"]["mask"], moved[..., 0])
    np.testing.assert_array_equal(batch["condition"]["two"], moved)
    np.testing.assert_array_equal(batch["condition"]["first"], moved[:, 0])
    assert (batch["condition"]["number"] == np.arange(6)).all()


def test_a_mask_of_what_is_real_leaves_a_part_of_each_record():
    """Of records with several parts one part may be empty, and not all."""
    real = lambda points, bonds: {"condition": {"real": {"points": np.array(points), "bonds": np.array(bonds)}}}
    found = pipeline.stacked_conditions([real([True, False], [False]), real([False, False], [True])])
    np.testing.assert_array_equal(found["condition"]["real"]["points"], [[True, False], [False, False]])
    with pytest.raises(ValueError, match='the mask "real" of record 1 of a batch is empty'):
        pipeline.stacked_conditions([real([True, False], [False]), real([False, False], [False])])


def test_epoch_is_every_record_once_in_order(source):
    batches = list(pipeline.epoch(source, SPEC, 5))
    assert [len(batch["index"]) for batch in batches] == [5, 5, 5, 5, 3]
    expected = {
        "image": np.stack([record["image"] for record in source]),
        "label": np.array([record["label"] for record in source], np.int32),
        "index": np.arange(SIZE, dtype=np.int64),
    }
    assert_equal(concatenate(batches), expected)


def test_a_dataset_without_classes_has_labels_of_zero(source):
    unlabelled = [{"image": record["image"]} for record in source]
    batch = next(pipeline.epoch(unlabelled, SPEC._replace(num_classes=0), SIZE))
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], np.zeros(SIZE))


def test_rows_are_read_together_where_the_source_can(source):
    class Together(list):
        calls = 0

        def __getitems__(self, rows):
            Together.calls += 1
            return [self[row] for row in rows]

    assert_equal(concatenate(take(Together(source), 3, threads=0)), concatenate(take(source, 3)))
    assert Together.calls == 3


def test_close_ends_the_threads(source):
    def alive():
        return {thread for thread in threading.enumerate() if thread.name.startswith("grain")}

    before = alive()
    iterator = pipeline.batches(source, SPEC, seed=0, batch_size=4, threads=3)
    next(iterator)
    ours = alive() - before
    assert ours
    iterator.close()
    until(lambda: not ours & alive())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"positions": [0, 4]}, "positions must be in .* = 3, got 4"),
        ({"positions": [-1]}, "positions must be in .*, got -1"),
        ({"seed": -1}, "seed must be in .*, got -1"),
        ({"start": -4}, "start must be in .*, got -4"),
        ({"threads": -1}, "threads must be in .*, got -1"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_read(source, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline.batches(source, SPEC, **({"seed": 0, "batch_size": 4} | arguments))


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="is empty"):
        pipeline.epoch([], SPEC, 4)


def test_an_augmentation_that_changes_the_shape_is_named(source):
    with pytest.raises(ValueError, match=r"uint8 \(3, 6, 1\), but expected is uint8 \(6, 6, 1\)"):
        take(source, 1, augment=(lambda rng, image: image[:3],))


def test_errors_of_the_source_reach_the_reader(source):
    class Broken(list):
        def __getitem__(self, row):
            if row == 9:
                raise ValueError("record 9 cannot be used")
            return super().__getitem__(row)

    iterator = pipeline.epoch(Broken(source), SPEC, 5)
    assert next(iterator)["index"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="record 9 cannot be used"):
        next(iterator)


@pytest.mark.parametrize("name", sorted(transforms.AUGMENTATIONS))
@pytest.mark.parametrize("shape", [(8, 8, 1), (12, 7, 3), (6, 9, 4)])
def test_a_batch_is_augmented_at_once_as_each_image_is(name, shape):
    """Each image has the draws of its own Philox stream, whichever form of the augmentation is used."""
    function = transforms.AUGMENTATIONS[name]()
    images = [*np.random.default_rng(1).integers(0, 256, (40, *shape), np.uint8)]
    index = np.arange(5, 45)
    together = pipeline.augmented(function, pipeline.rngs_of(7, index, 2), images)
    for i, image, found in zip(index.tolist(), images, together):
        stream = np.random.Philox(key=np.array([7, 1], np.uint64), counter=np.array([0, i, 2, 0], np.uint64))
        np.testing.assert_array_equal(found, function(np.random.Generator(stream), image))
    assert any((found != image).any() for found, image in zip(together, images))


def test_an_augmentation_without_a_form_for_batches_takes_images_of_any_size():
    images = [np.zeros((side, side, 1), np.uint8) for side in (4, 6)]
    found = pipeline.augmented(lambda rng, image: image + 1, pipeline.rngs_of(0, np.arange(2), 0), images)
    assert [each.shape for each in found] == [(4, 4, 1), (6, 6, 1)] and all((each == 1).all() for each in found)
    flipped = pipeline.augmented(transforms.AUGMENTATIONS["flip"](), pipeline.rngs_of(0, np.arange(2), 0), images)
    assert [each.shape for each in flipped] == [(4, 4, 1), (6, 6, 1)]


@pytest.mark.parametrize("entry", ["x", "condition"])
@pytest.mark.parametrize("number", [2**31, 2**32 + 5, -(2**31) - 1])
def test_integers_that_32_bits_do_not_hold_are_refused(entry, number):
    """2^32 + 5 became 5."""
    others = {"condition": Leaf((2,), "int64")} if entry == "condition" else {}
    spec = DataSpec("symbols", "train", (2,), 0, 1, dtype="int32", condition=others.get("condition"))
    record = {"x": np.array([1, 2]), entry: np.array([1, number])}
    with pytest.raises(ValueError, match=rf"holds the integer {number}\. Valid: -2147483648 \.\. 2147483647, as int32"):
        next(pipeline.batches([record], spec, seed=0, batch_size=1, threads=0))
    record[entry] = np.array([-(2**31), 2**31 - 1])
    batch = next(pipeline.batches([record], spec, seed=0, batch_size=1, threads=0))
    np.testing.assert_array_equal(batch[entry][0], record[entry])
