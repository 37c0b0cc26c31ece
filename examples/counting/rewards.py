"""A judge's reward for a caption, and a source of drawings with several objects; `extension` registers both.

    diffusion train --config=examples/counting/recipe.py:nft --workdir=runs/counting/nft \\
      --extend=examples.counting.extension
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import objectives
from diffusion.data.shapes import drawing, scenes
from diffusion.data.shapes.scenes import NONE, Lot
from diffusion.data.sources.made_drawings import Drawings
from diffusion.data.sources.sequences import SPLITS, Records
from diffusion.metrics import attribute_reader
from examples.counting import judges
from examples.text import judge

SEED = 7_303  # of the drawings whose captions train
FLOOR = 0.05  # probability below which a logarithm hardly falls, so that no single picture decides a step
SEVERAL = 0.7  # the share of captions that ask for several objects; of the dataset it is 0.18
OPEN = -1  # the class of an attribute that a caption leaves open


def requested(caption: str) -> dict[str, np.int32]:
    """The class of each attribute that a caption requests, int32 by the attribute's name; `OPEN` for the others.

    Two objects without a relation may stand in either order, so that their colours and shapes stay open. The empty
    caption requests nothing.
    """
    if not caption:
        return {name: np.int32(OPEN) for name in judges.ATTRIBUTES}
    scene = judge.facing(scenes.parsed(caption))
    stated = {name: getattr(scene, name) for name in judges.ATTRIBUTES}
    if scene.kind == "pair" and scene.relation == NONE:
        stated = {name: value if name in ("kind", "style") else NONE for name, value in stated.items()}
    if scene.kind == "word":
        del stated["style"], stated["count"]
    number = lambda name: judges.ATTRIBUTES[name].index(stated[name]) if stated.get(name, NONE) != NONE else OPEN
    return {name: np.int32(number(name)) for name in judges.ATTRIBUTES}


def log_probability(reader: attribute_reader.Reader, pictures: Array, facts: Mapping[str, Array]) -> Array:
    """The logarithm of the probability that a judge gives to all that captions request, `[B]`.

        r = sum over requested attributes a of log p_a(requested value | picture)

    Args:
        reader: the judge that rewards.
        pictures: pictures in [-1, 1], `[B, 64, 64, 3]`.
        facts: the classes of `requested`, `[B]` each.
    """
    params = reader.params
    last = attribute_reader.hidden(params, jnp.clip((pictures + 1) * 127.5, 0, 255))
    total = jnp.zeros(len(pictures))
    for name in judges.ATTRIBUTES:
        log_p = jax.nn.log_softmax(last @ params[f"{name}/out"] + params[f"{name}/bias"])
        value = jnp.take_along_axis(log_p, jnp.maximum(facts[name], 0)[:, None], axis=1)[:, 0]
        total += jnp.where(facts[name] == OPEN, 0.0, value)
    return total


def log_probabilities(reader: attribute_reader.Reader, pictures: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """`log_probability` of pictures, uint8 [N, 64, 64, 3], by their captions, [N]."""
    facts = [requested(text) for text in texts]
    stacked = {name: jnp.stack([jnp.asarray(one[name]) for one in facts]) for name in judges.ATTRIBUTES}
    return np.asarray(log_probability(reader, jnp.asarray(pictures, jnp.float32) / 127.5 - 1, stacked))


def judged(logarithm: bool = False) -> objectives.CaptionReward:
    """The probability, in 0..1, that the rewarding judge gives to all that a caption requests.

    Args:
        logarithm: whether the reward is log(p + 0.05), whose gradient vanishes later where a picture is wrong.
    """
    reader = judges.rewarding()

    def reward(pictures: Array, condition: Any, facts: Mapping[str, Array]) -> Array:
        log_p = log_probability(reader, pictures, facts)
        return jnp.log(jnp.exp(log_p) + FLOOR) if logarithm else jnp.exp(log_p)

    return objectives.CaptionReward(reward, requested)


def counting_drawings(split: str = "train", *, number: int = 1_000) -> Records:
    """Opens drawings of trained combinations, most of which show several objects; rewards read their captions alone.

    Args:
        split: "train" or "test".
        number: how many records there are, at least 1.

    Raises:
        ValueError: for another split, or a number below 1.
    """

    def make(row: int) -> dict[str, Any]:
        lot = Lot(SEED, SPLITS.index(split), row)
        kinds = (0.0, 1.0, 0.0, 0.0) if lot.between(0, 1) < SEVERAL else (0.58, 0.0, 0.32, 0.1)
        scene = scenes.draw(lot, shares=scenes.Shares(kinds))
        return {"image": drawing.draw(scene, lot), "caption": scenes.caption(scene, lot)}

    return Records(Drawings(split, number, functools.cache(make)), split=split)
