"""The pairs of pictures of an arena, drawn once and stored; every voter sees the same pairs in a different order."""

import hashlib
import itertools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from diffusion.experiments.arena.competitors import Competitor, matched
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.io import json_files, opener, schema
from diffusion.recipe import ConfigError

FILE = "arena.json"
VERSION = 1
SHAPE = {
    "version": schema.integer(1, VERSION),
    "question": schema.text(),
    "seed": schema.integer(0, 2**63),
    "competitors": schema.table(schema.text()),
}


class Comparison(NamedTuple):
    """A pair of pictures from two competitors.

    Attributes:
        first: the index of the first competitor.
        second: the index of the second competitor.
        pictures: the indices of the two pictures in the sets of the first and the second competitor.
        request: the class or prompt that both pictures were made for; "" if it is not known.
    """

    first: int
    second: int
    pictures: tuple[int, int]
    request: str


class Arena(NamedTuple):
    """The comparisons of some competitors under one question.

    Attributes:
        question: the question that voters answer.
        seed: the seed for the drawn pairs and for the voters' orders.
        competitors: the competitors' fingerprints, by name.
        comparisons: all comparisons; a vote refers to one by its index.
    """

    question: str
    seed: int
    competitors: dict[str, str]
    comparisons: list[Comparison]

    @property
    def names(self) -> list[str]:
        """The competitors' names, in the order of their indices."""
        return list(self.competitors)

    def turns(self, voter: str) -> list[tuple[int, bool]]:
        """A voter's random order: (index of the comparison, whether its first picture is on the left)."""
        digest = hashlib.sha256(f"{self.seed} {voter}".encode()).digest()
        rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
        order = rng.permutation(len(self.comparisons))
        return [(int(number), bool(left)) for number, left in zip(order, rng.integers(2, size=len(order)))]


def drawn(competitors: Sequence[Competitor], number: int, question: str, seed: int) -> Arena:
    """Draws comparisons: equally many for each pair of competitors, except for pairs that run out of pictures.

    Args:
        competitors: the competitors, at least two.
        number: the total number of comparisons, at least 1; fewer are drawn if there are fewer matching pictures.
        question: the question that voters answer.
        seed: the seed for the drawn pairs and for the voters' orders.

    Raises:
        ConfigError: if there are fewer than two competitors, one is named twice, or two have no request in common; or
            if the arena's file could not be read with this question or seed.
    """
    for name, value in (("question", question), ("seed", seed)):
        if why := schema.objection(f"--{name}", value, SHAPE[name]):
            raise ConfigError(why)
    names = [competitor.name for competitor in competitors]
    places = {pathlib.Path(name).resolve() if pathlib.Path(name).exists() else name for name in names}
    if len(places) < max(2, len(names)):
        raise ConfigError(f"--runs={','.join(names)}: an arena needs at least two different runs, e.g. runs/a,runs/b.")
    rng = np.random.default_rng(seed)
    queues = []
    for first, second in itertools.combinations(range(len(names)), 2):
        met = matched(competitors[first], competitors[second])
        if not met:
            raise ConfigError(
                f"--runs: {names[first]} and {names[second]} have no request in common: {_some(competitors[first])} "
                f"in the first, {_some(competitors[second])} in the second. Sample the same requests for both."
            )
        order = rng.permutation(len(met))
        queues.append([Comparison(first, second, met[i][:2], met[i][2]) for i in order])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*(queues[i] for i in rng.permutation(len(queues)))))
    chosen = list(itertools.islice((comparison for comparison in turns if comparison is not None), number))
    return Arena(question, seed, {competitor.name: competitor.fingerprint for competitor in competitors}, chosen)


def possible(competitors: Sequence[Competitor]) -> int:
    """The largest number of comparisons that the competitors' pictures allow."""
    return sum(len(matched(first, second)) for first, second in itertools.combinations(competitors, 2))


def _some(competitor: Competitor) -> str:
    requests = sorted(set(competitor.requests or ()))
    return ", ".join(requests[:3]) + (", ..." if len(requests) > 3 else "")


def write(arena: Arena, folder: pathlib.Path) -> None:
    """Writes an arena into its folder."""
    content = {"version": VERSION, **arena._asdict()}
    json_files.write(folder / FILE, content)


def read(folder: pathlib.Path) -> Arena:
    """The arena in a folder.

    Raises:
        WorkdirError: if there is no arena, or its file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise WorkdirError(f"{folder} holds no arena: {path} does not exist. Start one by --runs=runs/a,runs/b.")
    try:
        content = opener.read_table(path)
        rows = content.pop("comparisons", None)
        schema.check(SHAPE, content, str(path))
        comparisons = [Comparison(first, second, (i, j), request) for first, second, (i, j), request in rows]
        numbers = range(len(content["competitors"]))
        if not all({c.first, c.second} <= set(numbers) and c.first != c.second for c in comparisons):
            raise ValueError(f"each comparison must name two different competitors, by numbers below {len(numbers)}")
        return Arena(content["question"], content["seed"], content["competitors"], comparisons)
    except KeyError as error:
        raise WorkdirError(f"{path} is damaged: it has no {error}.") from error
    except (ValueError, TypeError) as error:
        raise WorkdirError(f"{path} is damaged: {error}.") from error


def require_same(arena: Arena, competitors: Sequence[Competitor], folder: pathlib.Path) -> None:
    """Refuses to continue an arena if its competitors or their pictures have changed.

    Raises:
        ConfigError: if the names differ, or a competitor's pictures; the message names the first competitor whose
            pictures have changed.
    """
    names = [competitor.name for competitor in competitors]
    if names != arena.names:
        raise ConfigError(
            f"--runs={','.join(names)}: the arena in {folder} compares {','.join(arena.names)}. Leave --runs out to "
            "continue this arena, or choose another --out."
        )
    for competitor in competitors:
        if competitor.fingerprint != arena.competitors[competitor.name]:
            raise ConfigError(
                f"{competitor.name} has other pictures than when the arena in {folder} was started. Choose another "
                "--out to compare the new pictures."
            )
