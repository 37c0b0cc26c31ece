"""T2I-CompBench's rules on detections and answers made by hand."""

import numpy as np
import pytest

from diffusion.metrics.prompt_following import t2i_compbench
from diffusion.metrics.prompt_following.readers import Detection, Parse, PromptsError

BOX = (100, 100, 200, 200)


def words(text):
    """word/KIND word/KIND -> a parse without phrases."""
    return Parse(tuple(tuple(word.split("/")) for word in text.split()), ())


def test_attributes_are_a_product_over_noun_phrases():
    parse = Parse((), ("a green bench", "a blue bowl"))
    assert t2i_compbench.questions(parse) == ["a green bench?", "a blue bowl?"]
    assert t2i_compbench.attributes([0.5, 0.4]) == 0.2 and t2i_compbench.attributes([]) == 1
    assert len(t2i_compbench.questions(Parse((), ("a",) * 9))) == 8


@pytest.mark.parametrize(
    "word, other, score",
    [("on the left of", (300, 100, 400, 200), 1.0), ("on the right of", (300, 100, 400, 200), 0.0),
     ("on the top of", (100, 300, 200, 400), 1.0), ("on the bottom of", (100, 300, 200, 400), 0.0),
     ("on the left of", (300, 310, 400, 410), 0.0),  # farther down than aside
     ("on the left of", (200, 200, 300, 300), 0.0),  # as far down as aside
     ("on the left of", (150, 100, 250, 200), 0.3),  # overlap 50 / 150; 0.1 / (1/3)
     ("next to", (300, 100, 400, 200), 1.0),  # 0 apart along one side
     ("near", (400, 300, 500, 400), 0.5),  # 300 and 200 apart: 150 / 300
     ("on top of", (100, 300, 200, 400), 0.0)],  # which the authors look for and have no rule for
)  # fmt: skip
def test_places(word, other, score):
    assert t2i_compbench.place(word, BOX, other) == pytest.approx(score)


def test_the_score_of_two_objects():
    cat, car = Detection("cat", 0.8, BOX), Detection("car", 0.6, (300, 100, 400, 200))
    assert t2i_compbench.spatial("a cat on the left of a car", ("cat", "car"), [cat, car]) == pytest.approx(0.85)
    assert t2i_compbench.spatial("a cat on the right of a car", ("cat", "car"), [cat, car]) == 0  # 0.35 is below 0.5
    surer = cat._replace(score=0.9, box=(500, 100, 600, 200))  # the surest cat counts: on the other side
    assert t2i_compbench.spatial("a cat on the left of a car", ("cat", "car"), [surer, cat, car]) == 0
    sure = [cat._replace(score=1.0), car._replace(score=1.0)]  # in the wrong place: half a score, and not below it
    assert t2i_compbench.spatial("a cat on the right of a car", ("cat", "car"), sure) == 0.5
    assert t2i_compbench.spatial("a cat on the left of a car", ("cat", "car"), [cat]) == 0
    assert t2i_compbench.spatial("a cat", None, [cat]) == 0


@pytest.mark.parametrize(
    "text, is_complex, objects",
    [("a/DET girl/NOUN next/ADV to/ADP a/DET lamp/NOUN", False, ("person", "lamp")),
     ("The/DET red/ADJ hat/NOUN was/AUX on/ADP top/NOUN of/ADP the/DET brown/ADJ coat/NOUN rack/NOUN", True,
      ("hat", "coat")),
     ("The/DET cat/NOUN sat/VERB near/ADP the/DET London/PROPN Eye/PROPN ./PUNCT", True, ("cat", "Eye")),
     ("A/DET coffee/NOUN cup/NOUN on/ADP top/NOUN of/ADP a/DET book/NOUN", True, ("cup", "book")),
     ("The/DET cat/NOUN slept/VERB", True, None), ("slept/VERB", False, None)],
)  # fmt: skip
def test_the_objects_of_a_prompt(text, is_complex, objects):
    assert t2i_compbench.objects_of(words(text), is_complex) == objects


def test_a_prompt_may_hold_other_ends_of_lines(tmp_path):
    """It became two, so that every prompt behind it was compared with the picture of another."""
    (tmp_path / "color_val.txt").write_text("a red\u2028cat\na dog\x85\n\na cow\n")
    assert t2i_compbench.read(tmp_path / "color_val.txt") == ["a red\u2028cat", "a dog\x85", "a cow"]


def test_complex_prompts_have_the_scores_of_their_lists(tmp_path):
    (tmp_path / "complex_val_spatial.txt").write_text("The red hat was on top of the rack.\n")
    (tmp_path / "complex_val_action.txt").write_text("the cat clawed at the blanket\n")
    prompts = ["The red hat was on top of the rack.", "The cat clawed at the blanket.", "The moon rose."]
    assert t2i_compbench.read_complex(tmp_path, prompts) == [
        ("attribute", "spatial"),
        ("attribute", "action"),
        ("attribute", "spatial", "action"),
    ]
    assert t2i_compbench.three_in_one([0.3, 0.6]) == pytest.approx(0.45)
    assert t2i_compbench.action(words("the/DET red/ADJ cat/NOUN ran/VERB")) == "the cat ran"
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(PromptsError, match="holds no prompts"):
        t2i_compbench.read(tmp_path / "empty.txt")


def test_places_of_any_boxes():
    """By their middles, and by counts of the pixels that they share; boxes of all proportions, anywhere."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        corners = np.sort(rng.integers(0, 400, (2, 2, 2)), axis=1) + [[0, 0], [1, 1]]  # of each box, then (x, y)
        first, second = corners.reshape(2, 4).tolist()
        right, down = corners[1].mean(0) - corners[0].mean(0)
        covered = np.zeros((2, 401, 401), bool)
        for cover, ((left, top), (beyond, below)) in zip(covered, corners):
            cover[top:below, left:beyond] = True
        overlap = covered.all(0).sum() / covered.any(0).sum()
        beside = 1.0 if min(abs(right), abs(down)) < 150 else 150 / max(abs(right), abs(down))
        stands = {"left": right > abs(down), "right": -right > abs(down), "top": down > abs(right),
                  "bottom": -down > abs(right)}  # fmt: skip
        expected = {f"on the {side} of": float(there) * min(1.0, 0.1 / max(overlap, 1e-9))
                    for side, there in stands.items()} | {"near": beside, "next to": beside}  # fmt: skip
        found = {word: t2i_compbench.place(word, first, second) for word in expected}
        assert found == pytest.approx(expected, rel=1e-12)
        seen |= {word for word, score in found.items() if 0 < score < 1}
    assert seen == {*expected}


def test_narrow_boxes_beside_each_other_do_not_overlap():
    """4 wide and 100 high, 2 apart: a pixel of overlap that is not there would be a seventh of their union."""
    for word, first, second in (
        ("on the left of", (0, 0, 4, 100), (6, 0, 10, 100)),
        ("on the top of", (0, 0, 100, 4), (0, 6, 100, 10)),
    ):
        assert t2i_compbench.place(word, first, second) == 1
