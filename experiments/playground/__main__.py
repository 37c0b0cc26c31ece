"""Opens a web page for trying a model, which only this machine can reach unless --host is set.

    python3 -m venv page && page/bin/pip install 'jax-diffusion[playground]'
    page/bin/diffusion playground --model=stable-diffusion-v1-5
    page/bin/diffusion playground --workdir=runs/digits

The page needs a separate Python environment, since gradio requires an older Pillow than the other commands. In a clone,
`make playground-env` creates it with locked versions, and `.venv-playground/bin/python -m diffusion playground` starts
the page.

--model is a text-to-image model's folder, which holds model_index.json. For a class-conditional run (--workdir), the
page shows a list of classes instead of a prompt. The command writes every picture with its settings to --out. See
docs/playground.md.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors
from diffusion.experiments.sampling import model_flags
from diffusion.experiments.sampling.model_flags import DROP_TEXT, DTYPE, MODEL, QUANTISED

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("workdir", None, "run folder, e.g. runs/digits, or the folder of the text demo")
    flags.DEFINE_string("out", None, "folder for the pictures; playground/ by default")
    flags.DEFINE_string(
        "host", "127.0.0.1", "address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for the whole network"
    )
    flags.DEFINE_integer("port", 7860, "port of the page", 1, 65535)
    flags.adopt_module_key_flags(model_flags)  # --help then lists its flags
    command_line.begin()

import pathlib
import socket

from diffusion.experiments.playground.gate import BODY, WILDCARDS, Gate
from diffusion.experiments.playground.known_fields import Fields
from diffusion.experiments.playground.page_request import INPUTS
from diffusion.experiments.playground.source import Published, Source
from diffusion.experiments.playground.trained import Trained
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import shipped_models
from diffusion.io import limits
from diffusion.models import interchange
from diffusion.recipe import ConfigError, as_config_errors, class_folders

WAITING = 20  # the most requests in the queue; the body of each is held in memory
FAILURES = (*workdir.FAILURES, interchange.Refusal, interchange.Mismatch, limits.Refused)


def main(argv: list[str]) -> None:
    """Loads the model, and serves the page until the command is interrupted."""
    values = flags.FLAGS
    if bool(MODEL.value) == bool(values.workdir):
        raise ConfigError("set either --model=FOLDER, a text-to-image model, or --workdir=RUN, a trained run.")
    try:
        from diffusion.experiments.playground import page
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed here. Make an environment for the page: python3 -m venv page && "
            "page/bin/pip install 'jax-diffusion[playground]', and start it by page/bin/diffusion playground. In a "
            "clone: make playground-env, and .venv-playground/bin/python -m diffusion playground."
        ) from error
    require_free(values.host, values.port)
    out = workdir.output_folder(values.out or "playground")
    source = opened(MODEL.value, values.workdir)
    built = page.build(source, out).queue(max_size=WAITING)
    try:
        built.launch(
            app_kwargs={
                "middleware": [
                    (Gate, (), {"host": values.host}),
                    (Fields, (), {"path": "/call/v2/generate", "known": tuple(INPUTS)}),
                ]
            },
            max_file_size=BODY,
            server_name=in_address(values.host),
            server_port=values.port,
            share=False,
            quiet=True,
            allowed_paths=[str(out.resolve())],
            theme=page.THEME,
            css=page.CSS,
            footer_links=[],
            enable_monitoring=False,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise ConfigError(f"--port={values.port}: {error}") from error
    here = dict(zip(WILDCARDS, ("127.0.0.1", "::1")))[values.host] if values.host in WILDCARDS else values.host
    address = f"http://{in_address(here)}:{values.port}"
    elsewhere = f", on other machines http://{socket.gethostname()}:{values.port}" if values.host in WILDCARDS else ""
    print(f"{source.name}: open {address}{elsewhere} (pictures go to {out}/; Ctrl-C ends it)", flush=True)
    built.block_thread()


def in_address(host: str) -> str:
    """A host as it is written in a URL: an IPv6 address stands in brackets."""
    return f"[{host}]" if ":" in host else host


def require_free(host: str, port: int) -> None:
    """Listens on the address for a moment, so that a mistake is reported before the model is loaded.

    Raises:
        ConfigError: if the host is not a name or an address of this machine, or its port is in use.
    """
    if not host:
        raise ConfigError("--host is empty. Valid: 127.0.0.1 for this machine only, 0.0.0.0 for the whole network.")
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"the page cannot listen at --host={host} --port={port}: {why}.") from error


def opened(model: str | None, run: str | None) -> Source:
    """The model that the flags name: a published model, the text-to-image model of a run, or a trained run.

    Raises:
        ConfigError: if the folder holds no such model, or a model that makes no pictures.
        FAILURES: if a file in the folder is damaged.
    """
    if model and class_folders.is_of_classes(model):
        refuse_flags_of_prompts()
        with as_config_errors():
            return Trained.published(model)
    demo_model = pathlib.Path(run or "") / "model"
    if model or (demo_model / "model_index.json").is_file():
        try:
            loras, embeddings, attachments = model_flags.loras(), model_flags.embeddings(), model_flags.attachments()
            more = (loras, embeddings, attachments, QUANTISED.value, DROP_TEXT.value)
            folder = str(shipped_models.folder_of_prompts(model or demo_model))
            return Published(folder, DTYPE.value, *more)
        except (ValueError, FileNotFoundError) as error:
            raise ConfigError(str(error)) from error
    refuse_flags_of_prompts()
    return Trained.load(run or "")


def refuse_flags_of_prompts() -> None:
    """Refuses the flags that only a text-to-image model reads.

    Raises:
        ConfigError: names the first flag that is set.
    """
    read = (model_flags.LORA, model_flags.EMBEDDING, model_flags.ATTACH, DTYPE, QUANTISED, DROP_TEXT)
    flag_errors.refuse((flag.name for flag in read), "is only for a text-to-image model, which reads prompts.")


if __name__ == "__main__":
    command_line.run(main, FAILURES, compiles=True)
