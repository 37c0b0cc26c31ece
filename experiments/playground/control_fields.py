"""The fields for controls on the page: a picture, weight, interval, mask and kind for each attachment."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from diffusion.models.attachment import Attachment
from diffusion.text_to_image.picture_controls import Control

IMAGES = ("picture", "mask")  # the parts that are pictures


class Part(NamedTuple):
    """A field of a control on the page.

    Attributes:
        component: the name of the gradio component.
        label: the text beside the component on the page.
        value: the component's value in a request without this control.
        how: the component's other arguments.
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
        where = "the picture is repainted" if attachment.inpaints else "the control acts"
        fields["mask"] = Part("Image", f"{name}: mask, white where {where}", None, upload)
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
    """The controls for which the visitor chose a picture, as the input `controls` of a request.

    Args:
        values: the values of the page's fields by name; the controls' fields are removed from this dict.
        attachments: the model's attachments by name.
        encoded: a function from a picture's path to its file in base64.
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
    """The values of the fields that show some controls; the inverse of `sent`.

    Each attachment has one set of fields, which shows the last of its controls.
    """
    said = {field(name, key): part.value for name, one in attachments.items() for key, part in parts(name, one).items()}
    for control in controls:
        low, high = control.times
        settings = {**control._asdict(), "from": low, "to": high, "kind": control.mode}
        if attachment := attachments.get(control.attachment):
            said |= {field(control.attachment, part): settings[part] for part in parts(control.attachment, attachment)}
    return said
