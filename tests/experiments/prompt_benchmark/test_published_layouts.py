"""How each benchmark lays out a prompt's pictures in files, and which part of a file is which picture."""

import csv
import io
import types

import numpy as np
import pytest

from diffusion.experiments.prompt_benchmark import benchmarks, judging
from diffusion.experiments.prompt_benchmark.benchmarks import BENCHMARKS, Item, Readers
from diffusion.recipe import ConfigError

NO_COLOUR = types.SimpleNamespace(include=[])


def item(number=3, key="00003", group="color"):
    return Item(key, number, "a red cat", group, None)


def test_the_published_numbers_of_pictures():
    """GenEval's README has 4 samples of a prompt, DPG-Bench's grids 4, T2I-CompBench 10 images (Huang et al. 2023)."""
    published = {"geneval": 4, "dpg-bench": 4, "t2i-compbench": 10, "t2i-compbench++": 10}
    assert {name: benchmark.per_prompt for name, benchmark in BENCHMARKS.items()} == published
    assert all(benchmark.name == name for name, benchmark in BENCHMARKS.items())


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_the_cells_of_the_files_are_the_pictures_in_order(name, count):
    """`joined` and `cells` are inverses, and `judging` numbers the pictures of a prompt 0 .. count - 1."""
    benchmark = BENCHMARKS[name]
    pictures = list(np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8))
    files = judging.files_of(benchmark, [item()], count)
    contents = benchmark.joined(pictures)
    assert len(files) == len(contents) == len({file.path for file in files})
    shown = {}
    for file, content in zip(files, contents):
        for index, cell in enumerate(benchmark.cells(content, count), start=file.first):
            shown[index] = cell
    assert sorted(shown) == list(range(count))
    for index, picture in enumerate(pictures):
        np.testing.assert_array_equal(shown[index], picture)
    if name == "dpg-bench" and count > 1:
        assert contents[0].shape == (8, 8, 3) and (contents[0] == 0).all(-1).sum() >= 16 * (4 - count)


def test_the_names_of_files():
    """GenEval 00003/samples/0001.png, DPG-Bench KEY.png, T2I-CompBench TEXT_000006.png, counted through a category."""
    assert BENCHMARKS["geneval"].files(item(), 2) == ["00003/samples/0000.png", "00003/samples/0001.png"]
    assert BENCHMARKS["dpg-bench"].files(item(key="a12"), 4) == ["a12.png"]
    for name in ("t2i-compbench", "t2i-compbench++"):
        assert BENCHMARKS[name].files(item(), 2) == [
            "color/samples/a red cat_000006.png",
            "color/samples/a red cat_000007.png",
        ]


def dpg_file(path, key):
    head = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple"
    row = [key, "A dog.", "", "1", "0", "", "", "entity - whole (dog)", "Is there a dog?"]
    text = io.StringIO()
    csv.writer(text).writerow(row)
    path.write_text(f"{head},question_natural_language\n{text.getvalue()}")
    return path


@pytest.mark.parametrize("key", ["../a", "a/b", "/a", ""])
def test_a_key_that_is_no_name_of_a_file_is_refused(key, tmp_path):
    with pytest.raises(ConfigError, match="--prompts: "):
        benchmarks.opened(BENCHMARKS["dpg-bench"], dpg_file(tmp_path / "dpg.csv", key))
    items, digest = benchmarks.opened(BENCHMARKS["dpg-bench"], dpg_file(tmp_path / "dpg.csv", "a"))
    assert [(item.key, item.number, item.text) for item in items] == [("a", 0, "A dog.")] and len(digest) == 64


def test_a_folder_s_digest_depends_on_every_name_and_every_letter(tmp_path):
    """Of T2I-CompBench's files; of a single file it is what sha256sum prints, here of the empty file."""
    digests = []
    for names, text in ((("color",), "a cat\n"), (("color", "shape"), "a cat\n"), (("color", "shape"), "a dog\n")):
        folder = tmp_path / f"{len(digests)}"
        folder.mkdir()
        for name in names:
            (folder / f"{name}_val.txt").write_text(text)
        digests.append(benchmarks.opened(BENCHMARKS["t2i-compbench"], folder)[1])
    (tmp_path / "2" / "shape_val.txt").rename(tmp_path / "2" / "texture_val.txt")
    digests.append(benchmarks.opened(BENCHMARKS["t2i-compbench"], tmp_path / "2")[1])
    assert len(set(digests)) == 4
    (tmp_path / "empty").write_bytes(b"")
    expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert benchmarks._digest([tmp_path / "empty"]) == expected


def test_readers_are_tried_on_a_square_of_middle_grey():
    """The answerer is asked whether it is "a grey square"."""
    seen = []

    def detector(pictures):
        seen.extend(pictures)
        return [[] for _ in pictures]

    judging.require_readers(BENCHMARKS["geneval"], [item()._replace(content=NO_COLOUR)], Readers(detector=detector))
    (trial,) = seen
    side, other, channels = trial.shape
    assert (side, channels) == (other, 3) and trial.dtype == np.uint8
    assert trial.min() == trial.max() and 64 <= trial.max() <= 191
