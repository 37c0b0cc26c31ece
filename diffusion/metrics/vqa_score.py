"""VQAScore: the probability that a model which answers questions about pictures says that one shows a text.

This module has no weights: bring a function of your own, which may be any such model.
"""

from collections.abc import Callable, Sequence

import numpy as np

from diffusion.metrics.prompt_following.readers import ReaderError

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
"""As the authors' code asks, with the text in place of the braces (linzhiqiu/t2v_metrics, clip_t5_model.py)."""
ANSWER = "Yes"
"""Whose probability is the score."""

AnswerLogProbability = Callable[[Sequence[np.ndarray], Sequence[str], Sequence[str]], np.ndarray]
"""Pictures uint8 [H, W, 1 or 3], a question about each, an answer to each -> ln P(answer | picture, question), [N]."""


def vqa_score(
    answer_log_probability: AnswerLogProbability,
    pictures: Sequence[np.ndarray],
    texts: Sequence[str],
    question: str = QUESTION,
    answer: str = ANSWER,
) -> np.ndarray:
    """P(answer | picture, question about the text) of each pair.

    The authors' figures were measured with CLIP-FlanT5, for whose answer they take the mean log-probability of a token,
    the end token included: the geometric mean of P("Yes") and P(end | "Yes"). Whether yours does so is for it to say.

    Args:
        answer_log_probability: a function (pictures, questions, answers) -> natural logarithms of probabilities, [N].
        pictures: N pictures, uint8 [H, W, 1 or 3] of any sizes.
        texts: N texts; text i is to be shown by picture i.
        question: the question, with "{}" where the text belongs.
        answer: the answer whose probability counts.

    Returns:
        float64 [N] in [0, 1].

    Raises:
        ValueError: if there are not as many texts as pictures, or the question has no "{}".
        ReaderError: if the function returns values that are no logarithms of probabilities.

    Paper: Lin et al. 2024, "Evaluating Text-to-Visual Generation with Image-to-Text Generation", equation 1.
    """
    return np.exp(log_probabilities(answer_log_probability, pictures, texts, question, answer))


def log_probabilities(
    answer_log_probability: AnswerLogProbability,
    pictures: Sequence[np.ndarray],
    texts: Sequence[str],
    question: str = QUESTION,
    answer: str = ANSWER,
) -> np.ndarray:
    """The natural logarithm of `vqa_score`, float64 [N] up to 0; arguments and errors as in `vqa_score`."""
    if len(pictures) != len(texts):
        raise ValueError(f"each picture needs one text; got {len(pictures)} pictures and {len(texts)} texts")
    if question.count("{}") != 1:
        raise ValueError(f"question={question!r} must contain {{}} exactly once, where the text is inserted")
    questions = [question.replace("{}", text) for text in texts]
    logarithms = np.asarray(answer_log_probability(pictures, questions, [answer] * len(texts)), np.float64)
    if logarithms.shape != (len(texts),):
        raise ReaderError(
            f"answer_log_probability returned the shape {list(logarithms.shape)} for {len(texts)} questions; it must "
            "return one number for each"
        )
    if np.isnan(logarithms).any() or (logarithms > 1e-6).any():
        raise ReaderError(
            f"answer_log_probability returned {logarithms[~(logarithms <= 1e-06)][0]}. Valid: logarithms of "
            "probabilities, at most 0"
        )
    return np.minimum(logarithms, 0)
