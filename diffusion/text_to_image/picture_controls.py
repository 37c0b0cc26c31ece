"""A control, a picture that an attachment of a model reads: as a value, a table of its parts, or the text of a flag."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion.io import limits, schema
from diffusion.text_to_image.valid_values import NAME, PICTURE, typed, valid_as


class Control(NamedTuple):
    """A picture that an attachment of the model reads, such as edges that a ControlNet follows.

    Attributes:
        attachment: the name of one of the model's attachments.
        picture: the picture, a path or uint8 [H, W, 3].
        weight: the weight of its effect; 0 is none.
        times: the least and the greatest t at which it acts; t = 0 is the picture, t = 1 noise.
        mask: the part of the picture where it acts, a path (white where it acts) or Bool [H, W], of the size of the
            generated pictures; None for all of it. Image prompts take one; a ControlNet that inpaints needs one, white
            where it repaints.
        mode: the number of its kind, for a ControlNet that knows several (a union); None for one that knows one.
    """

    attachment: str
    picture: str | np.ndarray
    weight: float = 1.0
    times: tuple[float, float] = (0.0, 1.0)
    mask: str | np.ndarray | None = None
    mode: int | None = None

    @classmethod
    def read(cls, value: Any) -> "Control":
        """The control of a tuple in the order of the attributes, or of a table by their names.

        Raises:
            ValueError: for anything else, or a part that is not valid.
        """
        table = isinstance(value, Mapping)
        if not table and not isinstance(value, (list, tuple)):
            raise ValueError(f"controls: {limits.short(value)}. Valid: {CONTROL_WORDS}.")
        if table and not {"attachment", "picture"} <= value.keys() <= CONTROL_PARTS.keys():
            raise ValueError(f"controls: a table with {', '.join(map(str, value))}. Valid: {CONTROL_WORDS}.")
        if not table and not 2 <= len(value) <= len(CONTROL_PARTS):
            raise ValueError(f"controls: {len(value)} values. Valid: {CONTROL_WORDS}.")
        parts = dict(value) if table else dict(zip(CONTROL_PARTS, value))
        for name, (kind, valid) in CONTROL_PARTS.items():
            if name in parts and not (name in ("mask", "mode") and parts[name] is None):
                parts[name] = valid_as(valid, f"controls: {name}", typed(kind, parts[name]))
        control = cls(**parts)
        control = control._replace(weight=float(control.weight), times=tuple(map(float, control.times)))
        if control.times[0] > control.times[1]:
            raise ValueError(f"controls: times = {control.times}. Valid: the smaller t first, {control.times[::-1]}.")
        return control

    @classmethod
    def parsed(cls, text: str) -> "Control":
        """The control of a flag: ATTACHMENT:PICTURE, optionally with :WEIGHT, :FROM-TO, :mode=NUMBER and :mask=PICTURE.

            edges:a.png:0.8:0.2-1:mode=2:mask=left.png

        Raises:
            ValueError: for a text without the two names, or parts that are not valid.
        """
        text, _, mask = text.partition(":mask=")
        parts = rf"([^:]+):(.+?)(?::({DECIMAL}))?(?::({DECIMAL})-({DECIMAL}))?(?::mode=(\d{{1,4}}))?"
        match = re.fullmatch(parts, text, re.DOTALL)
        if match is None:
            raise ValueError(f"{text!r} is not a control; write ATTACHMENT:PICTURE, such as edges:house.png:0.8:0.2-1")
        name, picture, weight, low, high, mode = match.groups()
        numbers: dict[str, Any] = {} if weight is None else {"weight": float(weight)}
        if low is not None:
            numbers["times"] = (float(low), float(high))
        numbers |= {} if mode is None else {"mode": int(mode)}
        return cls.read({"attachment": name, "picture": picture, **numbers, "mask": mask or None})


DECIMAL = r"-?(?:\d+\.?\d*|\.\d+)"
CONTROL_PARTS = {
    "attachment": (str, schema.Valid("a name", lambda value: bool(value) and NAME.holds(value))),
    "picture": (str, PICTURE),
    "weight": (float, schema.number(-100, 100)),
    "times": (tuple, schema.several(schema.number(0, 1), 2, 2)),
    "mask": (str, PICTURE),
    "mode": (int, schema.integer(0)),
}


CONTROL_WORDS = "an attachment and a picture, by choice a weight, two times, a mask and a mode, or a table of these"
