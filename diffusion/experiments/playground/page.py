"""The page: gradio's components, and what happens between them."""

import json
import pathlib
import random
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from diffusion.experiments.playground import live_view, log
from diffusion.experiments.playground.api import REFUSALS, encoded, endpoint
from diffusion.experiments.playground.page_request import EDITS, INPUTS, PageRequest, of_file, received, values
from diffusion.experiments.playground.source import Source, make

STATIC = pathlib.Path(__file__).parent / "static"
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "device"}  # the others wait in line
FONT, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # of the visitor's machine
MOST = 16  # pictures at once that the slider offers; the API takes what fits
SIDES = ("top", "bottom", "left", "right")


def theme() -> gr.themes.Base:
    """Colours and letters, without anything from a network."""
    return gr.themes.Base(primary_hue="indigo", neutral_hue="slate", radius_size="md", font=FONT, font_mono=MONO)


def css() -> str:
    """The page's own style."""
    return (STATIC / "page.css").read_text()


class Inputs:
    """The components of a request's inputs, each under its name and with the model's usual value.

    Args:
        source: the model of the page.
    """

    def __init__(self, source: Source):
        self._source = source
        self._usual = values(source.usual)
        self._fields: dict[str, gr.components.Component] = {}
        self._brush: gr.HTML | None = None

    def add(self, kind: Any, name: str, **how: Any) -> Any:
        """Makes the component of an input; whole numbers are written without a point.

        Args:
            kind: of component.
            name: of the input, or a side of the margins.
            **how: arguments of the component.
        """
        if name in INPUTS and INPUTS[name].type is int and kind is gr.Slider:
            how = {"step": 1, **how}
        if kind is gr.Number:
            how = {"precision": 0, **how}
        usual = 0 if name in SIDES else self._usual[name]
        self._fields[name] = kind(**{"value": usual, "label": name.capitalize(), "elem_id": name, **how})
        return self._fields[name]

    def add_brush(self) -> None:
        """Makes the component of the picture to start from, and of its mask."""
        self._brush = gr.HTML(
            value="",
            html_template=(STATIC / "brush.html").read_text(),
            picture="",
            mask="",
            css_template=(STATIC / "brush.css").read_text(),
            js_on_load=(STATIC / "brush.js").read_text(),
            elem_id="brush",
        )

    def components(self) -> list[gr.components.Component]:
        """All of them, in the order of `read` and `written`."""
        return [*self._fields.values(), self._brush]

    def read(self, shown: list[Any], inputs: pathlib.Path) -> PageRequest:
        """The request that the components show.

        Args:
            shown: their values.
            inputs: the folder that pictures to start from are kept in.
        """
        *shown, brush = shown
        sent = dict(zip(self._fields, shown, strict=True))
        drawn = json.loads(brush) if brush else {"picture": "", "mask": ""}
        sent |= {"margins": [sent.pop(side) for side in SIDES], "image": drawn["picture"], "mask": drawn["mask"]}
        ignored = {*(("height", "width") if drawn["picture"] else EDITS)}
        ignored |= set() if self._source.prompts else {"prompt", "negative"}
        ignored |= set() if self._source.classes else {"label"}
        return received({name: value for name, value in sent.items() if name not in ignored}, inputs)

    def written(self, request: PageRequest) -> list[Any]:
        """The values with which the components show a request."""
        said = values(request)
        said |= dict(zip(SIDES, request.margins)) | {"label": said["label"] if said["label"] >= 0 else None}
        url = lambda path: f"data:image/png;base64,{encoded(path)}" if path else ""
        return [*(said[name] for name in self._fields), gr.HTML(picture=url(said["image"]), mask=url(said["mask"]))]


def build(source: Source, out: pathlib.Path) -> gr.Blocks:
    """The page of a model.

    Args:
        source: what makes the pictures.
        out: the folder that they are written to; OUT/inputs has those that were started from.
    """
    inputs = out / "inputs"
    form = Inputs(source)
    height, width = source.size
    with gr.Blocks(title=f"{source.name}: playground", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        kind = "text to image" if source.prompts else f"{source.classes} classes" if source.classes else "no condition"
        gr.HTML(f"<h1>{source.name}</h1><p>{kind}, {height} x {width} pixels</p>", elem_classes="heading")
        session = gr.State([])  # files of this visitor's pictures
        chosen = gr.State("")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                prompt = form.add(gr.Textbox, "prompt", lines=2, visible=source.prompts)
                negative = form.add(gr.Textbox, "negative", label="Negative prompt", visible=source.prompts)
                classes = [(str(i), i) for i in range(source.classes)]
                form.add(
                    gr.Dropdown,
                    "label",
                    choices=classes,
                    label="Class",
                    visible=source.classes > 0,
                    **({} if classes else {"value": None}),
                )
                with gr.Row():
                    go = gr.Button("Make", variant="primary", elem_id="make", scale=2, min_width=100)
                    stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
                with gr.Row():
                    form.add(gr.Slider, "steps", minimum=1, maximum=250, min_width=130)
                    form.add(gr.Slider, "guidance", minimum=0, maximum=15, step=0.05, min_width=130)
                with gr.Row():
                    seed = form.add(gr.Number, "seed", min_width=110)
                    other = gr.Button("Another seed", elem_id="other", min_width=110)
                with gr.Row():
                    form.add(gr.Dropdown, "sampler", choices=list(source.samplers), min_width=130)
                    form.add(gr.Slider, "batch", minimum=1, maximum=MOST, label="Pictures", min_width=130)
                with gr.Row(visible=source.free):
                    form.add(gr.Number, "height", value=height, min_width=90)
                    form.add(gr.Number, "width", value=width, min_width=90)
                with gr.Accordion("Start from a picture", open=False, elem_id="start"):
                    form.add_brush()
                    gr.Markdown(
                        "Paint over what is to be made anew; the rest stays as it is, pixel for pixel. Without "
                        "paint, the whole picture is changed."
                    )
                    label = "Strength: how much is changed (0: as usual)"
                    form.add(gr.Slider, "strength", minimum=0, maximum=1, step=0.05, label=label)
                    with gr.Row():
                        for side in SIDES:
                            form.add(gr.Number, side, min_width=60)
                    gr.Markdown("Pixels to put on at each side, and paint.")
                    label = "Agreement: how often each part is sampled"
                    form.add(gr.Slider, "resamplings", minimum=1, maximum=10, label=label)
                with gr.Accordion("Settings of a picture", open=False, elem_id="reload"):
                    file = gr.File(
                        label="A picture that was made here",
                        file_types=[".png"],
                        type="filepath",
                        height=90,
                        elem_id="file",
                    )
            with gr.Column(scale=3, min_width=300):
                live = gr.HTML(live_view.EMPTY, elem_id="live")
                gallery = gr.Gallery(
                    label="Made in this visit",
                    columns=5,
                    height="auto",
                    preview=False,
                    object_fit="contain",
                    elem_id="gallery",
                    elem_classes="session",
                    visible=False,
                    buttons=["download", "fullscreen"],
                )
                load = gr.Button("Load the settings of the chosen picture", size="sm", visible=False, elem_id="load")

        stopped = set()  # visits whose work is to end at the next step

        def run(visitor: gr.Request, *shown: Any) -> Iterator[tuple]:
            *shown, mine = shown
            strip = live_view.Strip()
            began = time.perf_counter()
            request = None
            visit = visitor.session_hash
            stopped.discard(visit)
            yield live_view.waiting("Compiling for these settings ..."), gr.skip(), mine
            try:
                request = form.read(shown, inputs)
                for made in make(source, request, out):
                    strip.add(made.frame)
                    seconds = time.perf_counter() - began
                    ends = visit in stopped and not made.paths
                    _, seeds = request.rows()
                    view = live_view.progress(made.frame, seeds, strip, made.notes, seconds, ends)
                    if made.paths:
                        mine = [*made.paths, *mine]
                        yield view, gr.Gallery(mine, visible=True), mine
                    else:
                        yield view, gr.skip(), mine
                    if ends:
                        return log.line(request, f"stopped after {strip.steps_done} steps")
                log.line(request, f"{strip.steps_done} steps in {time.perf_counter() - began:.1f} s")
            except REFUSALS as error:
                yield live_view.refused(str(error)), gr.skip(), mine
            except GeneratorExit:  # the visitor has left
                if request is not None:
                    log.line(request, f"stopped after {strip.steps_done} steps")
                raise

        def halt(visitor: gr.Request) -> None:
            stopped.add(visitor.session_hash)

        gr.on(
            [go.click, prompt.submit, negative.submit],
            run,
            [*form.components(), session],
            [live, gallery, session],
            show_progress="minimal",
            show_progress_on=live,
            api_visibility="private",
            **ONE_AT_A_TIME,
        )
        stop.click(halt, api_visibility="private", queue=False)
        other.click(lambda: random.randrange(2**31), outputs=seed, api_visibility="private", queue=False)

        def settings(path: str | None) -> list[Any]:
            if not path:
                return [gr.skip()] * len(form.components())
            try:
                request = of_file(path, source.usual, inputs)
            except REFUSALS as error:
                raise gr.Error(str(error), print_exception=False) from None
            gr.Info("The settings of the picture are loaded.")
            return form.written(request)

        def choose(mine: list[str], event: gr.SelectData) -> tuple[str, Any]:
            return mine[event.index], gr.Button(visible=True)

        gallery.select(choose, session, [chosen, load], api_visibility="private", queue=False)
        load.click(settings, chosen, form.components(), api_visibility="private", queue=False)
        file.upload(settings, file, form.components(), api_visibility="private", queue=False)
        gr.api(endpoint(source, out), api_name="generate", **ONE_AT_A_TIME)
    return page
