"""The HTTP interface of the page: POST /gradio_api/call/v2/generate, with the inputs of the page as its parameters."""

import base64
import functools
import inspect
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import jax

from diffusion.experiments.playground.page_request import INPUTS, log, received, values
from diffusion.experiments.playground.source import Source, check, make

REFUSALS = (ValueError, OSError, jax.errors.JaxRuntimeError)  # JAX raises the last one when a device is out of memory


def endpoint(source: Source, out: pathlib.Path) -> Callable[..., Iterator[list[str]]]:
    """The function behind the interface. Gradio reads the inputs and their default values from its signature."""
    usual = values(source.usual)

    def generate(*sent: Any) -> Iterator[list[str]]:
        """Makes pictures, and returns them as PNG files in base64, which carry their settings.

        For clips, the films follow the PNG files. The pictures of a request are sent in base64, too.
        """
        try:
            inputs = dict(zip(INPUTS, sent, strict=True))
            request = received(inputs, out / "inputs", functools.partial(check, source))
            for progress in make(source, request, out):
                if not progress.paths:
                    yield []  # the generator ends here if the client has left
        except REFUSALS as error:
            raise gr.Error(str(error), print_exception=False) from None
        except GeneratorExit:
            log(request, "by the API: stopped, the client has left")
            raise
        log(request, "; ".join(("by the API", *progress.notes)))
        films = [path for path in progress.shown if path not in progress.paths]
        yield [encoded(path) for path in (*progress.paths, *films)]

    several = lambda one: list[int] if one.item is None else list[str | dict]
    types = {name: several(one) if one.type is tuple else one.type for name, one in INPUTS.items()}
    default = lambda name: list(usual[name]) if INPUTS[name].type is tuple else usual[name]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, default=default(name), annotation=types[name]) for name in INPUTS]
    returned = Iterator[list[str]]
    vars(generate)["__signature__"] = inspect.Signature(parameters, return_annotation=returned)
    generate.__annotations__ = {**types, "return": returned}
    return generate


def encoded(path: str) -> str:
    """A file in base64."""
    return base64.b64encode(pathlib.Path(path).read_bytes()).decode()
