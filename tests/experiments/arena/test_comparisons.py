"""What an arena compares: pictures of one request, evenly over the pairs of runs, the same for all voters."""

import collections
import json
from typing import NamedTuple

import numpy as np
import pytest

from diffusion.experiments import command_words
from diffusion.experiments.arena import comparisons, competitors
from diffusion.experiments.arena.__main__ import begun
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.recipe import ConfigError
from tests.experiments.arena import made_arena


def drawn(*opened, number=100, seed=0):
    return comparisons.drawn(opened, number, "Which?", seed)


def test_pictures_of_one_class_meet(tmp_path):
    first = competitors.opened(made_arena.run(tmp_path / "a", 10, labels=(0, 1, 1, 5)))
    second = competitors.opened(made_arena.run(tmp_path / "b", 90, labels=(1, 0, 2, 1, 1)))
    assert competitors.matched(first, second) == [(0, 1, "class 0"), (1, 0, "class 1"), (2, 3, "class 1")]
    assert {comparison.request for comparison in drawn(first, second).comparisons} == {"class 0", "class 1"}


def test_pictures_of_one_prompt_meet(tmp_path):
    first = competitors.opened(made_arena.prompted(tmp_path / "a", 10, ["a cat", "a dog"]))
    second = competitors.opened(made_arena.prompted(tmp_path / "b", 90, ["a dog", "a fish", "a cat"]))
    assert competitors.matched(first, second) == [(0, 2, "a cat"), (1, 0, "a dog")]
    assert first.picture(1)[0, 0].tolist() == [11, 11, 11]


def test_pictures_without_requests_meet_by_their_number(tmp_path):
    run = competitors.opened(made_arena.run(tmp_path / "a", 10))
    np.savez(tmp_path / "b.npz", images=np.zeros((4, 8, 8, 3), np.uint8))
    bare = competitors.opened(str(tmp_path / "b.npz"))
    assert competitors.matched(run, bare) == [(i, i, "") for i in range(4)]


@pytest.mark.parametrize("place", [".", "guided"])
def test_the_zeros_of_a_run_without_classes_are_no_class(tmp_path, place):
    """They would be class 0: a voter would read so, and other runs would meet it by their pictures of class 0 alone."""
    folder = tmp_path / "a" / place
    run = competitors.opened(made_arena.run(folder, 10, labels=(0, 0, 0)))
    (tmp_path / "a" / "config.json").write_text(json.dumps({"model": {"num_classes": 0}}))
    free = competitors.opened(str(folder))
    other = competitors.opened(made_arena.run(tmp_path / "b", 90, labels=(1, 0, 2)))
    assert competitors.matched(free, other) == [(i, i, "") for i in range(3)]
    assert competitors.matched(other, free) == [(i, i, "") for i in range(3)]
    assert free.fingerprint == run.fingerprint  # an arena of an earlier version goes on


def test_each_pair_of_runs_has_its_share(tmp_path):
    opened = [competitors.opened(made_arena.run(tmp_path / name, 10, labels=range(20))) for name in "abcd"]
    arena = drawn(*opened, number=31)
    counts = collections.Counter((each.first, each.second) for each in arena.comparisons)
    assert len(counts) == 6 and set(counts.values()) == {5, 6} and sum(counts.values()) == 31
    assert len(set(arena.comparisons)) == 31
    assert drawn(*opened, number=31) == arena != drawn(*opened, number=31, seed=1)
    assert len(drawn(*opened, number=1000).comparisons) == 6 * 20


class Rival(NamedTuple):
    name: str
    fingerprint: str = ""
    requests: tuple[str, ...] = ()


def test_a_comparison_is_of_two_pictures_that_were_matched(monkeypatch):
    """Of a and b one pair, of the others three each; pictures, numbers and request stay together, in a drawn order."""
    pairs = lambda first, second: [
        (i, 10 + i, f"{first.name}{second.name}{i}") for i in range(1 if second.name == "b" else 3)
    ]
    monkeypatch.setattr(comparisons, "matched", pairs)
    arenas = [drawn(*map(Rival, "abc"), seed=seed) for seed in range(20)]
    for arena in arenas:
        assert len(set(arena.comparisons)) == len(arena.comparisons) == 1 + 3 + 3
        for first, second, (i, j), request in arena.comparisons:
            assert request == f"{'abc'[first]}{'abc'[second]}{i}" and j == 10 + i
    assert len({(one.first, one.second) for one in (arena.comparisons[0] for arena in arenas)}) == 3
    assert len({one.pictures for arena in arenas for one in arena.comparisons[:1] if one.second == 2}) == 3
    with pytest.raises(ConfigError, match="at least two different runs"):
        drawn(*map(Rival, "aab"))


def test_an_arena_is_read_as_it_was_written(tmp_path):
    pairs = [comparisons.Comparison(0, 1, (2, 5), "cat"), comparisons.Comparison(1, 0, (3, 1), "")]
    arena = comparisons.Arena("Which?", 7, {"a": "x", "b": "y"}, pairs)
    comparisons.write(arena, tmp_path)
    assert comparisons.read(tmp_path) == arena


def test_the_order_of_a_voter_is_another_in_another_arena():
    arena = comparisons.Arena("Which?", 7, {}, [comparisons.Comparison(0, 1, (i, i), "") for i in range(50)])
    assert arena._replace(seed=8).turns("ana") != arena.turns("ana")


def test_each_voter_has_an_order_and_sides_of_its_own(tmp_path):
    opened = [competitors.opened(made_arena.run(tmp_path / name, 10, labels=range(100))) for name in "ab"]
    arena = drawn(*opened)
    turns = {voter: arena.turns(voter) for voter in ("ana", "ben")}
    assert turns["ana"] == arena.turns("ana")
    for order in turns.values():
        assert sorted(number for number, _ in order) == list(range(100))
        assert 30 < sum(first_is_left for _, first_is_left in order) < 70
    left = {voter: dict(order) for voter, order in turns.items()}
    assert 30 < sum(left["ana"][i] == left["ben"][i] for i in range(100)) < 70
    assert [number for number, _ in turns["ana"]] != [number for number, _ in turns["ben"]]


def test_an_arena_is_kept_and_gone_on_with(tmp_path):
    names = [made_arena.run(tmp_path / name, 10) for name in "ab"]
    out = tmp_path / "arena"
    first, _ = begun(out, names, {"number": 4})
    assert len(first.comparisons) == 4 and first.question == "Which picture is better?"
    for again in ([], names):
        arena, opened = begun(out, again, {})
        assert arena == first and [each.name for each in opened] == names
    assert begun(out, [], {"number": 4, "seed": 0})[0] == first


def test_an_arena_with_all_pairs_that_there_are_goes_on_by_its_own_command(tmp_path):
    names = [made_arena.run(tmp_path / name, 10) for name in "abc"]
    first, _ = begun(tmp_path / "arena", names, {"number": 500})
    assert len(first.comparisons) == 3 * 6
    assert begun(tmp_path / "arena", names, {"number": 500})[0] == first
    with pytest.raises(ConfigError, match=r"--number=17: the arena in .* has 18"):
        begun(tmp_path / "arena", names, {"number": 17})


def test_another_arena_is_not_written_over(tmp_path):
    names = [made_arena.run(tmp_path / name, 10) for name in "abc"]
    out = tmp_path / "arena"
    begun(out, names[:2], {})
    with pytest.raises(ConfigError, match="Leave --runs out to continue this arena"):
        begun(out, names, {})
    with pytest.raises(ConfigError, match=r"--seed=3: the arena in .* has 0"):
        begun(out, names[:2], {"seed": 3})
    (tmp_path / "b" / "samples.npz").unlink()
    np.savez(tmp_path / "b" / "samples.npz", images=np.zeros((6, 8, 8, 3), np.uint8), labels=np.arange(6) % 3)
    with pytest.raises(ConfigError, match="has other pictures than when the arena in"):
        begun(out, [], {})


def test_runs_that_cannot_compete_are_refused(tmp_path):
    names = [made_arena.run(tmp_path / "a", 10, labels=(0, 1)), made_arena.run(tmp_path / "b", 10, labels=(2, 3))]
    for chosen, message in (
        (names[:1], "at least two different runs"),
        ([names[0]] * 2, "at least two different runs"),
        ([names[0], f"{names[0]}/"], "at least two different runs"),
        (names, "request in common: class 0, class 1 in the first, class 2, class 3 in the second"),
        ([*names, str(tmp_path / "c")], "does not exist"),
    ):
        with pytest.raises(ConfigError, match=message):
            begun(tmp_path / "arena", chosen, {})
    np.savez(tmp_path / "float.npz", images=np.zeros((2, 8, 8, 3), np.float32))
    with pytest.raises(ConfigError, match=r"its images have the type float32\. Valid: uint8"):
        begun(tmp_path / "arena", [names[0], str(tmp_path / "float.npz")], {})
    (tmp_path / "points").mkdir()
    np.savez(tmp_path / "points" / "samples.npz", images=np.zeros((2, 2), np.uint8), labels=np.zeros(2, int))
    with pytest.raises(ConfigError, match="images have shape"):
        begun(tmp_path / "arena", [names[0], str(tmp_path / "points")], {})
    with pytest.raises(WorkdirError, match="holds no arena"):
        begun(tmp_path / "arena", [], {})
    assert not (tmp_path / "arena").exists()


@pytest.mark.parametrize(
    "setting", [{"seed": 2**63 + 1}, {"seed": -1}, {"seed": True}, {"question": "?" * 1001}, {"question": "\udc80"}]
)
def test_an_arena_whose_file_could_not_be_read_is_not_begun(setting, tmp_path):
    opened = [competitors.opened(made_arena.run(tmp_path / name, 9)) for name in "ab"]
    (name,) = setting
    with pytest.raises(ConfigError, match=f"^--{name} = .* Valid: a (whole number|text of at most 1000)"):
        comparisons.drawn(opened, **{"number": 9, "question": "?", "seed": 0, **setting})
    widest = {"number": 9, "question": "?" * 1000, "seed": 2**63}
    comparisons.write(comparisons.drawn(opened, **widest), tmp_path)
    assert comparisons.read(tmp_path)[:2] == (widest["question"], widest["seed"])


@pytest.mark.parametrize(
    "change",
    [{"comparisons": [[0, 2, [0, 0], ""]]}, {"comparisons": [[0, 0, [0, 0], ""]]}, {"comparisons": [[0, 1]]},
     {"comparisons": None}, {"seed": "x"}, {"version": 2}, {"competitors": ["a"]}, {"question": None}],
)  # fmt: skip
def test_a_damaged_arena_is_named(tmp_path, change):
    out = tmp_path / "arena"
    begun(out, [made_arena.run(tmp_path / name, 10) for name in "ab"], {})
    content = json.loads((out / comparisons.FILE).read_text())
    (out / comparisons.FILE).write_text(json.dumps(content | change))
    with pytest.raises(WorkdirError, match=r"arena\.json is damaged"):
        comparisons.read(out)


def test_a_comma_in_the_folder_of_a_run_of_a_sweep_parts_it_from_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rate=1,seed=0", "rate=1,seed=1", "plain"):
        (tmp_path / name).mkdir()
    parts = "rate=1,seed=0,plain,gone,rate=1,seed=1,digits@test".split(",")
    expected = ["rate=1,seed=0", "plain", "gone", "rate=1,seed=1", "digits@test"]
    assert command_words.joined_paths(parts) == expected and command_words.joined_paths([]) == []


@pytest.mark.parametrize("field", ["question", "seed", "competitors", "comparisons"])
def test_an_arena_that_lacks_a_field_is_named(tmp_path, field):
    rows = [comparisons.Comparison(0, 1, (0, 0), "a cat")]
    comparisons.write(comparisons.Arena("Which?", 0, {"a": "f" * 64, "b": "e" * 64}, rows), tmp_path)
    path = tmp_path / comparisons.FILE
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != field}))
    with pytest.raises(WorkdirError, match=r"arena\.json is damaged: "):
        comparisons.read(tmp_path)


def test_prompts_of_pictures_inside_a_run_count(tmp_path):
    folder = made_arena.prompted(tmp_path / "run" / "pictures", 10, ["a cat"])
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": {"num_classes": 0}}))
    assert competitors.opened(folder).requests == ["a cat"]
