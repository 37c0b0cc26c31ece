"""Unified concept editing: keys and values of cross-attention that see one text as another, in closed form.

    W* = argmin_W  sum_i |W c_i - W0 d_i|^2 + preserve sum_j |W p_j - W0 p_j|^2 + keep |W - W0|^2
       = W0 (sum_i d_i c_i^T + S) (sum_i c_i c_i^T + S)^-1,    S = preserve sum_j p_j p_j^T + keep I

c_i are embeddings of tokens that are erased, d_i of the tokens that replace them, and p_j of tokens that stay.

Reference: Gandikota et al. 2024, "Unified Concept Editing in Diffusion Models", eq. 7.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.adapters.full_tuning import chosen_leaves
from diffusion.adapters.tuning import computed
from diffusion.io.leaf_names import leaf_name

CROSS = r"attn2\.to_[kv]\.weight$"
"""The keys and values of cross-attention by the names of their tensors in diffusers."""


def solved(kernel: Any, old: Any, new: Any, fixed: Any, preserve: float = 1.0, keep: float = 0.1) -> np.ndarray:
    """The kernel that maps `old` to what the old kernel makes of `new`, and is otherwise close to the old kernel.

    Args:
        kernel: the old kernel [in, out], W0 transposed.
        old: embeddings c_i of the tokens that are erased, [n, in].
        new: embeddings d_i of the tokens that replace them, [n, in].
        fixed: embeddings p_j of the tokens that stay, [m, in]; m may be 0.
        preserve: weight of the p_j, >= 0 and finite.
        keep: weight of the distance to the old kernel, > 0 and finite.

    Raises:
        ValueError: for weights out of range, or embeddings that do not belong together.
    """
    if not (0 <= preserve < np.inf and 0 < keep < np.inf):
        raise ValueError(
            f"preserve = {preserve}, keep = {keep}. Valid: preserve at least 0, and keep above 0, both finite"
        )
    wide = [np.asarray(array, np.float64) for array in (kernel, old, new, fixed)]
    kernel, old, new, fixed = wide
    if old.shape != new.shape or old.shape[-1] != len(kernel) or fixed.shape[-1] != len(kernel):
        shapes = [array.shape for array in wide]
        raise ValueError(
            f"kernel, old, new and fixed have the shapes {shapes}. Valid: kernel [in, out], old and new [n, in], "
            "fixed [m, in]"
        )
    stays = preserve * fixed.T @ fixed + keep * np.eye(len(kernel))
    return np.linalg.solve(old.T @ old + stays, (old.T @ new + stays) @ kernel)


def edited(
    model: Any,
    pairs: Sequence[tuple[str, str]],
    kept: Sequence[str] = (),
    pattern: str = CROSS,
    preserve: float = 1.0,
    keep: float = 0.1,
) -> Any:
    """A model that sees one text as another, computed in closed form without training.

    Args:
        model: a model that `text_to_image.load` returned, whose denoiser reads the text by cross-attention.
        pairs: pairs (text to erase, text in its place), such as ("Van Gogh", "art"); "" is no text.
        kept: texts whose keys and values stay.
        pattern: regular expression for the tensors that change, keys and values of cross-attention.
        preserve, keep: the weights of the kept texts and of the old kernel, as in `solved`.

    Raises:
        ValueError: without pairs, for texts that contradict each other, or if the pattern finds no tensor, or one that
            does not read the text.
    """
    _check_texts(pairs, kept)
    texts = list(dict.fromkeys([text for pair in pairs for text in pair] + list(kept)))
    states_of_texts = model.kind.prompts.condition(texts, *model.encoders)["text"]
    denoiser = model.kind.denoiser.folder
    if states := getattr(model.modules[denoiser], "text_states", None):  # a layer between encoder and attention
        states_of_texts = states(model.params[denoiser], states_of_texts)
    states_of_texts = np.asarray(states_of_texts, np.float64)
    tokens = dict(zip(texts, states_of_texts))
    old, new = zip(*[aligned(model, tokens, *pair) for pair in pairs])
    stay = [tokens[text][_last(model, text) :] for text in kept]
    width = states_of_texts.shape[-1]
    stay = np.concatenate(stay) if stay else np.zeros((0, width))
    chosen = chosen_leaves(model.modules[denoiser], pattern)

    def leaf(path: tuple, array: Any) -> Any:
        name = leaf_name(path)
        if name not in chosen:
            return array
        layers = np.asarray(array, np.float64)
        inputs = next((axis for axis, size in enumerate(layers.shape) if size == width), None)
        if inputs is None:
            raise ValueError(f"{name} of shape {layers.shape} does not read a text of {width} features. Valid: {CROSS}")
        flat = layers.reshape(-1, width, int(np.prod(layers.shape[inputs + 1 :])))
        changed = [solved(one, np.concatenate(old), np.concatenate(new), stay, preserve, keep) for one in flat]
        return jnp.asarray(np.stack(changed).reshape(layers.shape), array.dtype)

    params: Mapping[str, Any] = model.params
    changed = jax.tree_util.tree_map_with_path(leaf, computed(model, (denoiser,))[denoiser])
    return model.replaced(params={**params, denoiser: changed})


def _check_texts(pairs: Sequence[tuple[str, str]], kept: Sequence[str]) -> None:
    """Refuses texts that contradict each other, of which least squares would take the mean."""
    if not pairs:
        raise ValueError("pairs is empty. Valid: pairs (text to erase, text in its place)")
    replaced: dict[str, str] = {}
    for old, new in pairs:
        if old == new:
            raise ValueError(f"{old!r} is replaced by itself. Valid: another text in its place, or the text in `kept`")
        if old in replaced:
            raise ValueError(f"{old!r} is replaced by {replaced[old]!r} and by {new!r}. Valid: one text in its place")
        replaced[old] = new
    if both := next((text for text in kept if text in replaced), None):
        raise ValueError(f"{both!r} is replaced, and among the texts that stay. Valid: one of the two")


def aligned(model: Any, tokens: Mapping[str, np.ndarray], old: str, new: str) -> tuple[np.ndarray, np.ndarray]:
    """The paired embeddings of two texts, as in the authors' code.

    In each text they begin at its last token; the longer of the two sequences is cut to the length of the other.

    Args:
        model: the model, for its tokenizer.
        tokens: {text: the embeddings of its tokens}.
        old: the first text.
        new: the second text.
    """
    first, second = (tokens[text][_last(model, text) :] for text in (old, new))
    number = min(len(first), len(second))
    return first[:number], second[:number]


def _last(model: Any, text: str) -> int:
    """The position of a text's last token; of the empty one, of its start."""
    tokenizer = model.tokenizers[next(iter(model.readers))]
    number = min(len(tokenizer.ids(text)), tokenizer.room)
    return max(len(tokenizer.start) + number - 1, 0)
