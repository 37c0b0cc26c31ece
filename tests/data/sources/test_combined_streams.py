"""Mixtures, filters and captions of streams: shares, what is kept, and that all are exact from any state."""

import io
import json
import types

import numpy as np
import pytest
from PIL import Image

from diffusion.data import captions, sources
from diffusion.data.sources import combined_streams, iterated
from diffusion.data.sources.columns import Columns
from diffusion.data.sources.iterated import Iterated, is_iterable
from diffusion.data.sources.spec import DamagedRecord
from diffusion.data.sources.stream_values import Mappings, Stored
from diffusion.data.stream_batches import StreamBatches
from diffusion.text import byte_pairs
from tests.data.sources import hugging_face, stored


def numbers(first, count, **more):
    """A stream of the numbers first, first + 1, ..., pass after pass."""
    return Iterated(lambda: ({"x": np.float32([first + k]), **more} for k in range(count)))


def taken(stream, number, **options):
    batches = StreamBatches(stream, seed=0, batch_size=4, **options)
    found = [next(batches) for _ in range(number)]
    batches.close()
    return found, json.loads(json.dumps(batches.state))


def values(stream, number):
    return [int(x) for batch in taken(stream, number)[0] for x in batch["x"][:, 0]]


def is_exact_from_any_state(make, number=6, entry="x"):
    whole, _ = taken(make(), number)
    for stop in range(1, number):
        _, state = taken(make(), stop)
        rest, _ = taken(make(), number - stop, state=state, start=4 * stop)
        for ours, theirs in zip(rest, whole[stop:], strict=True):
            np.testing.assert_array_equal(ours[entry], theirs[entry])
    return True


def even(record):
    return record["number"] % 2 == 0


def numbered():
    return Iterated(lambda: ({"x": np.float32([k]), "number": k} for k in range(11)))


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 2, 7)])
def test_each_stream_has_its_share_of_any_records_in_a_row(weights):
    streams = [numbers(100 * k, 5 + k) for k in range(len(weights))]
    mixed = sources.mixture(streams, weights)
    assert mixed.spec.size == -1 and mixed.resume == "skip"
    found = values(mixed, 25)
    shares = np.array(weights) / sum(weights)
    for n in range(1, len(found) + 1):
        counts = np.bincount(np.array(found[:n]) // 100, minlength=len(weights))
        assert (np.abs(counts - shares * n) < len(weights)).all()
    for k in range(len(weights)):
        mine = [value - 100 * k for value in found if value // 100 == k]
        assert mine == [i % (5 + k) for i in range(len(mine))]  # each in its own order, over and over


def test_the_largest_share_comes_first_and_a_pass_ends_with_the_last_of_the_streams():
    """Of shares 1/10 and 9/10 the second is furthest behind for four records: .9, 1.8 - 1, 2.7 - 2 and 3.6 - 3."""
    mixed = sources.mixture([numbers(0, 1), numbers(100, 6)], (1, 9))
    cursor = mixed.cursor()
    assert [cursor.next()[0] for _ in range(4)] == [1, 1, 1, 1]
    assert [cursor.next()[0] for _ in range(6)].count(0) == 1
    even = sources.mixture([numbers(0, 2), numbers(100, 50)], (1, 1)).cursor()
    for _ in range(10):
        even.next()
    assert even.passes == 0


def test_mixtures_and_filters_within_each_other_are_exact_from_any_state():
    mixed = lambda: sources.mixture([numbered(), numbers(100, 3, number=0)], (2, 1))
    assert is_exact_from_any_state(mixed)
    assert is_exact_from_any_state(lambda: sources.filtered(mixed(), even))
    filtered = lambda: sources.filtered(numbered(), even)
    assert values(filtered(), 3) == [2 * (k % 6) for k in range(12)] and is_exact_from_any_state(filtered)
    assert is_exact_from_any_state(lambda: sources.mixture([filtered(), numbers(100, 3)], (1, 3)))
    assert filtered().fingerprint() != numbered().fingerprint()
    assert mixed().fingerprint() != sources.mixture([numbered(), numbers(100, 3, number=0)], (1, 1)).fingerprint()


def test_a_mixture_promises_what_the_least_of_its_streams_does():
    state = lambda: sources.huggingface(hugging_face.points(7))
    again = lambda: Iterated(lambda: ({"x": np.float32([k, k])} for k in range(5)))
    once = Iterated({"x": np.float32([k, k])} for k in range(5))
    assert sources.mixture([state(), state()], (1, 1)).resume == "state"
    assert sources.mixture([state(), again()], (1, 1)).resume == "skip"
    mixed = sources.mixture([again(), once], (1, 1))
    assert mixed.resume == "anew" and mixed.fingerprint().keys() == {"stream"}
    assert is_exact_from_any_state(lambda: sources.mixture([state(), again()], (1, 1)))
    with pytest.raises(ValueError, match="is a stream that can be read only once"):
        mixed.take(3)


def test_a_filter_that_keeps_one_record_finds_it_in_each_pass():
    filtered = sources.filtered(numbered(), lambda record: record["number"] == 3)
    cursor = filtered.cursor()
    assert [filtered.decode(cursor.next())["x"][0] for _ in range(3)] == [3, 3, 3]
    seen = []
    none = sources.filtered(numbered(), lambda record: bool(seen.append(record["number"])))
    seen.clear()  # of the first records
    with pytest.raises(ValueError, match="the filter keeps none of the records"):
        none.cursor().next()
    assert seen.count(3) == 2  # passes, of which the first may have begun after a record that is kept


def test_a_mixture_can_be_repeated_if_all_can_and_goes_on_only_if_all_do():
    """Streams that say what each can, whose positions have read again 3 and 4 records."""

    def stream(resume, repeatable, read_again):
        one, states = numbers(0, 5), []
        one.resume, one.repeatable = resume, repeatable
        one.cursor = lambda state=None: states.append(state) or types.SimpleNamespace(read_again=read_again)
        return one, states

    (first, of_first), (second, of_second) = stream("state", True, 3), stream("state", False, 4)
    mixed = sources.mixture([first, second], (1, 1))
    assert not mixed.repeatable
    assert mixed.cursor({"of": ["a", "b"], "taken": [2, 2]}).read_again == 7
    assert (of_first, of_second) == (["a"], ["b"])
    (fickle, of_fickle) = stream("anew", True, 0)
    sources.mixture([first, fickle], (1, 1)).cursor({"of": ["a", "b"], "taken": [2, 2]})
    assert of_first[1:] == of_fickle == [None]


def test_a_damaged_record_passes_a_filter_so_that_it_is_named():
    of = numbered()

    def damaged(raw):
        raise DamagedRecord("it is damaged.", "Mend it")

    of.metadata = damaged
    assert sources.filtered(of, lambda record: False).keeps(of.first[0])


def test_streams_of_files_are_mixed_and_filtered_by_their_columns(tmp_path):
    tars, parquets = (stored.FORMATS[name](tmp_path / name)["path"] for name in ("tar_shards", "parquet"))
    opened = lambda: sources.mixture(
        [
            sources.tar_stream(tars, classes=stored.NAMES, window=2),
            sources.filtered(
                sources.parquet_stream(parquets, classes=stored.NAMES, window=2), lambda record: record["text"] == "3"
            ),
        ],
        (3, 1),
    )
    assert opened().resume == "state" and is_exact_from_any_state(opened, entry="image")
    found, _ = taken(opened(), 4)
    images = np.concatenate([batch["image"] for batch in found])
    third = np.array([np.array_equal(image, stored.PICTURES[3]) for image in images])
    assert third.sum() >= 4 and set(np.concatenate([batch["label"] for batch in found])[third]) == {stored.LABELS[3]}
    seen = []
    sources.filtered(sources.tar_stream(tars, classes=stored.NAMES), lambda record: seen.append(record.keys()) or True)
    assert all(keys == {"cls", "txt", "label"} for keys in seen) and len(seen) == stored.NUMBER


@pytest.mark.extended
@pytest.mark.parametrize("kind", ["files", "mixture", "filtered", "captions"])
def test_another_number_of_processes_goes_on_with_the_stream(tmp_path, tokenizer, kind):
    """Two have read three batches; one and four go on: each record once, at its index, whoever reads it."""
    tars = stored.tar_shards(tmp_path / "a")["path"]
    files = lambda: sources.tar_stream(tars, classes=stored.NAMES, window=3, seed=5)
    make = {
        "files": files,
        "mixture": lambda: sources.mixture(
            [files(), sources.filtered(files(), lambda record: record["label"])], (1, 2)
        ),
        "filtered": lambda: sources.filtered(files(), lambda record: record["txt"] == "a cat"),
        "captions": lambda: captions.tokenized_stream(files(), tokenizer, ("ids",)),
    }[kind]
    whole, _ = taken(make(), 6)
    first = [taken(make(), 3, positions=mine) for mine in ([0, 1], [2, 3])]
    assert first[0][1] == first[1][1]
    for number in (1, 4):
        rows = np.arange(4).reshape(number, -1)
        parts = [taken(make(), 3, positions=mine, state=first[0][1], start=12)[0] for mine in rows]
        for step in range(3):
            indices = [part[step]["index"] for part in parts]
            assert np.concatenate(indices).tolist() == list(range(12 + 4 * step, 16 + 4 * step))  # disjoint, and all
            images = np.concatenate([part[step]["image"] for part in parts])
            np.testing.assert_array_equal(images, whole[3 + step]["image"])


def test_what_does_not_fit_is_refused(tmp_path):
    table = sources.arrays(stored.arrays(tmp_path / "a")["path"])
    tars = sources.tar_stream(stored.tar_shards(tmp_path / "b")["path"], classes=("0", "1"))
    with pytest.raises(ValueError, match=r"stream, but a\.npz has random access\. Valid:.*of one kind,"):
        sources.mixture([tars, table], (1, 1))
    with pytest.raises(ValueError, match=r"not known, so its share cannot be computed\. Valid: weights = \(1"):
        sources.mixture([numbers(0, 3), numbers(9, 3)])
    with pytest.raises(ValueError, match="keeps none of the records of"):
        taken(sources.filtered(numbered(), lambda record: False), 1)
    with pytest.raises(ValueError, match=r"the filter reads 'nubmer', but the records of.*> have only number"):
        sources.filtered(numbered(), lambda record: record["nubmer"])
    with pytest.raises(ValueError, match=r"the filter reads 'labl', but the records of a\.npz have only label"):
        sources.filtered(table, lambda record: record["labl"])


@pytest.fixture
def tokenizer(tmp_path):
    byte_pairs.write(tmp_path / "tokenizer", byte_pairs.learn(["a cat and a dog"], 600), 24)
    return tmp_path / "tokenizer"


def streams_with_captions(folder):
    return {
        "tar_stream": sources.tar_stream(stored.tar_shards(folder / "a")["path"], classes=stored.NAMES, window=3),
        "parquet_stream": sources.parquet_stream(
            stored.parquet(folder / "b")["path"], classes=stored.NAMES, condition=("label",), caption="text"
        ),
        "huggingface": sources.huggingface(hugging_face.pictures(hugging_face.IterableDataset)),
        "iterable": Iterated(
            lambda: (
                {"image": picture, "caption": f"a {stored.NAMES[label]}"}
                for picture, label in zip(stored.PICTURES, stored.LABELS)
            )
        ),
    }


@pytest.mark.extended
@pytest.mark.parametrize("name", ["tar_stream", "parquet_stream", "huggingface", "iterable"])
def test_captions_are_tokens_in_the_condition(tmp_path, tokenizer, name):
    stream = streams_with_captions(tmp_path)[name]
    captioned = captions.tokenized_stream(stream, tokenizer, ("ids", "mask"))
    vocabulary = captions.Tokenizer.open(tokenizer)
    (batch,), _ = taken(captioned, 1)
    row = {picture.tobytes(): k for k, picture in enumerate(stored.PICTURES)}
    own = {"label"} if name == "parquet_stream" else set()
    assert set(batch["condition"]) == {"ids", "mask"} | own
    for k, image in enumerate(batch["image"]):
        label = stored.LABELS[row[image.tobytes()]]
        said = f"{row[image.tobytes()]}" if own else f"a {stored.NAMES[label]}"
        np.testing.assert_array_equal(batch["condition"]["ids"][k], vocabulary([said]).ids[0])
        assert not own or batch["condition"]["label"][k] == label
    assert captioned.fingerprint() != stream.fingerprint()
    if name != "iterable":
        assert is_exact_from_any_state(lambda: captions.tokenized_stream(stream, tokenizer, ("ids",)), 4, "image")


def test_captions_that_are_none_are_named(tmp_path, tokenizer):
    of = lambda stream: captions.tokenized_stream(stream, tokenizer, ("ids", "mask"))
    path = stored.tar_shards(tmp_path / "a")["path"]
    with pytest.raises(
        ValueError, match=r"no column 'tx' for caption; its columns are png, cls, txt. Did you mean 'txt"
    ):
        sources.tar_stream(path, classes=stored.NAMES, caption="tx")
    with pytest.raises(ValueError, match="its cls is 0; a caption must be a text"):
        of(sources.tar_stream(path, label="", caption="cls", window=1))
    with pytest.raises(ValueError, match='it has no text under "caption"'):
        of(numbered())
    with pytest.raises(ValueError, match=r'cannot hold the captions too.*e\.g\. condition = \("mask",\)'):
        of(sources.tar_stream(path, label="", condition="cls"))
    empty = lambda: ({"x": np.float32([k]), "caption": "a cat" * (k != 5)} for k in range(9))
    with pytest.raises(sources.DamagedRecord, match=r"<lambda>, record 5 cannot be used: its caption is empty"):
        taken(of(Iterated(empty)), 2)
    with pytest.warns(UserWarning, match="record 5 cannot be used"):
        found, _ = taken(of(Iterated(empty)), 2, damaged="skip")
    assert found[1]["skipped"].tolist() == [0, 1, 0, 0] and found[1]["x"][:, 0].tolist() == [4, 6, 6, 7]


def test_what_is_read_one_after_another_is_an_iterable_or_a_function_without_random_access():
    class Rows:
        def __iter__(self):
            return iter(())

    class Lengthless:
        def __getitem__(self, row):
            raise IndexError

    assert all(map(is_iterable, (Rows(), lambda: iter(()), iter(()))))
    assert not any(map(is_iterable, ([1], {1: 2}, np.zeros(3), 5, Lengthless())))


@pytest.mark.parametrize("missing", ["get_state", "set_state"])
def test_an_iterator_keeps_its_state_where_that_can_be_read_and_set(missing):
    class Counter:
        def __init__(self):
            self.state = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.state += 1
            return {"x": np.float32([self.state, 0])}

        def get_state(self):
            return self.state

        def set_state(self, state):
            self.state = state

    class Passes:
        def __init__(self, kind):
            self.kind = kind

        def __iter__(self):
            return self.kind()

    assert Iterated(Passes(Counter)).resume == "state"
    without = type("Without", (Counter,), {})
    delattr(Counter, missing)
    assert Iterated(Passes(without)).resume == "skip"


def test_the_first_picture_of_a_stream_says_how_many_channels_all_have():
    def png(picture):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "png")
        return file.getvalue()

    values = Stored(Columns("a stream", ["image"]), (), "train")
    for picture in (np.full((4, 4), 7, np.uint8), np.full((4, 4, 3), 7, np.uint8)):
        np.testing.assert_array_equal(values.record({"image": png(picture)})["image"], np.full((4, 4, 1), 7))


def test_each_pass_is_told_its_epoch_and_a_buffer_is_seen_however_deep():
    class Epochs:
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter([{"x": np.float32([self.epoch, number])} for number in range(2)])

    stream = Iterated(Epochs())
    cursor = stream.cursor()
    assert [stream.decode(cursor.next())["x"][0] for _ in range(6)] == [0, 0, 1, 1, 2, 2]
    nested = types.SimpleNamespace(ex_iterable=types.SimpleNamespace(ex_iterable=types.SimpleNamespace(buffer_size=3)))
    assert iterated._buffered(types.SimpleNamespace(_ex_iterable=nested))
    del nested.ex_iterable.ex_iterable.buffer_size
    assert not iterated._buffered(types.SimpleNamespace(_ex_iterable=nested)) and not iterated._buffered([])


def test_a_stream_that_begins_anew_has_the_state_of_its_start():
    once = Iterated({"x": np.float32([number])} for number in range(9))
    batches = StreamBatches(once, seed=0, batch_size=2, state={"epoch": 0, "read": 4})
    batches.close()
    assert (batches.state, batches.read_again) == ({"epoch": 0, "read": 0}, 0)


def test_the_first_records_are_taken_by_a_cursor_of_their_own():
    stream = numbers(5, 3)
    assert [int(record["x"][0]) for record in stream.take(4)] == [5, 6, 7, 5]
    assert [int(record["x"][0]) for record in stream.records(10)] == [5, 6, 7]  # one pass
    assert [int(record["x"][0]) for record in stream.records(2)] == [5, 6]


@pytest.mark.parametrize("resume, repeatable", [("anew", True), ("state", False)])
def test_what_can_be_read_only_once_is_not_read_beside_the_run(resume, repeatable):
    stream = numbers(5, 3)
    stream.resume, stream.repeatable = resume, repeatable
    for read in (lambda: stream.take(1), lambda: next(stream.records(1))):
        with pytest.raises(ValueError, match="can be read only once"):
            read()


def test_damaged_records_are_left_out_by_choice_with_a_warning():
    def checked(record):
        if record["x"][0] == 6:
            raise ValueError("torn")
        return record

    stream = numbers(5, 3)
    stream._values.record = checked
    with pytest.warns(UserWarning, match="left out: .*torn"):
        assert [int(record["x"][0]) for record in stream.records(10, skip=True)] == [5, 7]
    with pytest.raises(DamagedRecord, match="torn"):
        list(stream.records(10))


class Kept:
    """Three records [epoch, position] a pass, as Hugging Face's datasets keep their position."""

    epoch = position = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]

    def __iter__(self):
        while self.position < 3:
            self.position += 1
            yield {"x": np.float32([self.epoch, self.position])}
        self.position = 0


def pairs_of(stream, cursor, number):
    return [tuple(stream.decode(cursor.next())["x"].astype(int).tolist()) for _ in range(number)]


def test_a_position_that_a_dataset_keeps_is_gone_on_with_in_its_epoch():
    records = Kept()
    stream = Iterated(records)
    assert stream.resume == "state" and [raw[0] for raw in stream.first] == [0, 1, 2]
    cursor = stream.cursor()
    assert pairs_of(stream, cursor, 5) == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]
    state = json.loads(json.dumps(cursor.state()))
    assert (state["epoch"], state["read"], cursor.passes) == (1, 2, 1)
    later = stream.cursor(state)
    assert pairs_of(stream, later, 3) == pairs_of(stream, cursor, 3) == [(1, 3), (2, 1), (2, 2)]
    assert later.next()[0] == 2  # the third of its pass
    assert (records.epoch, records.position, later.read_again) == (0, 0, 0)  # the caller's own is as it was


class Epochs(Kept):
    """The same without a state."""

    state_dict = load_state_dict = property()

    def __iter__(self):
        return iter([{"x": np.float32([self.epoch, number])} for number in (1, 2, 3)])


def test_records_are_read_again_in_the_epoch_of_the_state():
    stream = Iterated(Epochs())
    assert stream.resume == "skip" and stream.repeatable
    cursor = stream.cursor()
    pairs_of(stream, cursor, 5)
    state = json.loads(json.dumps(cursor.state()))
    later = stream.cursor(state)
    assert (later.read_again, later.passes) == (2, 1)
    assert pairs_of(stream, later, 2) == pairs_of(stream, cursor, 2) == [(1, 3), (2, 1)]


def test_what_is_iterated_once_loses_no_record():
    once = Iterated({"x": np.float32([0, number])} for number in range(12))
    assert once.resume == "anew" and not once.repeatable
    assert pairs_of(once, once.cursor(), 12) == [(0, number) for number in range(12)]
    same = iter([{"x": np.float32([0, number])} for number in range(12)])
    hidden = Iterated(type("Hidden", (), {"__iter__": lambda self: same})())
    assert hidden.resume == "anew" and not hidden.repeatable
    assert pairs_of(hidden, hidden.cursor(), 12) == [(0, number) for number in range(12)]


def test_an_iterator_with_a_state_is_put_back_after_its_first_records():
    class Counter:
        state = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.state += 1
            return {"x": np.float32([0, self.state])}

        def get_state(self):
            return self.state

        def set_state(self, state):
            self.state = state

    stream = Iterated(Counter())
    assert stream.resume == "state" and not stream.repeatable
    assert pairs_of(stream, stream.cursor(), 2) == [(0, 1), (0, 2)]


def test_states_and_digests_are_of_their_content():
    assert iterated._decoded(json.loads(json.dumps(iterated._encoded(b"\x00a")))) == b"\x00a"
    assert iterated._decoded({"base64": "YQ==", "x": 1}) == {"base64": "YQ==", "x": 1}
    first, second = np.zeros(2), np.ones(3)
    digest = iterated.digest_of({"a": first, "b": second, "c": "text"})
    assert digest == iterated.digest_of({"c": "text", "b": second, "a": first})
    assert digest != iterated.digest_of({"a": second, "b": first, "c": "text"})


def test_what_a_filter_sees_is_all_but_the_example_with_the_number_of_the_class():
    assert Mappings().metadata({"x": 1, "image": 2, "label": 3, "caption": "a"}) == {"label": 3, "caption": "a"}
    record = {"x": np.zeros(2, np.float32), "label": 1}
    assert Mappings(3, "test").described(record, "points")[:4:3] == ("points", 3)
    values = Stored(Columns("a stream", ["image", "kind"], label="kind"), ("cat", "dog"), "train")
    assert values.metadata({"image": b"", "kind": "dog", "size": 7}) == {"kind": "dog", "size": 7, "label": 1}
    plain = Stored(Columns("a stream", ["image"]), ("cat", "dog"), "train")
    assert plain.metadata({"image": b"", "size": 7}) == {"size": 7}
    assert plain.place({}, 4, "name") == "a stream, row 4"
    spec = plain.described({"image": np.zeros((4, 4, 1), np.uint8)}, "name")
    assert (spec.num_classes, spec.size, spec.split) == (0, -1, "train")


def test_a_filter_has_the_first_kept_records_and_counts_what_was_read_again():
    filtered = sources.filtered(numbered(), even)
    assert [value["number"] for _, value in filtered.first] == [0, 2, 4, 6]
    cursor = filtered.cursor()
    for _ in range(3):
        cursor.next()
    assert filtered.cursor(cursor.state()).read_again == 5  # the third that is kept is the fifth


def test_captions_are_stripped_read_and_part_of_what_a_stream_is():
    stream = lambda text: Iterated(lambda: ({"x": np.float32([k]), "caption": text} for k in range(3)))
    read = lambda text: {"text": np.int32([len(text)])}
    captioned = combined_streams.CaptionedStream(stream("  ab "), read)
    assert captioned.decode(captioned.first[0])["condition"]["text"].tolist() == [2]
    assert captioned.resume == "skip" and "conditions" in captioned.fingerprint()
    with pytest.raises(ValueError, match="caption") as raised:
        combined_streams.CaptionedStream(numbers(0, 3), read)
    assert not isinstance(raised.value, DamagedRecord)


class Counted(tuple):
    """Names that count how often they are listed."""

    listed = 0

    def __iter__(self):
        self.listed += 1
        return super().__iter__()


def test_a_stream_lists_its_classes_once_and_not_for_each_record():
    names = Counted(("cat", "dog"))
    values = Stored(Columns("a stream", ["x", "label"], x="x"), names, "train")
    listed = names.listed
    records = [values.record({"x": np.zeros(2, np.float32), "label": label}) for label in ("dog", "cat", 1)]
    assert [record["label"] for record in records] == [1, 0, 1]
    assert names.listed == listed
    with pytest.raises(ValueError, match=r"it: its label is \[0, 1\], which is not one of the 2 classes cat, dog"):
        values.record({"x": np.zeros(2, np.float32), "label": [0, 1]})
