"""The fields for controls on the page: per attachment a picture, weight, interval, mask and kind."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from diffusion.models.attachment import Attachment
from diffusion.text_to_image.picture_controls import Control

IMAGES = ("picture", "mask")  # the parts that are pictures


class Part(NamedTuple):
    """A field of a control.

    Attributes:
        component: the name of gradio's component.
        label: the text that the page writes beside it.
        value: its value where there is no control.
        how: further arguments of the component.
    """

    component: str
    label: str
    value: Any
    how: Mapping[str, Any]


def field(name: str, part: str) -> str:
    """The name of the field of a part of an attachment's control."""
    return f"{name}: {part}"


def parts(name: str, attachment: Attachment) -> dict[str, Part]:
    """The fields of an attachment's control: pictures first."""
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
    """The controls whose pictures are there, as inputs of a request.

    Args:
        values: the values of the page's fields; the controls' values are taken out.
        attachments: the model's attachments.
        encoded: path of a picture -> the picture as inputs have it.
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
    """The fields of controls, for each attachment the last one; the inverse of `sent`."""
    said = {field(name, key): part.value for name, one in attachments.items() for key, part in parts(name, one).items()}
    for control in controls:
        low, high = control.times
        settings = {**control._asdict(), "from": low, "to": high, "kind": control.mode}
        if attachment := attachments.get(control.attachment):
            said |= {field(control.attachment, part): settings[part] for part in parts(control.attachment, attachment)}
    return said
