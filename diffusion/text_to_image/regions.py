"""Regions, which are prompts for a part of a picture; and words that the picture must show, anywhere or in a box.

    Region("a red ball", (0.0, 0.0, 0.5, 1.0))    # or where = a mask: a path, or Bool [H, W]
    Word("ball"), Word("ball", (0.5, 0.5, 1.0, 1.0))

As texts they are "a red ball:0,0,0.5,1", "a red ball:mask=left.png"; "ball", "ball:0.5,0.5,1,1". A box is (left, top,
right, bottom) as shares of the picture's sides.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from diffusion.io import limits, schema
from diffusion.text import Tokenizer
from diffusion.text_to_image.valid_values import FILE, PROMPT

if TYPE_CHECKING:  # --help reads this file, without JAX
    from diffusion.timesteps import Plan

Box = tuple[float, float, float, float]
"""A rectangle of a picture: left, top, right and bottom as shares of its sides, from 0 to 1."""


def _is_box(value: Any) -> bool:
    numbers = isinstance(value, (list, tuple)) and len(value) == 4
    if not numbers or not all(type(one) in (int, float) and 0 <= one <= 1 for one in value):
        return False
    left, top, right, bottom = value
    return left < right and top < bottom


BOX = schema.Valid("four numbers left, top, right, bottom from 0 to 1, with left < right and top < bottom", _is_box)


def _box(text: str) -> Box | str:
    """The numbers of a text; the text itself if it has none, so that the check names it."""
    try:
        return tuple(float(part) for part in text.split(","))  # pyright: ignore[reportReturnType]; checked by BOX
    except ValueError:
        return text


def _written(box: Iterable[float]) -> str:
    """The text that `_box` reads back to the same bits."""
    return ",".join(repr(float(one)) for one in box)


class Region(NamedTuple):
    """A prompt that describes a part of the picture.

    Attributes:
        prompt: the text.
        where: the region, a box or a mask: a path (white where the prompt holds), or Bool [H, W] of the picture's size.
    """

    prompt: str
    where: Box | str | np.ndarray

    @classmethod
    def read(cls, value: Any) -> "Region":
        """The region of a text, a pair or a table with the two names.

        Raises:
            ValueError: for anything else, or a part that is not valid.
        """
        if isinstance(value, str):
            prompt, _, mask = value.partition(":mask=")
            head, _, box = value.rpartition(":")
            value = (prompt, mask) if mask else (head, _box(box))
        if isinstance(value, Mapping) and value.keys() == set(cls._fields):
            value = (value["prompt"], value["where"])
        if not (isinstance(value, (list, tuple)) and len(value) == 2 and PROMPT.holds(value[0]) and value[0]):
            raise ValueError(
                f"regions: {limits.short(value)}. Valid: a prompt and where it applies, such as 'a red "
                "ball:0,0,0.5,1' or 'a red ball:mask=left.png'."
            )
        prompt, where = value
        if isinstance(where, (list, tuple)):
            if why := schema.objection(f"regions: the box of {prompt[:30]!r}", where, BOX):
                raise ValueError(why)
            where = tuple(map(float, where))
        elif not (isinstance(where, np.ndarray) or (FILE.holds(where) and where)):
            raise ValueError(
                f"regions: {prompt[:30]!r} applies at {limits.short(where)}. Valid: {BOX.words}, or a mask (a path, "
                "or Bool [H, W])."
            )
        return cls(prompt, where)  # pyright: ignore[reportArgumentType]; a box has four numbers

    @property
    def text(self) -> str:
        """The text that `read` reads back; an array has none."""
        where = f"mask={self.where}" if isinstance(self.where, str) else _written(self.where)
        return f"{self.prompt}:{where}"

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """The region as a mask, Bool [H, W], on a picture of this size.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for a mask of another size or type, or one without a True pixel.
        """
        height, width = size
        if isinstance(self.where, str):
            from diffusion.io import pictures  # imported here: Pillow takes a while, and --help reads this file

            region = pictures.read_mask(self.where, size)
        elif isinstance(self.where, tuple):
            left, top, right, bottom = self.where
            region = np.zeros(size, bool)
            region[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = True
        else:
            region = self.where
        what = f"the mask of the region {self.prompt[:30]!r}"
        if region.shape != tuple(size) or region.dtype != bool:
            raise ValueError(
                f"{what} must be Bool with the picture's size {list(size)}; got {region.dtype} {list(region.shape)}"
            )
        if not region.any():
            raise ValueError(f"{what} is False everywhere")
        return region


class Word(NamedTuple):
    """A word or words of the prompt that the picture must show.

    Attributes:
        text: the words, as they stand in the prompt.
        box: the box that must show them; None for anywhere.
    """

    text: str
    box: Box | None = None

    @classmethod
    def read(cls, value: Any) -> "Word":
        """The word of a text, a pair or a table.

        Raises:
            ValueError: for anything else, or a part that is not valid.
        """
        if isinstance(value, str):
            text, colon, box = value.rpartition(":")
            value = (text, _box(box)) if colon else (value, None)
        if isinstance(value, Mapping) and {"text"} <= value.keys() <= set(cls._fields):
            value = (value["text"], value.get("box"))
        if not (isinstance(value, (list, tuple)) and 1 <= len(value) <= 2 and PROMPT.holds(value[0]) and value[0]):
            raise ValueError(
                f"words: {limits.short(value)}. Valid: words of the prompt, each with a box or without, such as "
                "'ball' or 'ball:0.5,0.5,1,1'."
            )
        parts: Any = (*value, None)
        text, box = parts[:2]
        if box is not None and (why := schema.objection(f"words: the box of {text[:30]!r}", box, BOX)):
            raise ValueError(why)
        return cls(text, None if box is None else tuple(map(float, box)))  # pyright: ignore[reportArgumentType]; of four

    @property
    def as_text(self) -> str:
        """The text that `read` reads back."""
        return self.text if self.box is None else f"{self.text}:{_written(self.box)}"


def on_latents(mask: np.ndarray, factor: int) -> np.ndarray:
    """The share of each latent's pixels where a mask is True, float32 [H / factor, W / factor]."""
    height, width = mask.shape
    blocks = mask.reshape(height // factor, factor, width // factor, factor)
    return blocks.mean((1, 3)).astype(np.float32)


def token_places(words: Sequence[Word], prompts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """The positions of the tokens of S words in N prompts.

    The first occurrence of a word in a prompt counts. Words are compared by the ids of their tokens, so a part of a
    longer word does not match.

    Returns:
        int32 [N, S, K], where K is the largest number of tokens of a word; shorter words are padded by -1.

    Raises:
        ValueError: for words that a prompt does not have, or that its context cuts off.
    """
    rows = []
    for prompt in prompts:
        ids = tokenizer.ids(prompt)[: tokenizer.room]
        row = []
        for word in words:
            word_ids = tokenizer.ids(word.text)
            starts = [
                i for i in range(len(ids) - len(word_ids) + 1) if word_ids and ids[i : i + len(word_ids)] == word_ids
            ]
            if not starts:
                raise ValueError(
                    f"the words {word.text!r} do not occur in the prompt {prompt[:60]!r}, or its text encoder cuts "
                    "them off"
                )
            row.append([len(tokenizer.start) + starts[0] + i for i in range(len(word_ids))])
        rows.append(row)
    longest = max(len(places) for row in rows for places in row)
    filled = [[places + [-1] * (longest - len(places)) for places in row] for row in rows]
    return np.asarray(filled, np.int32)


class Places(NamedTuple):
    """The places of regions and words that a program is compiled for.

    Attributes:
        masks: the masks of the regions over the latents, float32 [h, w].
        boxes: the boxes of the words; None for a word that may be anywhere.
        attention: scale of the guidance of words.
        first: number of tokens before the prompt's.
        ends: the last t at which words without a box move x_t, and those with one.
    """

    masks: tuple[np.ndarray, ...] = ()
    boxes: tuple[Box | None, ...] = ()
    attention: float = 1.0
    first: int = 0
    ends: tuple[float, float] = (0.5, 0.8)

    @property
    def key(self) -> tuple:
        """A value that two places share if they are equal."""
        return (*(mask.tobytes() for mask in self.masks), self.boxes, self.attention, self.first, self.ends)


NOWHERE = Places()


def ends(plan: "Plan") -> tuple[float, float]:
    """The last t of the first half of the steps of a plan, and of their first fifth, each of one step at least."""
    t = np.unique(np.asarray(plan.t)[~np.asarray(plan.renoise)])[::-1]  # a step that is repeated counts once
    last = lambda parts: float(t[-(-len(t) // parts) - 1])
    return last(2), last(5)
