"""The rules that T2I-CompBench++ adds, on detections and depths made by hand."""

import numpy as np
import pytest

from diffusion.metrics.prompt_following import t2i_compbench_plus
from diffusion.metrics.prompt_following.readers import Detection, PromptsError

PLURALS = {"apple": "apples", "dog": "dogs", "fire hydrant": "fire hydrants", "sheep": "sheep", "man": "men"}
NEAR = np.tile(np.arange(100.0), (100, 1))  # the farther to the right the nearer


@pytest.mark.parametrize(
    "prompt, objects",
    [("two apples and a dog", [("apple", 2), ("dog", 1)]),
     ("three fire hydrants, one man.", [("fire hydrant", 3), ("man", 1)]),
     ("four sheep near a fire hydrant", [("sheep", 4), ("fire hydrant", 1)]),
     ("a fire hydrants and one dog", [("fire hydrants", 1), ("dog", 1)]),  # as the authors' code leaves it
     ("apples and many dogs", []), ("a", [])],
)  # fmt: skip
def test_objects_and_their_numbers(prompt, objects):
    assert t2i_compbench_plus.objects_and_numbers(prompt, PLURALS) == objects


def test_numbers_count_each_object_once():
    box = (0, 0, 99, 99)
    dog = Detection("dog", 0.9, box)
    again, aside = dog._replace(score=0.8, box=(1, 0, 99, 99)), dog._replace(box=(200, 0, 299, 99))
    inside = dog._replace(box=(10, 10, 30, 30))  # more than 0.9 of it lies in the first
    assert t2i_compbench_plus.count_objects([dog, again, aside, inside]) == ["dog", "dog"]
    # Of 10,000 pixels: 9,000 of each are shared, which is 0.9 of either and not more; one column more is.
    beside, nearer = dog._replace(box=(10, 0, 109, 99)), dog._replace(box=(9, 0, 108, 99))
    assert t2i_compbench_plus.count_objects([dog, beside]) == ["dog", "dog"]
    assert t2i_compbench_plus.count_objects([dog, nearer]) == ["dog"]
    for pair in ([dog, inside], [inside, dog]):  # in either order
        assert t2i_compbench_plus.count_objects(pair) == ["dog"]
    person = Detection("person", 0.7, box)
    objects = [("dog", 2), ("man", 2)]
    assert t2i_compbench_plus.numeracy(objects, [dog, again, aside, person]) == pytest.approx((1 + 0.5) / 2)
    assert t2i_compbench_plus.numeracy([("dog", 1)], [Detection("hot dog", 0.5, box)]) == 1  # the label contains it
    assert t2i_compbench_plus.numeracy([("apple", 1)], [dog]) == 0


@pytest.mark.parametrize("box", [(0, 0, 199, 9), (0, 0, 9, 199), (50, 0, 59, 199), (0, 50, 199, 59)])
def test_long_boxes_of_one_object_are_one(box):
    dog = Detection("dog", 0.9, box)
    assert t2i_compbench_plus.count_objects([dog, dog]) == ["dog"]


def test_the_order_in_depth():
    left, right = (0, 0, 60, 100), (40, 0, 100, 100)  # overlap 20 / 100
    order = lambda word, a, b: t2i_compbench_plus.depth_order(word, a, b, NEAR)
    assert order("in front of", right, left) == order("behind", left, right) == pytest.approx(0.2 / 0.5)
    assert order("hidden", left, right) == pytest.approx(0.4)
    assert order("in front of", left, right) == order("behind", right, left) == order("near", left, right) == 0
    assert order("in front of", (60, 0, 100, 100), (0, 0, 60, 100)) == 0  # no overlap
    assert order("in front of", (10, 0, 100, 100), (0, 0, 90, 100)) == 1  # overlap 0.8


def test_the_score_of_two_objects_in_depth():
    cat, car = Detection("cat", 0.8, (40, 0, 100, 100)), Detection("car", 0.6, (0, 0, 60, 100))
    score = lambda prompt, objects, found: t2i_compbench_plus.spatial_3d(prompt, objects, found, NEAR)
    assert score("a cat in front of a car", ("cat", "car"), [cat, car]) == pytest.approx(0.35 + 0.2)
    assert score("a cat behind a car", ("cat", "car"), [cat, car]) == pytest.approx(0.35)
    assert score("a cat behind a car", ("cat", "car"), [cat]) == pytest.approx(0.2)
    assert score("a cat behind a car", ("cat", "car"), []) == 0 and score("a cat", None, [cat]) == 0
    assert (
        score("a hot dog behind a car", ("hot dog", "car"), [cat._replace(label="hot"), cat._replace(label="dog")]) == 0
    )
    # The authors' loop: of two cats before the first car the later one counts.
    later = cat._replace(score=0.4)
    assert score("a cat behind a car", ("cat", "car"), [cat, later, car]) == pytest.approx(0.25)


def test_a_table_of_another_form_is_refused(tmp_path):
    (tmp_path / "new_objects.txt").write_text("Apple - Apples\n\ndog - dogs\n")
    assert t2i_compbench_plus.read_objects(tmp_path / "new_objects.txt") == {"apple": "apples", "dog": "dogs"}
    (tmp_path / "other.txt").write_text("apple - apples\ndog\n")
    with pytest.raises(PromptsError, match=r"line 2: 'dog'\. Valid: an object and its plural"):
        t2i_compbench_plus.read_objects(tmp_path / "other.txt")


def test_the_nearness_of_a_box_is_that_of_its_rows_and_columns():
    """Boxes (x0, y0, x1, y1) whose corners have two different numbers; all beside them is nearer still."""
    nearness = np.full((100, 100), 9.0)
    nearness[10:40, 50:90] = 1.0
    nearness[10:40, 70:90] = 3.0
    first, second = (50, 10, 80, 40), (60, 10, 90, 40)  # means 5 / 3 and 7 / 3; overlap 20 / 40
    assert t2i_compbench_plus.depth_order("in front of", second, first, nearness) == 1
    assert t2i_compbench_plus.depth_order("behind", first, second, nearness) == 1
    nearness[:10, 60:90] = -99.0  # above both boxes, over more of the second
    assert t2i_compbench_plus.depth_order("in front of", second, first, nearness) == 1


def test_the_depth_of_any_boxes():
    """By counts of the pixels that they share, and means over the pixels of each."""
    rng = np.random.default_rng(0)
    nearness = rng.normal(size=(40, 40))
    found = []
    for _ in range(200):
        corners = np.sort(rng.integers(0, 39, (2, 2, 2)), axis=1) + [[0, 0], [1, 1]]  # of each box, then (x, y)
        covered = np.zeros((2, 40, 40), bool)
        for cover, ((left, top), (beyond, below)) in zip(covered, corners):
            cover[top:below, left:beyond] = True
        overlap = covered.all(0).sum() / covered.any(0).sum()
        nearer = nearness[covered[0]].mean() - nearness[covered[1]].mean()
        for word, right in (("in front of", nearer > 0), ("behind", nearer < 0)):
            found.append(t2i_compbench_plus.depth_order(word, *corners.reshape(2, 4).tolist(), nearness))
            assert found[-1] == pytest.approx(min(1.0, 2 * overlap) * right, rel=1e-12)
    assert 0 in found and any(0 < score < 1 for score in found)
