"""DPG-Bench's dependency rule on answers made by hand."""

import numpy as np
import pytest

from diffusion.metrics.prompt_following import dpg_bench
from diffusion.metrics.prompt_following.readers import PromptsError

HEAD = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
)
LINES = [
    'a,"A red, old car.",,1,0,entity,whole,entity - whole (car),Is there a car?',
    'a,"A red, old car.",,2,1,attribute,color,"attribute - color (car, red)",Is the car red?',
    'a,"A red, old car.",,3,"1, 2",attribute,state,"attribute - state (car, old)",Is the red car old?',
    'a,"A red, old car.",,4,0,global,,global - (photo),Is this a photo?',
    "b,A dog.,,1,0,entity,whole,entity - whole (dog),Is there a dog?",
]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "dpg_bench.csv"
    path.write_text("\n".join([HEAD, *LINES]) + "\n")
    return dpg_bench.read(path)


def test_the_published_form(prompts):
    first, second = prompts  # the first line too, which the authors' code leaves out
    assert (first.key, first.text, second.key) == ("a", "A red, old car.", "b")
    assert [question.parents for question in first.questions.values()] == [(), (1,), (1, 2), ()]
    assert first.questions[2].text == "Is the car red?" and first.questions[2].category == "attribute - color"


@pytest.mark.parametrize(
    "yes, share",
    [({1, 2, 3, 4}, 1.0), ({2, 3, 4}, 0.25), ({1, 3, 4}, 0.5), ({1, 2, 4}, 0.75), ({2, 3}, 0.0), ({1}, 0.25)],
)
def test_a_question_counts_if_its_parents_do(prompts, yes, share):
    """Without the car (1) neither its colour (2) nor its age (3) counts; without the colour its age does not."""
    assert dpg_bench.score(prompts[0], {number: number in yes for number in (1, 2, 3, 4)}) == share


def test_a_question_that_does_not_count_takes_those_below_it_along():
    question = lambda *parents: dpg_bench.Question("Is it?", parents, "entity")
    prompt = dpg_bench.Prompt("a", "A car.", {1: question(), 2: question(1), 3: question(2), 4: question()})
    assert dpg_bench.score(prompt, {1: False, 2: True, 3: True, 4: True}) == 0.25


def test_the_answer_is_the_most_probable_one():
    assert dpg_bench.yes({"no": 0.4, "yes": 0.6}) and dpg_bench.yes({"Yes": 1.0})
    assert not dpg_bench.yes({"yes": 0.3, "no": 0.2, "red": 0.5})


def test_a_file_is_a_grid():
    grid = np.zeros((4, 4, 3), np.uint8)
    grid[:2, :2], grid[:2, 2:], grid[2:, :2] = 1, 2, 3
    assert [cell.max() for cell in dpg_bench.cells(grid, 4)] == [1, 2, 3, 0]
    numbered = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    for cell, (top, left) in zip(dpg_bench.cells(numbered, 4), ((0, 0), (0, 2), (2, 0), (2, 2))):
        np.testing.assert_array_equal(cell, numbered[top : top + 2, left : left + 2])
    assert len(dpg_bench.cells(grid, 2)) == 2 and dpg_bench.cells(grid, 1)[0] is grid
    with pytest.raises(ValueError, match=r"two by two squares; this picture has the shape \[3, 4"):
        dpg_bench.cells(grid[:3], 4)


@pytest.mark.parametrize(
    "text, message",
    [("item_id,text\na,b\n", "has no column proposition_id"),
     (f"{HEAD}\na,b,,1,0,,,x (y),\n", "line 2: the prompt 'a' has a line without a question"),
     (f"{HEAD}\na,b,,one,0,,,x (y),Is it?\n", "proposition_id = 'one'"),
     (f"{HEAD}\na,b,,1,2,,,x (y),Is it?\n", "question 1 of 'a' depends on question 2, which does not"),
     (f"{HEAD}\na,b,,1,0,,,x (y),Is it?\na,b,,1,0,,,x (y),Is it?\n", "the question 1 twice"), (HEAD, "no prompts")],
)  # fmt: skip
def test_prompts_without_their_answers_are_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(PromptsError, match=message):
        dpg_bench.read(tmp_path / "a.csv")
