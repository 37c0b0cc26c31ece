"""Counting by rewards: what captions request, the reward of a judge, the evaluations, the measures and the report."""

import itertools
import json
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

from diffusion.data import sources
from diffusion.data.shapes import scenes
from diffusion.metrics import attribute_reader, bootstrap
from diffusion.recipe import ConfigError, recipes
from examples.counting import judges, measures, own_samples, report, rewards
from examples.text import judge, prompt_metrics
from tests import drawn_parameters

JUDGES = ("rewarding", "measuring")
CLASSES = {name: len(values) for name, values in judges.ATTRIBUTES.items()}


def reader_of(init, seed=0):
    params = drawn_parameters.drawn(lambda key: init(key, (64, 64, 3), CLASSES), size=0.05, seed=seed)
    return attribute_reader.from_params(jax.tree.map(np.asarray, params), CLASSES)


@pytest.fixture(scope="module")
def rewarding():
    init = lambda key, shape, classes: (
        attribute_reader.init_hidden(key, shape) | attribute_reader.init_linear(key, classes)
    )
    return reader_of(init)


@pytest.fixture(scope="module")
def measuring():
    return reader_of(lambda key, shape, classes: judges.init(key, classes), seed=1)


def test_the_file_of_another_judge_is_refused(rewarding, measuring, tmp_path):
    """Under the name of the rewarding one; its own file is read."""
    name = f"counting-rewarding-{judges.REWARDING_SEED}-{judges.STEPS}"
    attribute_reader.cached(name, lambda: rewarding, tmp_path)
    assert judges.rewarding(tmp_path).digest == rewarding.digest
    (tmp_path / f"{name}.safetensors").unlink()
    attribute_reader.cached(name, lambda: measuring, tmp_path)
    words = r"is of another model: its anywhere is missing, and this judge's is \[96, 128\]\. Valid: the file of this"
    with pytest.raises(attribute_reader.OtherModel, match=words):
        judges.rewarding(tmp_path)


def facts_of(texts):
    return jax.tree.map(lambda *rows: np.stack(rows), *map(rewards.requested, texts))


def stated(caption):
    return {name: judges.ATTRIBUTES[name][value] for name, value in rewards.requested(caption).items() if value >= 0}


@pytest.mark.parametrize(
    "caption, expected",
    [
        ("three blue stars, neon", {"kind": "several", "style": "neon", "colour": "blue", "shape": "star", "count": 3}),
        ("a shape", {"kind": "one", "style": "plain", "count": 1}),
        ('the word "cat" in purple', {"kind": "word", "colour": "purple"}),
        ("a red heart and a blue star", {"kind": "pair", "style": "plain"}),
        (
            "a red heart below a blue star",  # described from the upper object, as the judges learn it
            {"kind": "pair", "style": "plain", "colour": "blue", "shape": "star", "count": 2, "relation": "above",
             "second_colour": "red", "second_shape": "heart"},
        ),
        ("", {}),
    ],
)  # fmt: skip
def test_what_a_caption_requests(caption, expected):
    assert stated(caption) == expected


def test_what_two_judges_read_is_counted_apart_and_words_have_no_shapes(monkeypatch):
    """The one reads all that is requested; the other another count, another colour, and the pair as it is."""
    texts = ["three red stars", "a blue circle", "a red heart above a blue star", 'the word "cat"']
    right = [scenes.parsed(text) for text in texts]
    other = [right[0]._replace(count=4), right[1]._replace(colour="red"), *right[2:]]
    last = np.random.default_rng(0).normal(size=(8, 3))
    for module, name, instead in (
        (prompt_metrics, "by_templates", lambda texts, pictures: {"count": "by templates"}),
        (prompt_metrics, "real_picture", lambda text, number: np.ones(1)),
        (attribute_reader, "features", lambda reader, pictures: "the rewarding judge's"),
        (judges, "features", lambda reader, pictures: last[4:] if np.all(pictures) else last[:4]),
        (judges, "read", lambda reader, rows: right if isinstance(rows, str) else other),
    ):
        monkeypatch.setattr(module, name, instead)
    figures = measures.measured(texts, np.zeros((4, 1)), cast(Any, None), cast(Any, None))
    shares = lambda part: {name: (figures[part][name]["share"], figures[part][name]["count"]) for name in JUDGES}
    assert shares("count") == {"rewarding": (1, 1), "measuring": (0, 1)} and figures["gap"] == 1
    assert shares("all") == {"rewarding": (1, 3), "measuring": (pytest.approx(1 / 3), 3)}
    apart = lambda rows: np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(rows, 2)])
    assert figures["variety"] == pytest.approx(apart(last[:4]) / apart(last[4:]))
    assert figures["templates"]["count"] == figures["count"]["templates"] == "by templates"


@pytest.mark.extended
def test_the_reward_is_the_probability_of_all_that_is_requested(rewarding):
    """By a judge that sees no picture: its biases are log 1 and log 3 for the count, and equal for all else."""
    bias = np.zeros(CLASSES["count"], np.float32)
    bias[judges.ATTRIBUTES["count"].index(3)] = np.log(3.0)
    params = {name: np.zeros_like(leaf) for name, leaf in rewarding.params.items()} | {"count/bias": bias}
    blind = attribute_reader.from_params(params, CLASSES)
    texts = ["three blue stars", "two blue stars", "a shape"]
    # Weights that are all equal are arguments here. As constants after a reduction, as in
    # `jit(lambda x: x.max(1) @ W)`, XLA's compiler for CPUs of jaxlib 0.10.2 to 0.12.0 reads memory that nothing has
    # written.
    log_p = jax.jit(lambda params, x, facts: rewards.log_probability(blind._replace(params=params), x, facts))(
        params, np.zeros((3, 64, 64, 3)), facts_of(texts)
    )
    others = CLASSES["kind"] * CLASSES["style"]
    all_counts = CLASSES["count"] + 2
    looks = CLASSES["colour"] * CLASSES["shape"]
    expected = np.array([3 / all_counts / looks, 1 / all_counts / looks, 1 / all_counts]) / others
    np.testing.assert_allclose(np.exp(log_p), expected, rtol=1e-5)


@pytest.mark.extended
def test_the_reward_reads_pictures_as_the_judge_does(rewarding):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    texts = ["three blue stars", "a red circle on the left"]
    log_p = jax.jit(lambda x, facts: rewards.log_probability(rewarding, x, facts))(
        pictures / np.float32(127.5) - 1, facts_of(texts)
    )
    logits = attribute_reader.logits(rewarding, attribute_reader.features(rewarding, pictures))
    for row, text in enumerate(texts):
        values = {name: value for name, value in rewards.requested(text).items() if value >= 0}
        total = sum(log_softmax(logits[name][row])[value] for name, value in values.items())
        np.testing.assert_allclose(log_p[row], total, rtol=1e-3)


def test_most_training_captions_ask_for_several_objects():
    source = rewards.counting_drawings(number=400)
    found = [scenes.parsed(text) for text in source.captions()]
    share = np.mean([scene.kind == "several" for scene in found])
    assert abs(share - 0.7) < 4 * 0.46 / 20 and not any(map(scenes.withheld, found))
    assert source[3]["image"].shape == (64, 64, 3)


@pytest.mark.parametrize(
    "preset, samples, expected",
    [
        ("nft", 0, 64 * (8 + 3 + 1)),
        ("policy_gradient", 0, 64 * 8 * 4),
        ("reward_backpropagation", 0, 64 * (8 + 2 * 8)),
        ("rejection", 200, 64 * 3 + 200),
        ("preferences", 200, 64 * 2 * (3 + 1) + 200),
        ("drawings", 0, 64 * 3),
    ],
)
def test_the_evaluations_of_each_training(preset, samples, expected):
    config = recipes.load(f"examples/counting/recipe.py:{preset}")
    config.train.update({"steps": 1, "batch_size": 64})
    assert report.evaluations(config.to_dict(), samples) == expected


def test_a_run_counts_its_pictures_and_the_run_that_it_goes_on_from(tmp_path):
    for number, drawn in (("", 25), ("_2", 100)):
        samples = tmp_path / f"samples{number}"
        samples.mkdir()
        (samples / own_samples.DRAWN).write_text(json.dumps({"drawn": drawn, "steps": 8}))
        config = recipes.load(f"examples/counting/recipe.py:preferences{number}").to_dict()
        config["data"]["source"] = {"of": [{"path": str(samples / "preferred")}, {"path": str(samples / "rejected")}]}
        config["train"] |= {"steps": 3, "batch_size": 4}
        config["init_from"]["path"] = str(tmp_path / "first") if number else ""
        folder = tmp_path / ("second" if number else "first")
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
    assert report.evaluations_of_run(tmp_path / "first") == 3 * 4 * 8 + 25 * 8
    assert report.evaluations_of_run(tmp_path / "second") == 3 * 4 * 8 * 2 + (25 + 100) * 8


def test_real_drawings_train_the_whole_model_or_a_lora_on_as_many_evaluations():
    configs = {name: recipes.load(f"examples/counting/recipe.py:{name}") for name in ("drawings", "drawings_lora")}
    assert {name: config.tuning.name for name, config in configs.items()} == {
        "drawings": "full",
        "drawings_lora": "lora",
    }
    for config in configs.values():
        assert report.evaluations(config.to_dict()) == 39_936
        assert config.train.steps * config.train.batch_size <= sum(part["number"] for part in config.data.source.of)
    long = recipes.load("examples/counting/recipe.py:drawings_long")
    assert long.data.source.of[0]["number"] == 64_000 and long.tuning.name == "full"


def test_two_of_five_drawings_of_the_spelling_are_words_of_random_letters():
    config = recipes.load("examples/counting/recipe.py:drawings_spelling")
    several, spelled = config.data.source.of
    assert several["name"] == "counting_drawings" and spelled["name"] == "spelled_drawings"
    assert spelled["number"] * spelled["share"] / (several["number"] + spelled["number"]) == pytest.approx(2 / 5)
    assert config.tuning.name == "full" and config.train.steps * config.train.batch_size == 3_840_000


@pytest.mark.extended
def test_half_of_the_real_drawings_show_several_objects_and_some_a_new_word():
    """0.7 of two thirds, and 0.85 times 0.18 of a third; words of random letters are 0.15 of a third."""
    of = recipes.load("examples/counting/recipe.py:drawings").data.source.of
    source = sources.mixture([opened(part["name"], part["number"] // 10) for part in of])
    found = [scenes.parsed(text) for text in source.captions()]
    several = np.mean([scene.kind == "several" for scene in found])
    random_words = np.mean([scene.kind == "word" and scene.word not in scenes.WORDS for scene in found])
    deviation = lambda share: np.sqrt(share * (1 - share) / len(found))
    for share, expected in ((several, (2 * 0.7 + 0.85 * 0.18) / 3), (random_words, 0.15 / 3)):
        assert abs(share - expected) < 4 * deviation(expected)


def opened(name, number):
    return {"counting_drawings": rewards.counting_drawings, "spelled_drawings": sources.spelled_drawings}[name](
        number=number
    )


def test_a_run_of_all_weights_has_a_row_at_the_guidance_of_the_base_too(tmp_path, monkeypatch):
    model = SimpleNamespace(usual=SimpleNamespace(steps=20))
    monkeypatch.setattr(report.model_folder, "load", lambda folder: SimpleNamespace(usual=model.usual, folder=folder))
    monkeypatch.setattr(measures, "make", lambda model, **how: (getattr(model, "folder", "base"), how))
    config = recipes.load("examples/counting/recipe.py:drawings").to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"it has no tuning/pytorch_lora_weights.* nor tuning/model_index"):
        report.makers(cast(Any, model), {"drawings": tmp_path}, cast(Any, None), [])
    (tmp_path / "tuning").mkdir()
    (tmp_path / report.MODEL).touch()
    rows = report.makers(cast(Any, model), {"drawings": tmp_path}, cast(Any, None), [])
    assert rows["drawings, guidance 2"] == ((tmp_path / "tuning", {}), 39_936, 40)
    assert rows["drawings"] == ((tmp_path / "tuning", {"guidance": 1.0, "steps": 10}), 39_936, 10)
    assert report.title("drawings, guidance 2") == "Real drawings, all weights, guidance 2"
    assert report.title(report.GUIDED) == "Base, guidance 2"


def test_the_pictures_of_a_caption_that_are_chosen():
    """Accepted from a half on; pairs of the most certain accepted and refused ones."""
    assert own_samples.chosen([0.6, 0.1, 0.9, 0.4]) == ((0, 2), ((2, 1), (0, 3)))
    assert own_samples.chosen([0.5, 0.7]) == ((0, 1), ()) and own_samples.chosen([0.2, 0.1]) == ((), ())


def test_pictures_of_other_captions_or_weights_are_made_again(tmp_path):
    """OUT/pictures holds those of an earlier command, which may have had another --share, base or run."""
    made = []
    make = lambda texts, seeds: made.append(len(texts)) or np.zeros((len(texts), 64, 64, 3), np.uint8)
    share = {"share": 0.5, "interval": [0.4, 0.6]}
    read = lambda texts, pictures: {
        "count": {name: share for name in ("templates", "measuring", "rewarding")},
        "templates": {}, "gap": 0.0, "variety": float(len(pictures)), "frechet": 1.0,
    }  # fmt: skip
    texts = ["two red circles", "three blue stars"]
    rows = {"base": (make, 0, 10), "nft": (make, 100, 10)}
    weights = {"checkpoint": "a", "runs": {"nft": "b"}}
    counted = []
    for some, description in (
        (texts, weights), (texts, weights), (texts[:1], weights), (texts[:1], weights | {"runs": {"nft": "c"}}),
        (texts[:1], {"checkpoint": "d", "runs": {"nft": "c"}}),
    ):  # fmt: skip
        made.clear()
        content = report.run(rows, tmp_path, some, read, description)
        assert content["rows"]["nft"]["variety"] == measures.SEEDS * len(some)
        counted.append(list(made))
    assert counted == [[8, 8], [], [4, 4], [4], [4, 4]]


def test_another_objective_has_no_count():
    with pytest.raises(ConfigError, match="'drift' is none of this folder's recipe"):
        report.evaluations(
            {"objective": {"name": "drift"}, "train": {"steps": 1, "batch_size": 1}, "sample": {"steps": 1}}
        )


@pytest.mark.extended
def test_real_pictures_count_right_and_are_at_no_distance_from_themselves(rewarding, measuring):
    texts = measures.captions({"several": 8, "one": 2, "pair": 2, "word": 1})
    asked = [scenes.parsed(text) for text in texts]
    assert sorted(scene.count for scene in asked if scene.kind == "several") == [2, 2, 3, 3, 4, 4, 5, 5]
    repeated = [text for text in texts for _ in range(measures.SEEDS)]
    real = np.stack([prompt_metrics.real_picture(text, row) for row, text in enumerate(repeated)])
    figures = measures.measured(repeated, real, rewarding, measuring)
    assert figures["count"]["templates"]["share"] == 1 and figures["count"]["templates"]["count"] == 8 * measures.SEEDS
    assert figures["templates"]["word"]["share"] == 1
    np.testing.assert_allclose([figures["frechet"], figures["variety"]], [0, 1], atol=1e-6)
    assert figures["gap"] == figures["count"]["rewarding"]["share"] - figures["count"]["measuring"]["share"]
    shown = judges.read(measuring, judges.features(measuring, real))
    right = [
        judge.verdict(*pair)["count"] for pair in zip(map(scenes.parsed, repeated), shown) if pair[0].kind == "several"
    ]
    assert figures["count"]["measuring"]["share"] == np.mean(right)
    texts_of_several = {text for text in texts if scenes.parsed(text).kind == "several"}
    assert {share["prompts"] for share in figures["count"].values()} == {len(texts_of_several)}


def test_the_best_of_several_is_the_one_of_the_largest_reward(monkeypatch):
    monkeypatch.setattr(measures, "make", lambda model, **how: lambda texts, seeds: np.stack(
        [np.full((64, 64, 3), seed // report.APART * 50 + seed % report.APART, np.uint8) for seed in seeds]
    ))  # fmt: skip
    monkeypatch.setattr(rewards, "log_probabilities", lambda reader, x, texts: -np.abs(x[:, 0, 0, 0] - 101.0))
    best = report.best_of(cast(Any, None), 4, cast(Any, None))(["a circle", "a star"], [0, 10])
    assert best[:, 0, 0, 0].tolist() == [100, 110]


def test_the_report_goes_on_from_its_pictures(tmp_path):
    texts = measures.captions({"several": 8, "one": 2, "pair": 2, "word": 1})
    calls = []

    def make(asked, seeds):
        calls.append(seeds[0])
        return np.full((len(asked), 64, 64, 3), len(calls), np.uint8)

    def read(asked, pictures):
        right = bootstrap.share([True] * 28 + [False] * 4 * int(pictures[0, 0, 0, 0]))
        templates = dict.fromkeys(("shape", "colour", "position", "relation", "word"), right)
        count = dict.fromkeys(("templates", "rewarding", "measuring"), right)
        figures = {"templates": templates, "count": count, "gap": 0.03, "variety": 0.9}
        return figures | {"frechet": 2.0 + pictures[0, 0, 0, 0]}

    rows = {report.PLAIN: (make, 0, 20), "nft": (make, 768, 20)}
    contents = [report.run(rows, tmp_path, texts, read, {"model": "m"}) for _ in range(2)]
    assert calls == [measures.FIRST_SEED] * 2 and contents[0]["rows"] == contents[1]["rows"]
    page = (tmp_path / "report.md").read_text()
    assert "| DiffusionNFT | 768 | 20 | **78%** (61.9 to 88.3) | 78% (61.9 to 88.3) | 78% | +3 |" in page
    assert "| DiffusionNFT | 78% | 78% | 78% | 78% | 78% | 1.33 | 0.90 |" in page
    assert (tmp_path / "pictures.png").is_file()
