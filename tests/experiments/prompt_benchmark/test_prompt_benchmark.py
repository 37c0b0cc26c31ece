"""Benchmarks from files to records, by made readers that see in a picture what its first pixel says."""

import contextlib
import json
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from diffusion import text_to_image
from diffusion.experiments.prompt_benchmark import __main__ as command, benchmarks, judging, making
from diffusion.experiments.prompt_benchmark.benchmarks import BENCHMARKS, Readers
from diffusion.io import pictures
from diffusion.metrics.prompt_following.readers import Detection, Embedder, Parse, ReaderError
from diffusion.recipe import ConfigError, names
from tests import commands
from tests.text_to_image import made_pipelines

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"},
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
    {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}], "prompt": "a photo of a red cat"},
]
SEEN = []  # first pixels of the pictures that the detector has seen


def detector(pictures):
    """Value 1 shows a cat, 2 a dog, anything else nothing."""
    SEEN.extend(int(picture[0, 0, 0]) for picture in pictures)
    labels = {1: "cat", 2: "dog"}
    value = lambda picture: labels.get(int(picture[0, 0, 0]))
    return [[Detection(value(each), 0.9, (0, 0, 4, 4))] if value(each) else [] for each in pictures]


def coloured(pictures):
    """Red where the second channel is 1, else blue; texts are along the axis of their colour."""
    return np.eye(2)[[0 if each[0, 0, 1] == 1 else 1 for each in pictures]] * 1.0


EMBEDDER = Embedder(coloured, lambda texts: np.array([[1.0, 0.1] if " red" in text else [0.1, 1.0] for text in texts]))
READERS = Readers(detector=detector, embedder=EMBEDDER)


def picture(path, *pixel, size=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), pixel or 0, np.uint8)).save(path)


@pytest.fixture
def geneval(tmp_path):
    """The prompts, and two pictures of each: right, wrong; wrong, wrong; of a red cat and a blue one."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in GENEVAL))
    for prompt, values in enumerate([((1, 0, 0), (0, 0, 0)), ((1, 0, 0), (0, 0, 0)), ((1, 1, 0), (1, 0, 0))]):
        folder = tmp_path / "images" / f"{prompt:05}"
        for index, value in enumerate(values):
            picture(folder / "samples" / f"{index:04}.png", *value)
        (folder / "metadata.jsonl").write_text(json.dumps(GENEVAL[prompt]))
    SEEN.clear()
    return tmp_path


def run(folder, name="geneval", named=READERS, prompts="prompts.jsonl", **settings):
    settings = {"per_prompt": 2, "batch_size": 2, **settings}
    places = (folder / prompts, folder / "images", folder / "out")
    return command.run(BENCHMARKS[name], *places, named, **settings)


def values(content):
    return {name: figure["value"] for name, figure in content["figures"].items()}


def test_geneval_from_the_published_layout(geneval):
    content = run(geneval, about={"detector": "made"})
    assert values(content) == {"single_object": 0.25, "colors": 0.5, "overall": 0.375}
    figure = content["figures"]["single_object"]
    assert (figure["samples"], figure["prompts"]) == (4, 2)
    assert figure["standard_error"] == pytest.approx(0.25)  # of the prompts' shares 0.5 and 0
    assert content["figures"]["colors"]["standard_error"] is None  # one prompt has no spread
    assert content == json.loads((geneval / "out" / "benchmark.json").read_text())
    assert len(content["prompts"]["sha256"]) == 64 and content["readers"] == {"detector": "made"}
    lines = [json.loads(line) for line in (geneval / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == [1, 0, 0, 0, 1, 0]
    assert lines[5]["reason"] == "expected red cat>=1, found orange" and lines[0]["details"] == {
        "cat": [[0, 0, 4, 4, 0.9]]
    }


def test_what_is_judged_is_not_judged_again(geneval):
    first = run(geneval)
    path = geneval / "out" / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:30])  # a machine was lost in the middle of a line
    picture(geneval / "images" / "00000" / "samples" / "0001.png", 1)  # and one picture was made anew
    SEEN.clear()
    content = run(geneval)
    assert SEEN == [128, 1, 1, 1]  # the reader is tried on grey; the new picture, and the two that were lost
    assert values(content)["single_object"] == 0.5 and values(first)["single_object"] == 0.25
    assert len(path.read_text().splitlines()) == 4 + 3
    with pytest.raises(ConfigError, match=r"holds results of another request: readers was \{.*: 'other'"):
        run(geneval, about={"detector": "other"})


def test_results_with_a_setting_that_is_not_named_again_are_those_of_another_request(tmp_path):
    judging.begin(tmp_path, {"benchmark": "geneval", "threshold": 0.3})
    judging.begin(tmp_path, {"benchmark": "geneval", "threshold": 0.3})
    for request in ({"benchmark": "geneval"}, {"benchmark": "geneval", "threshold": None}):
        with pytest.raises(ConfigError, match=r"another request: threshold was 0\.3 there and is None now"):
            judging.begin(tmp_path, request)


def test_bad_input_ends_before_a_picture_is_read(geneval, monkeypatch):
    monkeypatch.setattr(judging, "judge", None)
    monkeypatch.setattr(making, "make", None)
    with pytest.raises(ConfigError, match=r"--embedder is missing: geneval needs it.*or name a CLIPModel by --clip"):
        run(geneval, named=Readers(detector=detector), model="model")
    with pytest.raises(ReaderError, match=r"the detector returned 'cat'\. Valid: a list"):
        run(geneval, named=READERS._replace(detector=lambda pictures: ["cat"]), model="model")
    with pytest.raises(ConfigError, match=r"lacks 00000/samples/0002\.png, for the prompt 'a photo of a cat'; 3 of 9"):
        run(geneval, per_prompt=3)
    (geneval / "images" / "00001" / "metadata.jsonl").write_text(json.dumps(GENEVAL[0]))
    with pytest.raises(ConfigError, match=r"00001/metadata\.jsonl states another prompt than 'a photo of a dog'"):
        run(geneval)
    (geneval / "images" / "00001" / "metadata.jsonl").write_text("{")
    with pytest.raises(ConfigError, match=r"--images: .*00001/metadata\.jsonl is not valid JSON"):
        run(geneval)
    (geneval / "prompts.jsonl").write_text(json.dumps({**GENEVAL[0], "tag": "none"}))
    with pytest.raises(ConfigError, match=r"--prompts: .*line 1: tag = 'none'"):
        run(geneval)
    with pytest.raises(ConfigError, match="dpg-bench has at most 4 pictures per prompt"):
        run(geneval, "dpg-bench", per_prompt=5)


def test_dpg_bench_of_grids(tmp_path):
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple"
    rows = [
        "a,A red car.,,1,0,,,entity - whole (car),Is there 1?",
        "a,A red car.,,2,1,,,attribute - color (car),Is there 2?",
        "b,A dog.,,1,0,,,entity - whole (dog),Is there 3?",
    ]
    (tmp_path / "dpg.csv").write_text("\n".join([f"{head},question_natural_language", *rows]))
    for key, shown in (("a", (3, 1)), ("b", (3, 0))):  # bits: what each picture shows
        grid = np.zeros((8, 8, 3), np.uint8)
        grid[:4, :4], grid[:4, 4:] = shown
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(grid).save(tmp_path / "images" / f"{key}.png")

    def answerer(pictures, questions):
        bit = {"Is there 1?": 1, "Is there 2?": 2, "Is there 3?": 2}
        said = [0.9 if each[0, 0, 0] & bit.get(text, 0) else 0.2 for each, text in zip(pictures, questions)]
        return [{"yes": value, "no": 1 - value} for value in said]

    content = run(tmp_path, "dpg-bench", Readers(answerer=answerer), "dpg.csv")
    # a: both of the first picture, the first of the second: (1 + 1/2) / 2; b: the first of two pictures
    assert values(content) == pytest.approx(
        {"overall": 100 * (0.75 + 0.5) / 2, "attribute": 50.0, "attribute - color": 50.0, "entity": 75.0,
         "entity - whole": 75.0, "attribute (last picture)": 0.0, "attribute - color (last picture)": 0.0,
         "entity (last picture)": 50.0, "entity - whole (last picture)": 50.0}
    )  # fmt: skip


def test_t2i_compbench_by_the_metric_of_each_category(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    prompts = {
        "color": "a red cat",
        "spatial": "a cat next to a dog",
        "non_spatial": "a red thing",
        "complex": "A red cat.",
    }
    for category, text in prompts.items():
        (folder / f"{category}_val.txt").write_text(text + "\n")
        for number in range(2):
            picture(tmp_path / "images" / category / "samples" / f"{text}_{number:06}.png", 1, 1 - number, 0)
    for kind in ("spatial", "action"):
        (folder / f"complex_val_{kind}.txt").write_text({"action": "a red cat\n", "spatial": "none\n"}[kind])
    both = lambda pictures: [
        [Detection("cat", 0.9, (0, 0, 4, 4)), Detection("dog", 0.7, (3, 0, 7, 4))] for _ in pictures
    ]
    answerer = lambda pictures, questions: [{"yes": 0.8 if text == "a cat?" else 0.5, "no": 0.1} for text in questions]

    def grammar(text):
        kinds = {"red": "ADJ", "cat": "NOUN", "dog": "NOUN"}
        found = text.rstrip(".").split()
        return Parse(tuple((word, kinds.get(word, "X")) for word in found), ("a cat", "it"))

    seen = []
    texts = lambda some: seen.extend(some) or EMBEDDER.texts(some)
    named = Readers(both, answerer, EMBEDDER._replace(texts=texts), grammar)
    content = run(tmp_path, "t2i-compbench", named, "dataset")
    cosine = lambda x, y: (x + 0.1 * y) / np.hypot(1, 0.1)
    action = (cosine(1, 0) + cosine(0, 1)) / 2  # "a red thing" of a red picture and a blue one
    plain = (cosine(0, 1) + cosine(1, 0)) / 2  # "A cat", without its adjective
    assert values(content) == pytest.approx(
        {"color": 0.4, "spatial": 0.25 * 0.9 + 0.25 * 0.7 + 0.5, "non_spatial": action, "complex": (0.4 + plain) / 2}
    )
    assert "A cat" in seen and "A red cat." not in seen[1:]
    with pytest.raises(ConfigError, match="no file CATEGORY_val"):
        benchmarks.opened(BENCHMARKS["t2i-compbench"], tmp_path)
    (tmp_path / "numeracy_val.txt").write_text("two cats\n")
    with pytest.raises(ConfigError, match=r"belongs to the category 'numeracy'\. Valid: color"):
        benchmarks.opened(BENCHMARKS["t2i-compbench"], tmp_path / "numeracy_val.txt")
    (folder / "color_val.txt").write_text("../../a cat\n")
    with pytest.raises(ConfigError, match="name a file outside of its folder"):
        benchmarks.opened(BENCHMARKS["t2i-compbench"], folder)


def test_t2i_compbench_plus_plus_adds_depth_and_numbers(tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    prompts = {"color": "a red cat", "3d_spatial": "a cat in front of a dog", "numeracy": "two cats and a dog"}
    for category, text in prompts.items():
        (folder / f"{category}_val.txt").write_text(text + "\n")
        for number in range(2):
            picture(tmp_path / "images" / category / "samples" / f"{text}_{number:06}.png", 1, 0, 0)
    with pytest.raises(ConfigError, match=r"new_objects\.txt"):
        benchmarks.opened(BENCHMARKS["t2i-compbench++"], folder)
    (folder / "new_objects.txt").write_text("cat - cats\ndog - dogs\n")
    both = lambda pictures: [
        [Detection("cat", 0.8, (2, 0, 8, 8)), Detection("dog", 0.6, (0, 0, 6, 8))] for _ in pictures
    ]
    near = lambda pictures: [np.tile(np.arange(x.shape[1]), (x.shape[0], 1)) for x in pictures]
    kinds = {"red": "ADJ", "cat": "NOUN", "dog": "NOUN"}
    grammar = lambda text: Parse(tuple((word, kinds.get(word, "X")) for word in text.split()), ("a cat",))
    answerer = lambda pictures, questions: [{"yes": 0.5, "no": 0.5} for _ in questions]
    named = Readers(both, answerer, None, grammar)
    with pytest.raises(ConfigError, match=r"--depth is missing: t2i-compbench\+\+ needs it.*names\.DEPTHS"):
        run(tmp_path, "t2i-compbench++", named, "dataset")
    content = run(tmp_path, "t2i-compbench++", named._replace(depth=near), "dataset")
    ahead = (0.8 + 0.6) / 4 + 0.5  # overlap 4 / 8 of the union
    assert values(content) == pytest.approx({"color": 0.5, "3d_spatial": ahead, "numeracy": (0.5 + 1) / 2})
    (folder / "numeracy_val.txt").write_text("two birds\n")
    with pytest.raises(ConfigError, match=r"'two birds' counts no object of new_objects\.txt"):
        benchmarks.opened(BENCHMARKS["t2i-compbench++"], folder)


def test_pictures_are_made_in_the_published_layout(geneval, monkeypatch):
    """Those that are missing alone, each by its own seed; the record says what made which, after a crash too."""
    (geneval / "images" / "00001" / "samples" / "0000.png").unlink()
    there = geneval / "images" / "00001" / "samples" / "0001.png"
    before = there.read_bytes()
    requests = []

    def make(model, request):
        requests.append(request)
        return np.stack([np.full((4, 4, 3), 2 - i, np.uint8) for i in range(len(request.seeds))])

    monkeypatch.setattr(making.text_to_image, "load", lambda folder, **source: "model")
    monkeypatch.setattr(making.text_to_image, "make", make)
    monkeypatch.setattr(making.png, "model", lambda folder, **source: {"model": folder})
    monkeypatch.setattr(making.Request, "resolved", lambda self, model: self)
    content = run(geneval, model="m", seed=10, settings={"steps": 3})
    assert values(content)["single_object"] == 0.5 and there.read_bytes() == before
    (made_by,) = content["pictures"]["makers"]
    assert made_by.items() >= {"model": "m", "steps": 3, "seeds": [12, 12], "files": 1}.items()
    assert run(geneval, model="other", seed=10)["pictures"]["makers"] == [made_by]
    (request,) = requests
    assert request.prompts == ("a photo of a dog",) and tuple(request.seeds) == (12, 13) and request.steps == 3


def test_what_lies_beside_missing_pictures_is_written_and_what_is_there_stays(geneval, monkeypatch):
    """GenEval's metadata.jsonl holds the prompt's line of the published file."""
    shutil.rmtree(geneval / "images" / "00000")
    for path in (geneval / "images" / "00001" / "samples").iterdir():
        path.unlink()
    theirs = geneval / "images" / "00001" / "metadata.jsonl"
    before = theirs.read_bytes()  # without the line break that ours has
    monkeypatch.setattr(making.text_to_image, "load", lambda folder, **source: "model")
    monkeypatch.setattr(making.text_to_image, "make", lambda model, request: np.zeros((2, 4, 4, 3), np.uint8))
    monkeypatch.setattr(making.png, "model", lambda folder, **source: {"model": folder})
    monkeypatch.setattr(making.Request, "resolved", lambda self, model: self)
    items, _ = benchmarks.opened(BENCHMARKS["geneval"], geneval / "prompts.jsonl")
    assert making.make(BENCHMARKS["geneval"], items, geneval / "images", "m", 2) == 2
    assert json.loads((geneval / "images" / "00000" / "metadata.jsonl").read_text()) == GENEVAL[0]
    assert theirs.read_bytes() == before
    written = [
        making.png.read(geneval / "images" / f"{i:05}" / "samples" / f"{k:04}.png") for i in (0, 1) for k in (0, 1)
    ]
    assert [content["seed"] for content in written] == [0, 1, 2, 3]
    assert making.make(BENCHMARKS["geneval"], items, geneval / "images", "m", 2) == 0


def test_the_record_of_a_grid_has_all_of_its_seeds_and_that_of_a_picture_its_own(tmp_path, monkeypatch):
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple"
    row = "a,a cat,,1,0,,,entity - whole (cat),Is there a cat?"
    (tmp_path / "dpg.csv").write_text(f"{head},question_natural_language\n{row}\n")
    monkeypatch.setattr(making.text_to_image, "load", lambda folder, **source: "model")
    make = lambda model, request: np.zeros((len(request.seeds), 4, 4, 3), np.uint8)
    monkeypatch.setattr(making.text_to_image, "make", make)
    monkeypatch.setattr(making.png, "model", lambda folder, **source: {"model": folder})
    monkeypatch.setattr(making.Request, "resolved", lambda self, model: self)
    items, _ = benchmarks.opened(BENCHMARKS["dpg-bench"], tmp_path / "dpg.csv")
    for count, folder in ((3, tmp_path / "three"), (1, tmp_path / "one")):
        assert making.make(BENCHMARKS["dpg-bench"], items, folder, "m", count, seed=7) == 1
    grid, single = (making.png.read(tmp_path / name / "a.png") for name in ("three", "one"))
    assert grid["seeds"] == [7, 8, 9] and "seed" not in grid and "at" not in grid
    assert single["seed"] == 7 and single["at"] == 0
    assert grid["prompt"] == single["prompt"] == "a cat" and grid["model"] == "m"


def test_makers_are_told_apart_by_their_settings_and_count_their_files(tmp_path):
    written = [("a", 3, 4), ("b", 9, 4), ("a", 1, 4), ("a", 2, 5)]
    paths = []
    for model, seed, steps in written:
        paths.append(tmp_path / f"{len(paths)}.png")
        pictures.write(
            paths[-1], np.zeros((2, 2, 3), np.uint8), {"model": model, "seed": seed, "steps": steps, "x": seed}
        )
    paths.append(tmp_path / "grid.png")
    pictures.write(paths[-1], np.zeros((2, 2, 3), np.uint8), {"model": "b", "steps": 4, "seeds": [5, 6, 7]})
    picture(tmp_path / "theirs.png", 1)  # of another program, without settings
    assert making.makers([*paths, tmp_path / "theirs.png"]) == [
        {"model": "a", "steps": 4, "seeds": [1, 3], "files": 2},
        {"model": "b", "steps": 4, "seeds": [5, 9], "files": 2},
        {"model": "a", "steps": 5, "seeds": [2, 2], "files": 1},
    ]


def test_a_model_that_cannot_be_read_is_refused_by_its_flag(geneval):
    (geneval / "images" / "00001" / "samples" / "0000.png").unlink()
    with pytest.raises(ConfigError, match=f"--model={geneval / 'none'}: "):
        run(geneval, model=str(geneval / "none"))


def test_the_missing_pictures_have_the_seeds_of_their_prompts(tmp_path, monkeypatch):
    """The first of three prompts has its pictures; seeds count from it all the same."""
    items = [benchmarks.Item(f"{k:05}", k, f"a cat {k}", "color", types.SimpleNamespace(content={})) for k in range(3)]
    for index in range(2):
        picture(tmp_path / "00000" / "samples" / f"{index:04}.png", 9)
    asked, counts = [], []

    class Asked:
        def __init__(self, text, first, number, steps):
            self.text, self.seeds, self.steps = text, list(range(first, first + number)), steps

        def resolved(self, loaded):
            assert loaded == "loaded"
            return self

    def make(loaded, request):
        asked.append((request.text, request.seeds, request.steps))
        return [np.full((4, 4, 3), seed, np.uint8) for seed in request.seeds]

    @contextlib.contextmanager
    def bar(label, total, unit):
        counts.append(total)
        yield counts.append

    monkeypatch.setattr(making.shipped_models, "folder_of_prompts", lambda model: model)
    monkeypatch.setattr(making.text_to_image, "load", lambda model, **source: "loaded")
    monkeypatch.setattr(making.text_to_image, "make", make)
    monkeypatch.setattr(making.png, "model", lambda model, **source: {})
    monkeypatch.setattr(making.png, "records", lambda request, model: [{"seed": seed} for seed in request.seeds])
    monkeypatch.setattr(making, "Request", types.SimpleNamespace(series=Asked))
    monkeypatch.setattr(making.progress, "bar", bar)
    number = making.make(BENCHMARKS["geneval"], items, tmp_path, "sd", 2, 100, {"steps": 5})
    assert asked == [("a cat 1", [102, 103], 5), ("a cat 2", [104, 105], 5)]
    assert number == 2 and counts == [2, 1, 2]
    read = lambda path: np.asarray(Image.open(tmp_path / path))[0, 0, 0]
    assert [read(f"0000{k}/samples/000{i}.png") for k in range(3) for i in range(2)] == [9, 9, 102, 103, 104, 105]


@pytest.mark.slow
def test_a_model_makes_grids_whose_pictures_are_those_of_its_seeds(tmp_path):
    """A tiny Stable Diffusion; a machine that is lost after the first prompt costs nothing of it."""
    folder = made_pipelines.folder("sd", tmp_path / "model")
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple"
    rows = [
        "a,a cat,,1,0,,,entity - whole (cat),Is there a cat?",
        "b,a dog,,1,0,,,entity - whole (dog),Is there a dog?",
    ]
    (tmp_path / "dpg.csv").write_text("\n".join([f"{head},question_natural_language", *rows]))
    answerer = lambda pictures, questions: [{"yes": 1.0} for _ in pictures]
    settings = {"model": str(folder), "per_prompt": 3, "seed": 7, "settings": {"steps": 2}}
    content = run(tmp_path, "dpg-bench", Readers(answerer=answerer), "dpg.csv", **settings)
    assert content["figures"]["overall"]["value"] == 100 and content["pictures"]["count"] == 6
    loaded = text_to_image.load(folder)
    for first, (key, prompt) in zip((7, 10), (("a", "a cat"), ("b", "a dog"))):
        own = text_to_image.generate(loaded, prompt, seeds=range(first, first + 3), steps=2)
        grid = np.asarray(Image.open(tmp_path / "images" / f"{key}.png"))
        side = len(grid) // 2
        for picture, (down, right) in zip(own, ((0, 0), (0, 1), (1, 0))):
            np.testing.assert_array_equal(
                grid[down * side : (down + 1) * side, right * side : (right + 1) * side], picture
            )
        assert not grid[side:, side:].any()
        assert pictures.settings_of(tmp_path / "images" / f"{key}.png")["prompt"] == prompt
    first = (tmp_path / "images" / "a.png").stat().st_mtime_ns
    whole = (tmp_path / "images" / "b.png").read_bytes()
    (tmp_path / "images" / "b.png").unlink()
    run(tmp_path, "dpg-bench", Readers(answerer=answerer), "dpg.csv", **settings)
    assert (tmp_path / "images" / "a.png").stat().st_mtime_ns == first
    assert (tmp_path / "images" / "b.png").read_bytes() == whole


EXTENSION = """
from diffusion.recipe import names
from tests.experiments.prompt_benchmark import test_prompt_benchmark as made

names.add(names.DETECTORS, lambda: made.detector, "made")
names.add(names.EMBEDDERS, lambda: made.EMBEDDER, "made")
"""


@pytest.mark.slow
def test_the_command_takes_readers_by_extension(geneval):
    (geneval / "mine.py").write_text(EXTENSION)
    flags = [f"--prompts={geneval / 'prompts.jsonl'}", f"--images={geneval / 'images'}", "--per_prompt=2"]
    flags += [f"--out={geneval / 'out'}", f"--extend={geneval / 'mine.py'}", "--embedder=made"]
    done = commands.run("diffusion", "prompt_benchmark", "--protocol=geneval", "--detector=made", *flags)
    assert done.returncode == 0, done.stderr
    assert "overall" in done.stdout and "0.375" in done.stdout
    content = json.loads((geneval / "out" / "benchmark.json").read_text())
    assert content["readers"]["detector"] == "made" and len(content["readers"]["code"][0]["sha256"]) == 64
    done = commands.run("diffusion", "prompt_benchmark", "--protocol=geneval", "--detector=mad", *flags)
    assert done.returncode == 2 and "--detector: unknown detector 'mad'. Did you mean 'made'?" in done.stderr


def test_tables_of_readers_are_empty_by_default():
    """No weights come with the library; a name that nobody added is refused with what there is."""
    for table in command.TABLES.values():
        assert table in (names.DETECTORS, names.ANSWERERS, names.EMBEDDERS, names.GRAMMARS) and not table


def test_one_picture_of_a_prompt_is_not_counted_as_a_last_one_too():
    questions = {1: types.SimpleNamespace(category="entity - whole")}
    items = [benchmarks.Item("a", 0, "A cat.", "", types.SimpleNamespace(questions=questions))]
    rows = [{"prompt": "a", "picture": 0, "score": 1.0, "answers": {"1": True}}]
    figures = benchmarks._dpg_figures(items, rows)
    values = {name: mean.value for name, mean in figures.items()}
    assert values == {"overall": 100, "entity": 100, "entity - whole": 100}


def test_judging_says_how_many_files_are_done(geneval, monkeypatch):
    """Of six files in fours: four, and all of them."""
    seen = []

    @contextlib.contextmanager
    def bar(name, number, unit):
        yield lambda done: seen.append((name, number, done))

    monkeypatch.setattr(judging.progress, "bar", bar)
    run(geneval, batch_size=4)
    assert seen == [("judging", 6, 4), ("judging", 6, 6)]
