"""Series of which a part is given: the process and its exact conditionals, what is hidden, windows of files."""

import re

import numpy as np
import pytest

from diffusion.data import gaussian_processes, identities, series_masks, sources
from diffusion.data.sources import series
from diffusion.experiments.evaluation import series_files


@pytest.mark.parametrize("first", ["1,x,3", "1,NA,x", "2020-01-01,2,3", "1.5,2,3 kW"])
def test_a_first_row_with_a_bad_cell_is_no_header(first, tmp_path):
    """It was taken for one, so that the first step was left out in silence."""
    path = tmp_path / "a.csv"
    path.write_text(f"{first}\n4,5,6\n7,8,9\n")
    with pytest.raises(ValueError, match=r"a\.csv, row 1: '.*' is a number, and '.*' is not, .* may be a header"):
        series.read_series(str(path))
    path.write_text("2001,2002,name\n4,5,a\n7,8,b\n")
    np.testing.assert_array_equal(series.read_series(str(path), ("2001", "2002"))["a"], [[4, 5], [7, 8]])
    path.write_text(",a,b\n4,5,6\n7,8,9\n")  # pandas names its index so
    assert series.read_series(str(path))["a"].shape == (2, 3)


def test_draws_have_the_covariance_and_the_conditional_is_that_of_draws():
    process = gaussian_processes.stationary(6, 2, noise=0.1, scale=3.0, period=4.0)
    assert process.covariance.shape == (12, 12)
    np.testing.assert_allclose(np.diag(process.covariance), 1.0)
    # Channels at one step share what is no noise, by the correlation; steps a season apart share the season.
    assert process.covariance[0, 1] == pytest.approx(0.9 * 0.6)
    lag = 4 * np.sqrt(3) / 3.0
    assert process.covariance[0, 8] == pytest.approx(0.9 * (0.5 * (1 + lag) * np.exp(-lag) + 0.5))
    half = lag / 2  # half a season apart sin^2 is 1
    assert process.covariance[0, 4] == pytest.approx(0.9 * 0.5 * ((1 + half) * np.exp(-half) + np.exp(-2)))
    season = gaussian_processes.stationary(6, noise=0.1, share=1.0, period=4.0).covariance
    trend = gaussian_processes.stationary(6, noise=0.1, share=0.0, scale=3.0).covariance
    assert season[0, 4] == pytest.approx(0.9) and trend[0, 4] == pytest.approx(0.9 * (1 + lag) * np.exp(-lag))
    rng = np.random.default_rng(0)
    x = gaussian_processes.draw(np.zeros(12), process.covariance, 60_000, rng)
    np.testing.assert_allclose(np.cov(x.T), process.covariance, atol=0.02)
    # E[hidden | given] is the least-squares regression of draws, and the covariance that of its residuals.
    mask = rng.random((6, 2)) < 0.5
    seen = mask.ravel()
    weights = np.linalg.lstsq(x[:, seen], x[:, ~seen], rcond=None)[0]
    given = x[0].reshape(6, 2)
    mean, covariance = gaussian_processes.conditional(process, np.where(mask, given, np.nan), mask)
    np.testing.assert_array_equal(mean[mask], given[mask])
    np.testing.assert_allclose(mean[~mask], x[0][seen] @ weights, atol=0.05)
    residual = x[:, ~seen] - x[:, seen] @ weights
    np.testing.assert_allclose(covariance[np.ix_(~seen, ~seen)], np.cov(residual.T), atol=0.02)
    assert not covariance[seen].any() and not covariance[:, seen].any()


def test_the_series_are_of_the_chosen_process():
    """0.9 (0.7 matern + 0.3 periodic), times 0.2 between channels; at a lag of 1 with the scales 2 and 5."""
    series = sources.gaussian_series(
        length=3, channels=2, number=2, correlation=0.2, noise=0.1, share=0.3, scale=2.0, period=5.0
    )
    r = np.sqrt(3) / 2
    near = 0.9 * (0.7 * (1 + r) * np.exp(-r) + 0.3 * np.exp(-2 * np.sin(np.pi / 5) ** 2))
    found = series.process.covariance[0]
    np.testing.assert_allclose(found[:4], [1, 0.9 * 0.2, near, 0.2 * near], rtol=1e-12)


@pytest.mark.extended
@pytest.mark.parametrize("hide", (series_masks.forecast(4), series_masks.gaps(0.2, 0.6, 5)))
def test_records_are_what_is_hidden_beside_what_is_given(hide):
    of = lambda split="train", hide=hide: sources.gaussian_series(split, length=16, channels=2, number=200, hide=hide)
    whole, source, again, test = of(hide=None), of(), of(), of("test")
    hidden = []
    for row in range(200):
        record = source[row]
        condition = record["condition"]
        np.testing.assert_array_equal(record["x"] + condition["given"], whole[row]["x"])
        assert (condition["mask"] ^ condition["real"]).all() and condition["mask"].any() and condition["real"].any()
        assert not record["x"][condition["mask"]].any() and not condition["given"][condition["real"]].any()
        np.testing.assert_array_equal(again[row]["condition"]["mask"], condition["mask"])
        hidden.append(condition["real"])
    hidden = np.stack(hidden)
    if (hidden == hidden[0]).all():
        assert hidden[0, -4:].all() and not hidden[0, :-4].any()
    else:
        assert hidden.mean((1, 2)).min() >= 0.2 and abs(hidden.mean() - 0.42) < 0.03  # the last gap goes beyond
        assert hidden.mean(0).std() < 0.06  # no step is favoured
    assert source.spec.shape == (16, 2) and source.process.shape == (16, 2)
    assert test.fingerprint() != source.fingerprint() == again.fingerprint()


@pytest.mark.parametrize("apart", (True, False))
def test_what_is_hidden_is_drawn_apart_from_the_series(apart):
    """numpy has one stream for the seeds s and (s, 0), and runs of before have it for row 0."""
    begins = []

    def hide(rng, there):
        begins.append(rng.bit_generator.state["state"]["state"])
        return series_masks.forecast(1)(rng, there)

    source = sources.gaussian_series(length=4, number=3, hide=hide, apart=apart)
    begins.clear()
    for row in range(3):
        source[row]
    of_series = np.random.default_rng(series.SEEDS["train"]).bit_generator.state["state"]["state"]
    assert len(set(begins)) == 3 and (of_series in begins) == (not apart)


def test_gaps_hide_the_first_step_as_often_as_any_other():
    """A gap may begin before the series."""
    hide, rng = series_masks.gaps(0.3, 0.3, 8), np.random.default_rng(0)
    shares = np.mean([hide(rng, np.ones((24, 1), bool)) for _ in range(2000)], axis=0)[:, 0]
    np.testing.assert_allclose(shares[[0, -1]], shares[8:16].mean(), atol=5 * np.sqrt(0.25 / 2000))


def test_of_missing_values_nothing_is_learned_and_few_values_leave_one_of_each():
    values = np.arange(12.0).reshape(6, 2)
    values[1, 0] = values[4:, 1] = np.nan
    there = ~np.isnan(values)
    forecast = series_masks.record(values, series_masks.forecast(2)(np.random.default_rng(0), there))
    assert forecast["condition"]["real"].sum() == 2 and not (forecast["condition"]["mask"] & ~there).any()
    assert np.isfinite(forecast["x"]).all() and np.isfinite(forecast["condition"]["given"]).all()
    fill = series_masks.record(values, series_masks.missing()(np.random.default_rng(0), there))
    np.testing.assert_array_equal(fill["condition"]["real"], ~there)
    assert np.isnan(fill["x"][~there]).all()  # nobody knows it, and no loss of it is finite
    two = np.zeros((6, 1), bool)
    two[[1, 5]] = True
    for seed in range(50):
        hidden = series_masks.gaps(0.05, 0.95, 3)(np.random.default_rng(seed), two)
        assert hidden.sum() == 1 and two[hidden].all()


def test_windows_of_files(tmp_path):
    rng = np.random.default_rng(0)
    table = np.round(rng.normal(5.0, 2.0, (60, 2)), 6)
    table[7, 1] = table[50, 0] = np.nan
    cells = [",".join("" if np.isnan(v) else str(v) for v in row) for row in table]
    (tmp_path / "a.csv").write_text("time,load,price\n" + "".join(f"t{i},{row}\n" for i, row in enumerate(cells)))
    np.save(tmp_path / "a.npy", table)
    np.savez(tmp_path / "a.npz", long=table, short=table[:20])
    hide = series_masks.gaps()
    about = {"length": 12, "stride": 5, "hide": hide}
    of = lambda name, split="train", **more: sources.series_windows(str(tmp_path / name), split, **about, **more)
    train, test = of("a.csv", columns=("load", "price")), of("a.csv", "test", columns=("load", "price"))
    assert (len(train), len(test)) == (9, 1)  # of 48 and 12 steps; the last begins at 36, out of step
    np.testing.assert_allclose(train.mean, np.nanmean(table[:48], 0))
    np.testing.assert_allclose(train.std, np.nanstd(table[:48], 0))
    record = train[8]
    condition = record["condition"]
    scaled = record["x"] + condition["given"]
    there = condition["mask"] | condition["real"]
    np.testing.assert_array_equal(there, ~np.isnan(table[36:48]))
    np.testing.assert_allclose((scaled * train.std + train.mean)[there], table[36:48][there], rtol=1e-4)
    np.testing.assert_array_equal(of("a.npy")[3]["condition"]["given"], train[3]["condition"]["given"])
    assert len(of("a.npz", held_out=0.0)) == 11 + 3  # series of two lengths
    gap = sources.series_windows(str(tmp_path / "a.npy"), "test", length=12, hide=series_masks.missing())
    assert len(gap) == 1 and gap[0]["condition"]["real"].sum() == 1
    # What the model has learned from is filled in the same units, in a file that goes on.
    np.save(
        tmp_path / "longer.npy", np.append(table + [[9.0, 0.0]] * (np.arange(60) >= 48)[:, None], [[np.nan] * 2] * 3, 0)
    )
    units = {"mean": tuple(train.mean.tolist()), "std": tuple(train.std.tolist())}
    fill = sources.series_windows(
        str(tmp_path / "longer.npy"), length=12, held_out=0.0, hide=series_masks.missing(), **units
    )
    there = fill[0]["condition"]["mask"]
    whole = train[0]["x"] + train[0]["condition"]["given"]
    assert there.sum() == 23
    np.testing.assert_array_equal(fill[0]["condition"]["given"][there], whole[there])
    # Samples go back to their steps: the mean of all of a value, in the file's units; what was there stays.
    longer = np.load(tmp_path / "longer.npy")
    steps = [np.arange(first, first + 12) for _, first in fill.places]
    assert [np.isnan(longer[rows]).sum() for rows in steps] == [int(r["condition"]["real"].sum()) for r in fill]
    truth = np.arange(63.0)[:, None] + [0.0, 100.0]
    samples = np.stack([(truth[rows] - train.mean) / train.std for rows in steps])
    (filled,) = fill.filled(np.concatenate([samples - 1, samples + 1])).values()  # two of each record
    np.testing.assert_allclose(filled, np.where(np.isnan(longer), truth, longer))
    of_part = sources.series_windows(str(tmp_path / "a.csv"), "test", columns=("load", "price"), **about)
    assert of_part.places == [("a", 48)] and train.places[0] == ("a", 0)  # what is held out is the end
    stated = identities.numbered(["series", of_part.where, "load", "price"], "a", [48])  # file, series and first row
    np.testing.assert_array_equal(of_part.identities(), stated)
    assert of("a.npy", "test", held_out=0.0).places == of("a.npy", held_out=0.0).places  # all of it in both
    source = sources.series_windows(
        str(tmp_path / "a.csv"), columns=("load",), held_out=0.0, **about | {"hide": series_masks.missing()}
    )
    (path,) = series_files.write(source, np.zeros((1, 12, 1)), tmp_path)
    again = series.read_series(str(path))["filled"]
    np.testing.assert_allclose(again[:, 0], np.where(np.isnan(table[:, 0]), source.mean[0], table[:, 0]))


def test_missing_values_without_a_sample_are_counted_in_words(tmp_path, capsys):
    values = np.arange(40.0)
    values[[3, 20, 21, 37]] = np.nan
    np.save(tmp_path / "a.npy", values)
    source = sources.series_windows(
        str(tmp_path / "a.npy"), length=5, stride=5, held_out=0.0, hide=series_masks.missing()
    )
    assert len(source) == 3
    series_files.write(source, np.zeros((2, 5, 1)), tmp_path)
    said = capsys.readouterr().out
    assert "1 of the 4 missing values stay empty: they are not in the first 2 of 3 windows" in said
    assert "With config.sample.number = 3 every" in said
    series_files.write(source, np.zeros((3, 5, 1)), tmp_path)
    assert not capsys.readouterr().out


def test_a_header_of_numbers_is_not_a_step(tmp_path):
    """What pandas writes by to_csv(index=False) of columns without names; the header was the first step."""
    path = tmp_path / "a.csv"
    for text in ("0,1\n3.5,4.0\n1.25,2.0\n", "0,1,2\n3.5,4.0,1.0\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.csv, row 1: it counts the columns.*header=False.* 0\.0, 1\.0"):
            series.read_series(str(path))
    for text in ("0.0,1.0\n3.5,4.0\n", "0,1\n1,0\n", "0\n3.5\n", "1,2\n3.5,4.0\n"):  # steps
        path.write_text(text)
        assert len(series.read_series(str(path))["a"]) == 2


def test_the_index_of_a_table_and_columns_of_one_name_are_refused(tmp_path):
    """What pandas writes by to_csv, with names and without."""
    rows = "".join(f"{i},{i % 3},{i % 2}\n" for i in range(9))
    for head in (",load,price\n", ",0,1\n"):
        (tmp_path / "a.csv").write_text(head + rows)
        with pytest.raises(
            ValueError, match="its first column has no name and counts the rows, as the index that pandas"
        ):
            series.read_series(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text(",load,price\n" + rows)
    assert series.read_series(str(tmp_path / "a.csv"), ("load",))["a"].shape == (9, 1)
    (tmp_path / "a.csv").write_text(",5,1\n3,1,1\n4,1,1\n")  # a first step with a missing value
    assert np.isnan(series.read_series(str(tmp_path / "a.csv"))["a"][0, 0])
    (tmp_path / "a.csv").write_text("t,load,load\n" + rows)
    with pytest.raises(ValueError, match=r"has 2 columns 'load'\. Valid: t, load, load, each of them once"):
        series.read_series(str(tmp_path / "a.csv"), ("load",))


def test_a_missing_value_that_no_sample_is_of_stays_missing(tmp_path):
    """The first value is missing and given, as nobody hides it; what is hidden is in the file."""
    values = np.append(np.nan, np.arange(11.0))
    np.save(tmp_path / "a.npy", values)
    source = sources.series_windows(str(tmp_path / "a.npy"), length=12, held_out=0.0, hide=series_masks.forecast(3))
    (filled,) = source.filled(np.full((1, 12, 1), 5.0)).values()
    np.testing.assert_array_equal(filled[:, 0], values)


def test_empty_lines_of_a_table_are_missing_values_or_refused(tmp_path):
    (tmp_path / "one.csv").write_text("load\n1\n2\n\n4\n")
    np.testing.assert_array_equal(series.read_series(str(tmp_path / "one.csv"))["one"][:, 0], [1, 2, np.nan, 4])
    (tmp_path / "two.csv").write_text("load,price\n1,2\n3,4\n\n\n")  # at the end they are no steps
    np.testing.assert_array_equal(series.read_series(str(tmp_path / "two.csv"))["two"], [[1, 2], [3, 4]])
    (tmp_path / "two.csv").write_text("load,price\n1,2\n\n3,4\n")
    with pytest.raises(ValueError, match="row 3: it has 0 cells, but the first row has 2"):
        series.read_series(str(tmp_path / "two.csv"))


def test_mistakes_are_refused(tmp_path):
    values = np.full((20, 1), np.nan)
    values[[3, 15]] = [[1.0], [2.0]]
    files = {
        "gone": values, "flat": np.ones(30), "rounded": np.full(100, 0.1),
        "short": np.zeros((2, 3)), "infinite": np.array([1.0, np.inf] * 9),
        "holes": np.append(np.arange(29.0), np.nan), "empty": np.zeros((0, 2)),
    }  # fmt: skip
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "words.csv").write_text("day,load\nmonday,1\ntuesday,2\n")
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    np.savez(tmp_path / "differ.npz", a=np.zeros((9, 1)), b=np.zeros((9, 2)))
    hide = series_masks.forecast(2)
    process = gaussian_processes.stationary(4)
    window = lambda name, **more: sources.series_windows(
        str(tmp_path / name), **{"length": 6, "hide": hide, "held_out": 0.0} | more
    )
    part = {"given": np.zeros((2, 4, 1)), "mask": np.ones((2, 4, 1), bool), "real": np.zeros((2, 4, 1), bool)}
    half = part | {"mask": np.arange(8).reshape(2, 4, 1) % 2 == 0, "real": np.arange(8).reshape(2, 4, 1) % 2 == 1}
    broken = half | {"given": np.where(np.arange(8).reshape(2, 4, 1) == 4, np.nan, 0)}
    outside = half | {"given": np.where(half["mask"], 0, np.nan)}
    series_masks.check(outside)  # NaN where nothing is given
    for call, words in (
        (lambda: series_masks.forecast(0), "horizon = 0"),
        (lambda: sources.gaussian_series(length=8, number=4, hide=series_masks.forecast(8)),
         "horizon = 8 hides the whole of a series of 8 steps"),
        (lambda: series_masks.gaps(0.5, 1.0), "most = 1.0"),
        (lambda: series_masks.record(np.zeros((4, 1)), np.ones((4, 1), bool), "series 3"),
         "series 3: all of its values are hidden or missing, so nothing is given"),
        (lambda: series_masks.record(np.zeros((4, 1)), np.zeros((4, 1), bool)), "nothing to predict"),
        (lambda: series_masks.check(part), "series 0 has nothing that is hidden"),
        (lambda: series_masks.check(part | {"real": part["mask"]}),
         "series 0 has a value that is both given and hidden"),
        (lambda: series_masks.check(part | {"mask": part["real"], "real": part["mask"]}),
         "series 0 has nothing that is given"),
        (lambda: series_masks.check(broken), "series 1 has a given value that is no finite number"),
        (lambda: series_masks.check(half | {"mask": half["mask"][:, :3]}), "have one shape [B, L, C]"),
        (lambda: series_masks.check(half | {"mask": half["mask"] * 1.0}), "mask has the type float64"),
        (lambda: sources.gaussian_series("validation"), "Valid: train, test"),
        (lambda: sources.gaussian_series(number=0), "number = 0"),
        (lambda: sources.gaussian_series(noise=0.0), "noise = 0.0"),
        (lambda: sources.gaussian_series(length=1), "length = 1"),
        (lambda: sources.gaussian_series(length=10**6), "TiB while they are drawn, and this machine has"),
        (lambda: sources.gaussian_series(number=10**11), "TiB while they are drawn, and this machine has"),
        (lambda: sources.gaussian_series(period=0.0), "period = 0.0"),
        (lambda: window("gone.npy"), "no window of 6 steps has both"),
        (lambda: window("flat.npy"), "channel 0 has no two different values"),
        (lambda: window("rounded.npy"), "channel 0 has no two different values"),  # its mean is not exactly 0.1
        (lambda: window("short.npy"), "series 'short' has 2 steps in 'train' (held_out = 0.0), fewer than length = 6"),
        (lambda: window("infinite.npy"), "infinite values"),
        (lambda: window("empty.npy"), "series 'empty' is float64 [0, 2]. Valid: numbers [T] or [T, C]"),
        (lambda: window("flat.npy", held_out=0.99), "has 0 steps in 'train' (held_out = 0.99)"),
        (lambda: window("flat.npy", mean=(0.0,)), "mean = (0.0,) and std ="),
        (lambda: window("flat.npy", mean=(0.0,), std=(0.0,)), "those for std positive, or () for both"),
        (lambda: window("holes.npy", hide=None), "window 24 has missing values,"),
        (lambda: window("words.csv"), "'monday' in column 'day' is not a number"),
        (lambda: window("words.csv", columns=("lod",)), "no column 'lod'. Valid: day, load"),
        (lambda: window("ragged.csv"), "row 2: it has 1 cells, but the first row has 2"),
        (lambda: window("differ.npz"), "differ in their number of channels"),
        (lambda: window("flat.npy", stride=0), "stride = 0"),
        (lambda: window("flat.npy", columns=("a",)), "to a .csv file"),
        (lambda: gaussian_processes.conditional(process, np.zeros((4, 2)), np.ones((4, 1), bool)),
         "the shape (4, 2) and mask (4, 1)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(words)):
            call()
    with pytest.raises(FileNotFoundError, match="no such file"):
        window("none.csv")
    with pytest.raises(ValueError, match=r"is no file of series. Valid: a name that ends in \.csv, \.npy or \.npz"):
        (tmp_path / "a.txt").write_text("1")
        series.read_series(str(tmp_path / "a.txt"))
