"""The page and its API: gradio's components, and what happens between them."""

import base64
import json
import pathlib
import random
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
import jax

from experiments.playground import display
from experiments.playground.request import Asked, Source, make, of_file, received

STATIC = pathlib.Path(__file__).parent / "static"
ONE_AT_A_TIME = {"concurrency_limit": 1, "concurrency_id": "device"}  # the others wait, and see their place
REFUSALS = (ValueError, OSError, jax.errors.JaxRuntimeError)  # the last: a device without memory
FONT, MONO = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # of the visitor's machine
MOST = 16  # pictures at once that the slider offers; the API takes what fits


def theme() -> gr.themes.Base:
    """Colours and letters, without anything from a network."""
    return gr.themes.Base(primary_hue="indigo", neutral_hue="slate", radius_size="md", font=FONT, font_mono=MONO)


def css() -> str:
    """The page's own style."""
    return (STATIC / "page.css").read_text()


def build(source: Source, out: pathlib.Path) -> gr.Blocks:
    """The page of a model.

    Args:
        source: what makes the pictures.
        out: the folder that they are written to; OUT/inputs has those that were started from.
    """
    usual = source.usual
    inputs = out / "inputs"
    with gr.Blocks(title=f"{source.name}: playground", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        kind = "text to image" if source.prompts else f"{source.classes} classes" if source.classes else "no condition"
        gr.HTML(f"<h1>{source.name}</h1><p>{kind}, {usual.height} x {usual.width} pixels</p>", elem_classes="heading")
        session = gr.State([])  # files of this visitor's pictures
        chosen = gr.State("")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                prompt = gr.Textbox(label="Prompt", lines=2, visible=source.prompts, elem_id="prompt")
                negative = gr.Textbox(label="Negative prompt", visible=source.prompts, elem_id="negative")
                label = gr.Dropdown(
                    [(str(i), i) for i in range(source.classes)],
                    value=max(usual.label, 0) if source.classes else None,
                    label="Class",
                    visible=source.classes > 0,
                    elem_id="label",
                )
                with gr.Row():
                    go = gr.Button("Make", variant="primary", elem_id="make", scale=2, min_width=100)
                    stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
                with gr.Row():
                    steps = gr.Slider(1, 250, usual.steps, step=1, label="Steps", elem_id="steps", min_width=130)
                    guidance = gr.Slider(
                        0, 15, usual.guidance, step=0.05, label="Guidance", elem_id="guidance", min_width=130
                    )
                with gr.Row():
                    seed = gr.Number(usual.seed, precision=0, label="Seed", elem_id="seed", min_width=110)
                    other = gr.Button("Another seed", elem_id="other", min_width=110)
                with gr.Row():
                    sampler = gr.Dropdown(
                        list(source.samplers), value=usual.sampler, label="Sampler", min_width=130, elem_id="sampler"
                    )
                    batch = gr.Slider(1, MOST, 1, step=1, label="Pictures", elem_id="batch", min_width=130)
                with gr.Row(visible=source.free):
                    height = gr.Number(usual.height, precision=0, label="Height", elem_id="height", min_width=90)
                    width = gr.Number(usual.width, precision=0, label="Width", elem_id="width", min_width=90)
                with gr.Accordion("Start from a picture", open=False, elem_id="start"):
                    brush = gr.HTML(
                        value="",
                        html_template=(STATIC / "brush.html").read_text(),
                        picture="",
                        mask="",
                        css_template=(STATIC / "brush.css").read_text(),
                        js_on_load=(STATIC / "brush.js").read_text(),
                        elem_id="brush",
                    )
                    gr.Markdown(
                        "Paint over what is to be made anew; the rest stays as it is, pixel for pixel. Without "
                        "paint, the whole picture is changed."
                    )
                    strength = gr.Slider(
                        0, 1, 0, step=0.05, elem_id="strength", label="Strength: how much is changed (0: as usual)"
                    )
                    with gr.Row():
                        margins = [
                            gr.Number(0, precision=0, label=side, min_width=60, elem_id=side.lower())
                            for side in ("Top", "Bottom", "Left", "Right")
                        ]
                    gr.Markdown("Pixels to put on at each side, and paint.")
                    resamplings = gr.Slider(
                        1, 10, 1, step=1, elem_id="resamplings", label="Agreement: how often each part is walked"
                    )
                with gr.Accordion("Settings of a picture", open=False, elem_id="reload"):
                    given = gr.File(
                        label="A picture that was made here",
                        file_types=[".png"],
                        type="filepath",
                        height=90,
                        elem_id="given",
                    )
            with gr.Column(scale=3, min_width=300):
                live = gr.HTML(display.EMPTY, elem_id="live")
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

        fields = [prompt, negative, label, steps, guidance, seed, sampler, height, width, batch, strength, resamplings,
                  *margins]  # fmt: skip
        pages = [*fields, brush]

        stopped = set()  # visits whose work is to end at the next step

        def run(request: gr.Request, *values: Any) -> Iterator[tuple]:
            *values, mine = values
            strip = display.Strip()
            began = time.perf_counter()
            asked = None
            visit = request.session_hash
            stopped.discard(visit)
            yield display.waiting("Compiling for these settings ..."), gr.skip(), mine
            try:
                asked = read(values, source, inputs)
                for made in make(source, asked, out):
                    strip.add(made.frame)
                    seconds = time.perf_counter() - began
                    ends = visit in stopped and not made.paths
                    told = display.progress(made.frame, asked.seeds, strip, made.notes, seconds, ends)
                    if made.paths:
                        mine = [*made.paths, *mine]
                        yield told, gr.Gallery(mine, visible=True), mine
                    else:
                        yield told, gr.skip(), mine
                    if ends:
                        return say(asked, f"stopped after {strip.walked} steps")
                say(asked, f"{strip.walked} steps in {time.perf_counter() - began:.1f} s")
            except REFUSALS as error:
                yield display.refused(str(error)), gr.skip(), mine
            except GeneratorExit:  # the visitor has left
                say(asked, f"stopped after {strip.walked} steps")
                raise

        def halt(request: gr.Request) -> None:
            stopped.add(request.session_hash)

        gr.on(
            [go.click, prompt.submit, negative.submit],
            run,
            [*pages, session],
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
                return [gr.skip()] * len(pages)
            try:
                found = of_file(path, usual, inputs)
            except REFUSALS as error:
                raise gr.Error(str(error), print_exception=False) from None
            gr.Info("The settings of the picture are loaded.")
            return written(found)

        def choose(mine: list[str], event: gr.SelectData) -> tuple[str, Any]:
            return mine[event.index], gr.Button(visible=True)

        gallery.select(choose, session, [chosen, load], api_visibility="private", queue=False)
        load.click(settings, chosen, pages, api_visibility="private", queue=False)
        given.upload(settings, given, pages, api_visibility="private", queue=False)
        gr.api(endpoint(source, out), api_name="generate", **ONE_AT_A_TIME)
    return page


def read(values: list[Any], source: Source, inputs: pathlib.Path) -> Asked:
    """What the components of the page say, in the order in which they stand."""
    (
        prompt,
        negative,
        label,
        steps,
        guidance,
        seed,
        sampler,
        height,
        width,
        batch,
        strength,
        resamplings,
        *margins,
        brush,
    ) = values
    drawn = json.loads(brush) if brush else {"picture": "", "mask": ""}
    image = drawn["picture"]
    return received(
        {
            "prompt": prompt if source.prompts else "",
            "negative": negative if source.prompts else "",
            "label": label if source.classes else -1,
            "steps": steps,
            "guidance": guidance,
            "seed": seed,
            "sampler": sampler,
            "height": height,
            "width": width,
            "batch": batch,
            "image": image,
            "mask": drawn["mask"] if image else "",
            "strength": strength if image else 0.0,
            "resamplings": resamplings if image else 1,
            "margins": tuple(margins) if image else (0, 0, 0, 0),
        },
        inputs,
    )


def written(asked: Asked) -> list[Any]:
    """The values of the page's components, in the order in which they stand."""
    url = lambda path: f"data:image/png;base64,{encoded(path)}" if path else ""
    return [
        asked.prompt,
        asked.negative,
        asked.label if asked.label >= 0 else None,
        asked.steps,
        asked.guidance,
        asked.seed,
        asked.sampler,
        asked.height,
        asked.width,
        asked.batch,
        asked.strength,
        asked.resamplings,
        *asked.margins,
        gr.HTML(picture=url(asked.image), mask=url(asked.mask)),
    ]


def encoded(path: str) -> str:
    """A file in base64."""
    return base64.b64encode(pathlib.Path(path).read_bytes()).decode()


def endpoint(source: Source, out: pathlib.Path) -> Any:
    """The function behind POST /gradio_api/call/v2/generate."""
    usual = source.usual

    def generate(
        prompt: str = "",
        negative: str = "",
        label: int = usual.label,
        steps: int = usual.steps,
        guidance: float = usual.guidance,
        seed: int = 0,
        sampler: str = usual.sampler,
        height: int = 0,
        width: int = 0,
        batch: int = 1,
        image: str = "",
        mask: str = "",
        margins: list[int] = [0, 0, 0, 0],  # noqa: B006
        strength: float = 0.0,
        resamplings: int = 1,
    ) -> Iterator[list[str]]:
        """Makes pictures: PNG files in base64, which carry their settings. `image` and `mask` are files in base64."""
        inputs = out / "inputs"
        given = {name: value for name, value in locals().items() if name in Asked.__dataclass_fields__}
        try:
            asked = received(given, inputs)
            for made in make(source, asked, out):
                if not made.paths:
                    yield []  # here it ends where the client has left
        except REFUSALS as error:
            raise gr.Error(str(error), print_exception=False) from None
        except GeneratorExit:
            say(asked, "by the API: stopped, the client has left")
            raise
        say(asked, "by the API")
        yield [encoded(path) for path in made.paths]

    return generate


def say(asked: Asked | None, what: str) -> None:
    """A line in the terminal for what was asked."""
    if asked is not None:
        of = repr(asked.prompt) if asked.prompt else f"class {asked.label}"
        print(f"{time.strftime('%H:%M:%S')} {of}, seed {asked.seed}, {asked.batch} at once: {what}", flush=True)
