"""The fields for controls on the page: a picture, weight, interval, mask and kind for each attachment."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from diffusion.models.attachment import Attachment
from diffusion.text_to_image.picture_controls import Control

IMAGES = ("picture", "mask")  # the parts that are pictures


class Part(NamedTuple):
    """A field of a control.

    Attributes:
        component: the name of the gradio component.
        label: the text beside it on the page.
        value: its value if there is no control.
        how: further arguments of the component.
    """

    component: str
    label: str
    value: Any
    how: Mapping[str, Any]


def field(name: str, part: str) -> str:
    """The name of the field for one part of an attachment's control."""
    return f"{name}: {part}"


def parts(name: str, attachment: Attachment) -> dict[str, Part]:
    """The fields of an attachment's control; pictures come first."""
    upload = {"type": "filepath", "sources": ["upload"]}
    unit = {"minimum": 0, "step": 0.05, "maximum": 1}
    fields = {"picture": Part("Image", name, None, upload)}
    if attachment.masked or attachment.inpaints:
        where = "is painted anew" if attachment.inpaints else "acts"
        fields["mask"] = Part("Image", f"{name}: mask, white where it {where}", None, upload)
    fields |= {
        "weight": Part("Slider", "Weight", 1.0, {**unit, "maximum": 2}),
        "from": Part("Slider", "From t (0: the picture)", 0.0, unit),
        "to": Part("Slider", "To t (1: noise)", 1.0, unit),
    }
    if attachment.modes:
        fields["kind"] = Part("Dropdown", "Kind, by its number", 0, {"choices": list(range(attachment.modes))})
    return fields


def sent(
    values: dict[str, Any], attachments: Mapping[str, Attachment], encoded: Callable[[str], str]
) -> list[dict[str, Any]]:
    """The controls that have a picture, as inputs of a request.

    Args:
        values: the values of the page's fields; the values of controls are removed from it.
        attachments: the model's attachments.
        encoded: a function from the path of a picture to the picture as inputs have it.
    """
    controls = []
    for name, attachment in attachments.items():
        control = {part: values.pop(field(name, part)) for part in parts(name, attachment)}
        if control["picture"]:
            images = {part: encoded(control[part]) for part in IMAGES if control.get(part)}
            settings = {
                "weight": control["weight"],
                "times": [control["from"], control["to"]],
                "mode": control.get("kind"),
            }
            controls.append({"attachment": name, **settings, **images})
    return controls


def shown(controls: Iterable[Control], attachments: Mapping[str, Attachment]) -> dict[str, Any]:
    """The values of the fields for some controls, the last control of each attachment; the inverse of `sent`."""
    said = {field(name, key): part.value for name, one in attachments.items() for key, part in parts(name, one).items()}
    for control in controls:
        low, high = control.times
        settings = {**control._asdict(), "from": low, "to": high, "kind": control.mode}
        if attachment := attachments.get(control.attachment):
            said |= {field(control.attachment, part): settings[part] for part in parts(control.attachment, attachment)}
    return said
