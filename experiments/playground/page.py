"""The layout of the page, and its reactions to events."""

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from diffusion.experiments.playground import live_view
from diffusion.experiments.playground.api import REFUSALS, endpoint
from diffusion.experiments.playground.form import QUICK, STATIC, Form
from diffusion.experiments.playground.page_request import left_out, log, read_file
from diffusion.experiments.playground.source import Source, frames_a_second, make

ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "device"}  # further requests wait in the queue
THEME = gr.themes.Base(  # uses only fonts of the visitor's machine, so that the page works without a network
    primary_hue="indigo",
    neutral_hue="slate",
    radius_size="md",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
)
CSS = (STATIC / "page.css").read_text()


def build(source: Source, out: pathlib.Path) -> gr.Blocks:
    """Builds the page of a model.

    Args:
        source: the model.
        out: the folder of the pictures; pictures that visitors upload are stored in OUT/inputs.
    """
    form = Form(source)
    answers = Answers(source, form, out)
    height, width = source.size
    medium = "video" if source.clip_rate else "image"
    without = f"{source.classes} classes" if source.classes else "no condition"
    kind = f"text to {medium}" if source.prompts or source.captions else without
    with gr.Blocks(title=f"{source.name}: playground", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(f"<h1>{source.name}</h1><p>{kind}, {height} x {width} pixels</p>", elem_classes="heading")
        mine = gr.State([])  # the files of this visitor's pictures, the latest first
        chosen = gr.State("")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                texts = form.condition()
                with gr.Row():
                    go = gr.Button("Make", variant="primary", elem_id="make", scale=2, min_width=100)
                    stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
                form.sampling()
                starts = source.free or not source.clip_rate
                with gr.Accordion("Start from a picture", open=False, elem_id="start", visible=starts):
                    form.editing()
                with gr.Accordion("Masks of regions", open=False, elem_id="of_regions", visible=source.prompts):
                    form.masks()
                with gr.Accordion("Attention", open=False, elem_id="of_attention", visible=source.prompts):
                    form.attention()
                with gr.Accordion("Controls", open=False, elem_id="controls", visible=bool(source.attachments)):
                    form.controls()
                with gr.Accordion("Settings of a picture", open=False, elem_id="reload"):
                    what = "A picture that this page made"
                    file = gr.File(label=what, file_types=[".png"], type="filepath", height=150, elem_id="file")
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
        shown = form.components()
        pressed = [go.click, *(text.submit for text in texts)]
        gr.on(pressed, answers.begin, **QUICK)
        gr.on(
            pressed,
            answers.make,
            [*shown, mine],
            [live, gallery, mine],
            show_progress="minimal",
            show_progress_on=live,
            api_visibility="private",
            **ONE_AT_A_TIME,
        )
        stop.click(answers.stop, **QUICK)
        gallery.select(answers.choose, mine, [chosen, load], **QUICK)
        load.click(answers.settings, chosen, shown, **QUICK)
        file.upload(answers.settings, file, shown, **QUICK)
        gr.api(endpoint(source, out), api_name="generate", **ONE_AT_A_TIME)
    return page


class Answers:
    """The answers of the page to its visitors."""

    def __init__(self, source: Source, form: Form, out: pathlib.Path):
        self._source = source
        self._form = form
        self._out = out
        self._stopped: set[str] = set()  # the sessions whose requests end at the next step, or before their first step

    def begin(self, visitor: gr.Request) -> None:
        """Cancels an earlier stop at once. The request itself may wait in the queue, where it can be stopped again."""
        self._stopped.discard(visitor.session_hash)

    def make(self, visitor: gr.Request, *inputs: Any) -> Iterator[tuple]:
        """Makes the pictures that the form requests; yields (the view, the gallery, the visit's files) at each step."""
        *shown, mine = inputs
        began = time.perf_counter()
        request = None
        visit = visitor.session_hash
        if visit in self._stopped:
            yield live_view.refused("Stopped before the first step."), gr.skip(), mine
            return
        yield live_view.waiting("Compiling for these settings ..."), gr.skip(), mine
        try:
            request = self._form.read(shown, self._out / "inputs")
            strip = live_view.Strip(frames_a_second(self._source, request))
            for progress in make(self._source, request, self._out):
                strip.add(progress.frame)
                seconds = time.perf_counter() - began
                ends = visit in self._stopped and not progress.paths
                _, seeds = request.rows()
                view = live_view.progress(progress.frame, seeds, strip, progress.notes, seconds, ends)
                if progress.paths:
                    mine = [*progress.shown, *mine]
                    yield view, gr.Gallery(mine, visible=True), mine
                else:
                    yield view, gr.skip(), mine
                if ends:
                    return log(request, f"stopped after {strip.steps_done} steps")
            log(request, f"{strip.steps_done} steps in {time.perf_counter() - began:.1f} s")
        except REFUSALS as error:
            yield live_view.refused(str(error)), gr.skip(), mine
        except GeneratorExit:  # the visitor has left
            if request is not None:
                log(request, f"stopped after {strip.steps_done} steps")
            raise

    def stop(self, visitor: gr.Request) -> None:
        """Ends a visitor's request at its next step."""
        self._stopped.add(visitor.session_hash)

    def settings(self, path: str | None) -> list[Any]:
        """The values of the form's components for the settings in a picture's file."""
        if not path:
            return [gr.skip()] * len(self._form.components())
        try:
            request = read_file(path, self._source.usual, self._out / "inputs")
            lacking = left_out(path, request, self._source.usual)
        except REFUSALS as error:
            raise gr.Error(str(error), print_exception=False) from None
        but = f" The page has no fields for {', '.join(lacking)}, so its picture will differ." if lacking else ""
        gr.Info(f"The settings of the picture are loaded.{but}")
        return self._form.written(request)

    def choose(self, mine: list[str], event: gr.SelectData) -> tuple[str, Any]:
        """The PNG file of the picture that the visitor chose in the gallery, and the button that loads its settings."""
        return str(pathlib.Path(mine[event.index]).with_suffix(".png")), gr.Button(visible=True)
