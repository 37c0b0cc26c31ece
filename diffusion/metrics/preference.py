"""Preference between pictures of the same prompt, by the scores of a model that was trained on human choices."""

import numpy as np


def preferred(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The probability that people choose the first of two pictures.

        p = exp(s_1) / (exp(s_1) + exp(s_2)),    s = T (text . image)

    A score s is the cosine between CLIP's embeddings of the prompt and the picture, times CLIP's factor T.

    Args:
        first: scores s_1 of the first pictures, `[N]`.
        second: scores s_2 of the second pictures, for the same prompts, `[N]`.

    Returns:
        p, float64 `[N]` in [0, 1].

    Raises:
        ValueError: if the shapes differ, or a score is not finite.

    Paper: Kirstain et al. 2023, "Pick-a-Pic: An Open Dataset of User Preferences for Text-to-Image Generation",
        section 4.
    """
    first = np.asarray(first, np.float64)
    second = np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"first and second must have one score for each prompt, [N]; got {list(first.shape)} and "
            f"{list(second.shape)}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("first and second must be finite scores")
    return np.exp(-np.logaddexp(0, second - first))
