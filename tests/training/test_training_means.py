import json

import numpy as np

from diffusion.training import training_means

BLOCKS = {player: ["blocks/0", "final"] for player in ("", "fake")}


def metrics(k):
    by_t = {"sum": np.array([1.0 * k, 0.0], np.float32), "count": np.array([2, 0], np.int32)}
    blocks = np.array([k, 3.0], np.float32)
    return {
        "loss": np.float32(k + 0.1),
        "learning_rate": np.float32(0.5**k),
        "loss_by_t": by_t,
        "grad_norm_by_block": blocks,
    }


def test_means_over_the_interval():
    sums = training_means.empty()
    for k in range(4):
        sums = training_means.add(sums, metrics(k))
    row = training_means.row(7, sums, BLOCKS)
    assert next(iter(row)) == "step" and row["step"] == 7
    np.testing.assert_allclose(row["loss"], 1.6, rtol=1e-6)
    assert row["learning_rate"] == 0.125  # of the last step
    assert row["loss_by_t"] == [6 / 8, None] and row["count_by_t"] == [8, 0]
    assert row["grad_norm_by_block"] == {"blocks/0": 1.5, "final": 3.0}
    json.dumps(row, allow_nan=False)


def test_means_have_eight_digits():
    """As many as a float32 needs that is read back to the same number, less one."""
    sums = training_means.add(training_means.empty(), {"loss": 123456.789123})
    assert training_means.row(1, sums) == {"step": 1, "loss": 123456.79}


def test_a_player_that_rests_counts_in_no_mean():
    """The model acts at every third step, the second player at each: both have the mean over their own steps."""
    resting = {
        "loss": np.float32(np.nan),
        "learning_rate": np.float32(np.nan),
        "loss_by_t": {"sum": np.full(2, np.nan), "count": np.zeros(2, np.int32)},
        "grad_norm_by_block": np.full(2, np.nan),
    }
    sums = training_means.empty()
    for k in range(4):
        second = {f"fake/{name}": value for name, value in metrics(2 * k).items()}
        sums = json.loads(json.dumps(training_means.add(sums, (metrics(k) if k % 3 == 0 else resting) | second)))
    row = training_means.row(4, sums, BLOCKS)
    np.testing.assert_allclose([row["loss"], row["fake/loss"]], [1.6, 3.1], rtol=1e-6)
    assert row["learning_rate"] == 0.125 and row["fake/learning_rate"] == 0.5**6
    assert row["loss_by_t"] == [3 / 4, None] and row["count_by_t"] == [4, 0] and row["fake/count_by_t"] == [8, 0]
    assert row["grad_norm_by_block"] == {"blocks/0": 1.5, "final": 3.0}
    assert row["fake/grad_norm_by_block"]["blocks/0"] == 3 and "rested" not in row


def test_sums_survive_json_bit_for_bit():
    """An interruption between two lines does not show in the next line."""
    straight = stopped = training_means.empty()
    for k in range(6):
        straight = training_means.add(straight, metrics(k / 3))
        stopped = json.loads(json.dumps(training_means.add(stopped, metrics(k / 3))))
    lines = [json.dumps(training_means.row(6, sums, BLOCKS)) for sums in (straight, stopped)]
    assert lines[0] == lines[1]


def test_totals_count_from_the_beginning_of_the_run():
    """Not the mean of an interval: the next one goes on from there, for each player by itself."""
    sums = training_means.empty()
    for skipped in (0, 2, 1):
        sums = training_means.add(sums, {**metrics(1), "skipped": np.int32(skipped), "fake/skipped": np.int32(1)})
    row = training_means.row(3, sums)
    assert row["skipped"] == 3 and row["fake/skipped"] == 3
    sums = training_means.add(training_means.empty(sums), {**metrics(1), "skipped": np.int32(4)})
    assert training_means.row(4, sums)["skipped"] == 7 and sums["steps"] == 1


def test_records_that_are_skipped_where_a_player_rests_are_counted():
    sums = training_means.add({"steps": 0, "skipped": 2}, {"loss": np.nan, "skipped": 3})
    assert sums["skipped"] == 5
