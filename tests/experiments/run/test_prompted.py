"""The conditions of an objective's prompts beside a run's examples, and latents with their pictures' conditions."""

import functools
import types

import numpy as np
import pytest

from diffusion.data import sources
from diffusion.experiments.run import conditioned_latents, tuned_examples
from diffusion.experiments.run.examples import Examples
from diffusion.objectives.objective_facts import Beside
from tests.data.sources import stored

PROMPTS = {"teacher": "a cat", "null": ""}


class Batches:
    """Examples of which each batch is numbered, and which say whether they were closed."""

    closed = False

    def batches(self, *arguments):
        self.arguments = arguments
        try:
            for number in range(2):
                yield {"x": np.zeros((3, 2)), "index": number}
        finally:
            self.closed = True


def test_each_example_of_a_batch_has_the_conditions_of_the_prompts():
    examples = Batches()
    row = {"words": np.arange(4.0).reshape(2, 2)}
    complete = functools.partial(tuned_examples._with_prompts, {"teacher": row})
    beside = Examples(None, None, (), stored=examples, complete=complete)
    batches = list(beside.batches({}, 6, [0, 1], 2, state={"pass": 1}, order=1))  # by name, as reproduce gives them
    assert examples.closed and examples.arguments == ({}, 6, [0, 1], 2, {"pass": 1}, 1)
    for number, batch in enumerate(batches):
        assert set(batch) == {"x", "index", "prompts"} and batch["index"] == number
        np.testing.assert_array_equal(batch["prompts"]["teacher"]["words"], [row["words"]] * 3)


def test_prompts_are_encoded_once_as_records_of_their_own(tmp_path, monkeypatch):
    spec = sources.arrays(stored.arrays(tmp_path / "data")["path"], x="image").spec
    examples = Examples(None, spec, (), where="")
    recipe = lambda prompts: types.SimpleNamespace(objective=types.SimpleNamespace(beside=Beside(prompts=prompts)))
    assert tuned_examples.prompted(recipe({}), tmp_path, examples) is examples
    asked = []
    monkeypatch.setattr(tuned_examples, "read", lambda *arguments: asked.append(arguments[1:]))
    table = types.SimpleNamespace(entries={"words": np.array([[1.0], [2.0]])}, row=[1, 0])
    monkeypatch.setattr(tuned_examples.captions, "read", lambda folder: table)
    beside = tuned_examples.prompted(recipe(PROMPTS), tmp_path, examples)
    ((about, texts, folder),) = asked
    assert (about.name, about.size, texts, folder) == ("prompts", 2, ["a cat", ""], tmp_path / "prompts")
    assert beside.stored is examples and beside.source is examples.source
    prompts = beside.complete({"x": np.zeros((2, 3))})["prompts"]
    assert {name: entry["words"].tolist() for name, entry in prompts.items()} == {
        "teacher": [[2.0]] * 2,
        "null": [[1.0]] * 2,
    }


class Latents(list):
    """Latents of a cache, by their rows."""

    where = "memory"

    def __init__(self, number, spec):
        super().__init__({"x": row} for row in range(number))
        self.spec = spec

    def __getitems__(self, rows):
        return [self[row] for row in rows]

    def fingerprint(self):
        return {"records": len(self)}


@pytest.mark.parametrize("quick", [False, True], ids=["by records", "by conditions"])
def test_latents_have_the_conditions_of_their_pictures(tmp_path, quick):
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), vector=np.arange(12.0).reshape(4, 3))
    source = sources.arrays(str(tmp_path / "a.npz"), x="x", condition=("vector",))
    latents = Latents(4, source.spec._replace(condition=None))
    if quick:
        vectors = np.arange(12.0).reshape(4, 3)
        source = types.SimpleNamespace(spec=source.spec, conditions=lambda rows: [{"vector": vectors[r]} for r in rows])
    beside = conditioned_latents.Beside(latents, source)
    assert beside.spec == source.spec and len(beside) == 4 and beside.fingerprint() == {"records": 4}
    record = beside[3]
    assert record["x"] == 3 and np.array_equal(np.ravel(record["condition"]["vector"]), [9, 10, 11])
    assert [one["x"] for one in beside.__getitems__([2, 0])] == [2, 0]
