"""Mixtures and filters: shares, order, what does not fit; and the entries of a config that name them."""

import numpy as np
import pytest

from diffusion.data import identities, pipeline, sound, sources
from diffusion.data.sources.sequences import Records
from diffusion.io import wav
from tests.data.sources import stored


def numbered(first, number, **more):
    return Records([{"x": np.float32([first + k]), **more} for k in range(number)])


@pytest.mark.parametrize("weights, length", [((), 40), ((1, 1), 60), ((0.9, 0.1), 100), ((1, 9), 300)])
def test_an_epoch_of_a_mixture_has_every_record_and_the_shares(weights, length):
    mixture = sources.mixture([numbered(0, 30), numbered(100, 10)], weights)
    values = [int(mixture[row]["x"][0]) for row in range(len(mixture))]
    assert len(values) == length and set(values) == {*range(30), *range(100, 110)}
    share = (weights or (30, 10))[0] / sum(weights or (30, 10))
    assert abs(np.mean(np.less(values, 100)) - share) < 0.01
    counts = np.unique(values, return_counts=True)[1]
    assert set(np.diff(np.sort(counts))) <= {*range(length)}
    batch = next(pipeline.batches(mixture, mixture.spec, seed=0, batch_size=length, threads=0))
    assert sorted(batch["x"][:, 0].astype(int)) == sorted(values)
    assert mixture.fingerprint() != sources.mixture([numbered(0, 30), numbered(101, 10)], weights).fingerprint()


def test_a_mixture_has_no_row_below_zero():
    """Row -1 is not the last record of the first source."""
    mixture = sources.mixture([Records([{"x": np.float32([i])} for i in range(n)]) for n in (3, 2)])
    with pytest.raises(IndexError, match=r"row -1 is not in 0\.\.4"):
        mixture[-1]
    with pytest.raises(IndexError, match=r"row 5 is not in 0\.\.4"):
        mixture[5]


def test_a_share_is_rounded_to_the_nearest_number_of_records():
    """An epoch of 5 12 / 7 = 8.57 records, 5 of the first source and 3.57 of the second."""
    assert len(sources.mixture([numbered(0, 5), numbered(100, 1)], (7, 5))) == 5 + 4


def test_records_of_a_mixture_are_those_of_its_sources_one_after_the_other():
    """Of 3 and 5; and of 3 and 2, which come two and a half times."""
    rows = lambda mixture: [int(mixture[row]["x"][0]) for row in range(len(mixture))]
    mixture = sources.mixture([numbered(0, 3), numbered(100, 5)])
    assert rows(mixture) == [0, 1, 2, 100, 101, 102, 103, 104]
    assert mixture.spec.size == 8 and mixture.spec.name == "38% list and 62% list"
    assert mixture.fingerprint()["ends"] == [3, 8]
    assert rows(sources.mixture([numbered(0, 3), numbered(100, 2)], (3, 5))) == [0, 1, 2, 100, 101, 100, 101, 100]


@pytest.mark.parametrize("field, value", [("dtype", "float64"), ("pairs", True), ("num_classes", 3)])
def test_sources_of_another_kind_are_not_mixed(field, value):
    other = numbered(0, 3)
    other.spec = other.spec._replace(**{field: value})
    with pytest.raises(ValueError, match="must agree in the shape and type of their examples"):
        sources.mixture([numbered(0, 3), other])


@pytest.mark.parametrize(
    "of, weights, words",
    [
        ((), (), "mixture of 0 sources"),
        ((numbered(0, 3), numbered(0, 3)), (1, 0), "a weight above 0 for each source"),
        ((numbered(0, 3), numbered(0, 3)), (1,), "a weight above 0 for each source"),
        ((numbered(0, 3), numbered(0, 3)), (1, float("inf")), "a weight above 0 for each source"),
        (
            (numbered(0, 3), Records([{"x": np.zeros(2, np.float32)}])),
            (),
            "must agree in the shape and type of their examples",
        ),
        ((numbered(0, 10**4), numbered(0, 1)), (1e-7, 1), "epoch of the mixture would have"),
    ],
)
def test_mixtures_that_do_not_fit(of, weights, words):
    with pytest.raises(ValueError, match=words):
        sources.mixture(of, weights)


def test_a_filter_keeps_records_and_decodes_no_picture(tmp_path):
    of = sources.picture_folder(stored.picture_folder(tmp_path / "data")["path"])
    seen = []
    kept = sources.filtered(of, lambda record: seen.append(record.keys()) or record["caption"] == "a dog")
    assert len(kept) == 3 == kept.spec.size and {kept[row]["label"] for row in range(3)} == {1}
    assert all("image" not in keys for keys in seen) and kept.column("caption") == ["a dog"] * 3
    assert kept.fingerprint() != of.fingerprint() and len(kept.sizes([0, 1])) == 2
    with pytest.raises(ValueError, match="keeps none of the 6 records of data"):
        sources.filtered(of, lambda record: False)


def test_sizes_of_a_mixture_are_those_of_its_records():
    """Of rows of both parts in any order, a part's records again where it is repeated."""

    class Sized(Records):
        def sizes(self, rows):
            return np.array([self[row]["x"].repeat(2) + [0, 50] for row in rows], np.int64)

    parts = [Sized([{"x": np.float32([first + k])} for k in range(number)]) for first, number in ((0, 3), (100, 2))]
    mixture = sources.mixture(parts, (1, 1))  # the two of the second come again
    assert len(mixture) == 6
    rows = [5, 0, 3, 2, 4]
    values = [int(mixture[row]["x"][0]) for row in rows]
    np.testing.assert_array_equal(mixture.sizes(rows), [[value, value + 50] for value in values])


class Told(Records):
    """Records with captions, identities and a stamp, as a source of files has them."""

    def __init__(self, name, number):
        super().__init__([{"x": np.float32([k]), "caption": f"{name} {k}"} for k in range(number)])
        self.name = name

    def identities(self):
        return identities.numbered(self.name, "all", np.arange(len(self)))

    def stamp(self):
        return f"{self.name} {len(self)}"


def test_filtered_records_stand_for_what_those_of_the_source_do():
    source = sources.solid_points(points=8, number=6)
    kept = sources.filtered(source, lambda record: record["label"] == source[0]["label"])
    assert kept.surface is source.surface and not hasattr(kept, "sound")
    source.draws = 2  # metrics of clouds take every second record, which the filter may have removed
    assert not hasattr(sources.filtered(source, lambda record: True), "surface")


def test_mixed_records_stand_for_what_those_of_all_sources_do():
    """Runs on mixtures of clouds or sounds wrote no files to look at or hear, and their metrics were refused."""
    clouds = [sources.solid_points(points=8, number=6) for _ in range(2)]
    assert sources.mixture(clouds).surface is clouds[0].surface
    clouds[1].draws = 2
    assert not hasattr(sources.mixture(clouds), "surface")
    grids = [sources.solid_distances(side=4, number=3), sources.solid_distances(side=4, number=3)]
    grids[1].surface = clouds[0].surface
    assert not hasattr(sources.mixture(grids), "surface")


def test_mixed_sounds_have_a_form_if_all_read_examples_alike(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        wav.write(tmp_path / name / "0.wav", np.zeros(64, np.float32), 8000)
    folder = lambda name, **form: sources.wav_folder(
        str(tmp_path / name), sample_rate=8000, length=64, form=sound.lapped_spectrum(8, **form)
    )
    alike = sources.mixture([folder("a"), folder("b")])
    x = np.random.default_rng(0).standard_normal((2, *alike.spec.shape))
    np.testing.assert_array_equal(alike.sound.waveform(x), folder("b").sound.waveform(x))
    for other in ({"gain": 3.0}, {"alternating": True}):
        assert not hasattr(sources.mixture([folder("a"), folder("b", **other)]), "sound")


def test_what_a_source_says_of_its_records_is_said_of_those_that_are_kept():
    of = Told("a", 5)
    odd, even = (sources.filtered(of, lambda record, rest=rest: record["x"][0] % 2 == rest) for rest in (1, 0))
    assert odd.captions() == ["a 1", "a 3"]
    np.testing.assert_array_equal(odd.identities(), of.identities()[[1, 3]])
    other = sources.filtered(Told("b", 5), lambda record: record["x"][0] % 2 == 1)
    assert len({odd.stamp(), even.stamp(), other.stamp()}) == 3


def test_what_sources_say_of_their_records_is_said_of_an_epoch_of_their_mixture():
    """Of 4 and 2 records in equal shares the two come twice."""
    parts = Told("a", 4), Told("b", 2)
    mixture = sources.mixture(parts, (1, 1))
    assert mixture.captions() == ["a 0", "a 1", "a 2", "a 3", "b 0", "b 1", "b 0", "b 1"]
    first, second = (part.identities() for part in parts)
    np.testing.assert_array_equal(mixture.identities(), np.concatenate([first, second, second]))
    others = sources.mixture(parts, (1, 2)), sources.mixture((Told("c", 4), Told("b", 2)), (1, 1))
    assert len({mixture.stamp(), *(other.stamp() for other in others)}) == 3
    unknown = sources.mixture([Told("a", 4), numbered(0, 4)])
    assert unknown.identities() is None


def test_a_filter_is_known_by_the_rows_that_it_keeps_and_has_their_sizes():
    source = numbered(0, 6)
    source.sizes = lambda rows: np.array([[row, 2 * row] for row in rows])
    odd, even = (sources.filtered(source, lambda record, k=k: record["x"][0] % 2 == k) for k in (1, 0))
    assert odd.sizes([2, 0]).tolist() == [[5, 10], [1, 2]]
    assert odd.fingerprint() != even.fingerprint() and len(odd) == len(even) == 3
