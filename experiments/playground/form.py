"""The form of the page: a component for each input of a request."""

import functools
import json
import pathlib
import random
import uuid
from typing import Any

import gradio as gr

from diffusion.experiments.playground import control_fields, region_fields
from diffusion.experiments.playground.api import encoded
from diffusion.experiments.playground.page_request import EDITS, INPUTS, PageRequest, received, values
from diffusion.experiments.playground.source import Source, check

STATIC = pathlib.Path(__file__).parent / "static"
QUICK = {"api_visibility": "private", "queue": False}  # events that are answered at once, without waiting in the queue
MOST = 16  # the end of the slider for pictures at once; the API accepts as many as fit into memory
SIDES = ("top", "bottom", "left", "right")
LINES = ("regions", "words")  # inputs with one entry per line on the page
SLIDER = 190  # pixels that a slider needs for its name, its bar and its number


def _shown(inputs: dict[str, Any]) -> dict[str, Any]:
    """The values of the inputs in the form that the page shows."""
    lines = {name: "\n".join(inputs[name]) for name in LINES}
    files = {"reference": inputs["reference"] or None, "images": list(inputs["images"]) or None}
    return inputs | lines | files


class Form:
    """The fields of the page, one for each input of a request, with the model's usual values."""

    def __init__(self, source: Source):
        self._source = source
        self._usual = _shown(values(source.usual))
        self._fields: dict[str, gr.components.Component] = {}
        self._brush: gr.HTML | None = None

    def condition(self) -> list[gr.Textbox]:
        """Makes the fields for prompts, or for a class; returns the fields in which Enter starts a request."""
        prompts = self._source.prompts
        captions = prompts or self._source.captions
        classes = self._source.classes
        texts = [
            self._add(gr.Textbox, "prompt", lines=2, visible=captions),
            self._add(gr.Textbox, "negative", label="Negative prompt", visible=prompts),
        ]
        box = "left,top,right,bottom, in fractions of the sides"
        self._add(gr.Textbox, "regions", lines=2, label=f"Regions, one per line: PROMPT:{box}", visible=prompts)
        label = f"Words of the prompt that the picture must show, one entry per line: WORDS, or WORDS:{box}"
        self._add(gr.Textbox, "words", lines=2, label=label, visible=prompts)
        choices = [(str(i), i) for i in range(classes)]
        unset = {} if classes else {"value": None}
        self._add(gr.Dropdown, "label", choices=choices, label="Class", visible=classes > 0, **unset)
        return texts

    def masks(self) -> None:
        """Makes the field for the mask files that the lines of regions name."""
        label = "Masks, white where a prompt applies; name a file in the line of its region: PROMPT:mask=FILE.png"
        self._add(gr.File, "masks", label=label, file_count="multiple", file_types=["image"], type="filepath")

    def attention(self) -> None:
        """Makes the fields that change attention: the strength of the words, and a reference picture."""
        label = "Attention: how strongly the words act"
        self._add(gr.Slider, "attention", minimum=0, maximum=5, step=0.1, label=label)
        label = "Reference: a picture of the same size whose look is copied"
        self._add(gr.Image, "reference", type="filepath", sources=["upload"], label=label)

    def sampling(self) -> None:
        """Makes the fields for sampling: steps, guidance, seed, sampler, and the number and size of the pictures."""
        height, width = self._source.size
        with gr.Row():
            self._add(gr.Slider, "steps", minimum=1, maximum=250, min_width=SLIDER)
            self._add(gr.Slider, "guidance", minimum=0, maximum=15, step=0.05, min_width=SLIDER)
        with gr.Row():
            seed = self._add(gr.Number, "seed", min_width=110)
            other = gr.Button("Another seed", elem_id="other", min_width=110)
        other.click(lambda: random.randrange(2**31), outputs=seed, **QUICK)
        with gr.Row():
            self._add(gr.Dropdown, "sampler", choices=list(self._source.samplers), min_width=SLIDER)
            self._add(gr.Slider, "batch", minimum=1, maximum=MOST, label="Pictures", min_width=SLIDER)
        with gr.Row(visible=self._source.free):
            self._add(gr.Number, "height", value=height, min_width=90)
            self._add(gr.Number, "width", value=width, min_width=90)
            self._add(gr.Number, "frames", min_width=90, visible=self._source.clip_rate > 0)

    def editing(self) -> None:
        """Makes the fields for a picture to start from: its mask, its margins, and the strength of the change."""
        self._brush = gr.HTML(
            value="",
            html_template=(STATIC / "brush.html").read_text(),
            picture="",
            mask="",
            loading="",
            css_template=(STATIC / "brush.css").read_text(),
            js_on_load=(STATIC / "brush.js").read_text(),
            elem_id="brush",
        )
        gr.Markdown(
            "Paint over the parts to replace; the other pixels stay exactly as they are. If you paint nothing, the "
            "whole picture changes."
        )
        label = "Pictures that the prompt edits or combines"
        several = {"file_count": "multiple", "file_types": ["image"], "type": "filepath"}
        self._add(gr.File, "images", label=label, visible=self._source.several, **several)
        label = "Image guidance: how closely the result follows the picture (0: the model's usual value)"
        how = {"minimum": 0, "maximum": 5, "step": 0.05, "visible": self._source.edits}
        self._add(gr.Slider, "image_guidance", label=label, **how)
        strength = "Strength: how much the picture changes (0: the usual value)"
        self._add(gr.Slider, "strength", minimum=0, maximum=1, step=0.05, label=strength)
        with gr.Row():
            for side in SIDES:
                self._add(gr.Number, side, value=0, min_width=60)
        gr.Markdown("Pixels to add at each side; the model fills them.")
        label = "Resamplings: how often each part of the trajectory is sampled, so that painted and kept parts agree"
        self._add(gr.Slider, "resamplings", minimum=1, maximum=10, label=label)

    def controls(self) -> None:
        """Makes the fields for each attachment: a picture, a weight, an interval of t, and the attachment's others."""
        for name, attachment in self._source.attachments.items():
            parts = control_fields.parts(name, attachment)
            images = {key: part for key, part in parts.items() if key in control_fields.IMAGES}
            with gr.Row():
                self._control(name, images)
                with gr.Column():
                    self._control(name, {key: part for key, part in parts.items() if key not in images})

    def _control(self, name: str, parts: dict[str, control_fields.Part]) -> None:
        """Makes the components of some parts of an attachment's control."""
        for key, part in parts.items():
            field = control_fields.field(name, key)
            component = getattr(gr, part.component)
            self._fields[field] = component(elem_id=field, label=part.label, value=part.value, **part.how)

    def _add(self, kind: Any, name: str, **how: Any) -> Any:
        """The component for an input, or for one side of the margins; whole numbers have no decimal point."""
        if kind is gr.Number:
            how["precision"] = 0
        elif kind is gr.Slider and INPUTS[name].type is int:
            how["step"] = 1
        how = {"value": self._usual.get(name), "label": name.capitalize(), "elem_id": name} | how
        if kind is gr.Slider:
            how["maximum"] = max(how["maximum"], how["value"] or 0)
        self._fields[name] = kind(**how)
        return self._fields[name]

    def components(self) -> list[gr.components.Component]:
        """All components, in the order of `read` and `written`."""
        return [*self._fields.values(), self._brush]

    def read(self, shown: list[Any], inputs: pathlib.Path) -> PageRequest:
        """The request that the components show; the visitor's pictures are stored in the folder `inputs`."""
        *shown, brush = shown
        sent = dict(zip(self._fields, shown, strict=True))
        sent["controls"] = control_fields.sent(sent, self._source.attachments, encoded)
        sent["reference"] = encoded(sent["reference"]) if sent["reference"] else ""
        sent["images"] = [encoded(path) for path in sent["images"] or ()]
        sent |= {name: [line for line in (sent[name] or "").splitlines() if line.strip()] for name in LINES}
        sent["regions"] = region_fields.sent(sent["regions"], sent.pop("masks") or (), encoded)
        drawn = json.loads(brush) if brush else {"picture": "", "mask": ""}
        sent |= {"margins": [sent.pop(side) for side in SIDES], "image": drawn["picture"], "mask": drawn["mask"]}
        ignored = {*(("height", "width") if drawn["picture"] else EDITS)}
        ignored |= set() if self._source.prompts else {"negative", "attention", "reference", *LINES}
        ignored |= set() if self._source.prompts or self._source.captions else {"prompt"}
        ignored |= set() if self._source.free and self._source.clip_rate else {"frames"}
        ignored |= set() if self._source.several else {"images"}
        ignored |= set() if self._source.classes else {"label"}
        return received(
            {name: value for name, value in sent.items() if name not in ignored},
            inputs,
            functools.partial(check, self._source),
        )

    def written(self, request: PageRequest) -> list[Any]:
        """The values with which the components show a request."""
        said = _shown(values(request))
        said |= dict(zip(SIDES, request.margins)) | {"label": said["label"] if said["label"] >= 0 else None}
        said |= control_fields.shown(request.controls, self._source.attachments)
        said["regions"], said["masks"] = region_fields.shown(request.regions)
        url = lambda path: f"data:image/png;base64,{encoded(path)}" if path else ""
        brush = gr.HTML(picture=url(said["image"]), mask=url(said["mask"]), loading=uuid.uuid4().hex)
        return [*(self._reaching(name, said[name]) for name in self._fields), brush]

    def _reaching(self, name: str, value: Any) -> Any:
        """The new value of a field; a slider that ends below it is extended, since stored settings may be larger."""
        component = self._fields[name]
        beyond = isinstance(component, gr.Slider) and value is not None and value > component.maximum
        return gr.Slider(value=value, maximum=value) if beyond else value
