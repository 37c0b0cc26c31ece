"""The fields of the page's controls: for each attachment a picture, its weight, when it acts, a mask, and its kind."""

__all__ = ["field", "parts", "sent", "shown"]

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from diffusion.models.attachment import Attachment
from diffusion.text_to_image.requests import Control

IMAGES = ("picture", "mask")  # the parts that are pictures


def field(name: str, part: str) -> str:
    """The name of the field of a part of an attachment's control."""
    return f"{name}: {part}"


def parts(attachment: Attachment) -> dict[str, Any]:
    """The parts that have a field, with what the field says where there is no control."""
    always = {"picture": None, "weight": 1.0, "from": 0.0, "to": 1.0}
    return always | ({"mask": None} if attachment.masked else {}) | ({"kind": 0} if attachment.modes else {})


def sent(
    values: dict[str, Any], attachments: Mapping[str, Attachment], encoded: Callable[[str], str]
) -> list[dict[str, Any]]:
    """The controls whose pictures are there, as inputs of a request.

    Args:
        values: of the page's fields; those of controls are taken out.
        attachments: of the model.
        encoded: path of a picture -> the picture as inputs have it.
    """
    controls = []
    for name, attachment in attachments.items():
        own = {part: values.pop(field(name, part)) for part in parts(attachment)}
        if own["picture"]:
            images = {part: encoded(own[part]) for part in IMAGES if own.get(part)}
            settings = {"weight": own["weight"], "times": [own["from"], own["to"]], "mode": own.get("kind")}
            controls.append({"attachment": name, **settings, **images})
    return controls


def shown(controls: Iterable[Control], attachments: Mapping[str, Attachment]) -> dict[str, Any]:
    """What the fields say of controls, of each attachment the last one; the inverse of `sent`."""
    said = {field(name, part): value for name, one in attachments.items() for part, value in parts(one).items()}
    for control in controls:
        low, high = control.times
        own = {**control._asdict(), "from": low, "to": high, "kind": control.mode}
        if attachment := attachments.get(control.attachment):
            said |= {field(control.attachment, part): own[part] for part in parts(attachment)}
    return said
