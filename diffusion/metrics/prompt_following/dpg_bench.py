"""DPG-Bench: questions about dense prompts; a question counts only if its parents are answered by yes.

The rules are taken from TencentQQGYLab/ELLA, dpg_bench/compute_dpg_bench.py.

Paper: Hu et al. 2024, "ELLA: Equip Diffusion Models with LLM for Enhanced Semantic Alignment".
"""

import csv
import io
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from diffusion.io import limits, opener
from diffusion.metrics.prompt_following.readers import PromptsError

COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")


class Question(NamedTuple):
    """A question about a picture.

    Attributes:
        text: the question, which a faithful picture answers by yes.
        parents: the numbers of the questions that it depends on.
        category: "entity - whole"; its first word is the category of the paper's table.
    """

    text: str
    parents: tuple[int, ...]
    category: str


class Prompt(NamedTuple):
    """A prompt and its questions.

    Attributes:
        key: item_id, the name of its picture.
        text: the prompt.
        questions: its questions by proposition_id, in the order of the file.
    """

    key: str
    text: str
    questions: dict[int, Question]


def read(path: pathlib.Path) -> list[Prompt]:
    """The prompts of a file in the published form, dpg_bench.csv: a line for each question.

    The authors' code leaves the first line out, and then cannot measure the prompt that it belongs to (their issue 61);
    here it is read.

    Raises:
        PromptsError: at the first line of another form.
        OSError: if the file cannot be read.
    """
    try:
        rows = csv.DictReader(io.StringIO(opener.read_text(path), newline=""))
        lines = list(rows)
    except (limits.Refused, csv.Error) as error:
        raise PromptsError(f"{path} cannot be read: {error}") from error
    if lacking := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise PromptsError(f"{path} has no column {lacking[0]}; the columns of DPG-Bench are {', '.join(COLUMNS)}.")
    prompts: dict[str, Prompt] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path}, line {number}"
        question = (line["question_natural_language"] or "").strip()
        if not question:
            raise PromptsError(f"{where}: the prompt {line['item_id']!r} has a line without a question.")
        try:
            proposition = int(line["proposition_id"])
            parents = tuple(int(parent) for parent in line["dependency"].split(","))
        except (ValueError, AttributeError):
            raise PromptsError(
                f"{where}: proposition_id = {line['proposition_id']!r}, dependency = {line['dependency']!r}. Valid: "
                "an integer, and integers separated by commas, 0 for none."
            ) from None
        prompt = prompts.setdefault(line["item_id"], Prompt(line["item_id"], line["text"], {}))
        if proposition in prompt.questions:
            raise PromptsError(f"{where}: the prompt {prompt.key!r} has the question {proposition} twice.")
        category = (line["tuple"] or "").split("(")[0].strip()
        prompt.questions[proposition] = Question(question, tuple(parent for parent in parents if parent), category)
    for prompt in prompts.values():
        for proposition, question in prompt.questions.items():
            for parent in question.parents:
                if parent not in prompt.questions:
                    raise PromptsError(
                        f"{path}: question {proposition} of {prompt.key!r} depends on question {parent}, which does "
                        "not exist."
                    )
    if not prompts:
        raise PromptsError(f"{path} holds no prompts.")
    return list(prompts.values())


def cells(picture: np.ndarray, count: int) -> list[np.ndarray]:
    """The first `count` pictures of a file, which holds one picture or a grid of two by two, read row by row.

    Args:
        picture: uint8 `[H, W, 3]`.
        count: 1 to 4.

    Raises:
        ValueError: if a grid is no square of an even side.
    """
    if count == 1:
        return [picture]
    side = picture.shape[0] // 2
    if picture.shape[:2] != (2 * side, 2 * side):
        raise ValueError(
            f"a grid of {count} pictures is two by two squares; this picture has the shape {list(picture.shape[:2])}"
        )
    corners = ((0, 0), (0, side), (side, 0), (side, side))
    return [picture[top : top + side, left : left + side] for top, left in corners[:count]]


def yes(probabilities: Mapping[str, float]) -> bool:
    """Whether the most probable answer is yes."""
    return max(probabilities, key=lambda answer: probabilities[answer]).strip().lower() == "yes"


def score(prompt: Prompt, answers: Mapping[int, bool]) -> float:
    """The share of a prompt's questions that count, in [0, 1].

    A question that depends on a question of score 0 has score 0. The questions are scored in the order of the file, so
    a score of 0 also reaches questions that depend on it indirectly, if they come later in the file.

    Args:
        prompt: the prompt with its questions.
        answers: whether the answer is yes, by proposition_id.
    """
    scores = {proposition: bool(answers[proposition]) for proposition in prompt.questions}
    for proposition, question in prompt.questions.items():
        scores[proposition] = scores[proposition] and all(scores[parent] for parent in question.parents)
    return sum(scores.values()) / len(scores)
