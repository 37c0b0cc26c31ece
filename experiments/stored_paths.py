"""Addresses of an object store on a command line: inputs are fetched before the command, and outputs sent after it."""

import os
import re
import sys
from collections.abc import Callable

from diffusion.experiments.command_words import help_is_requested, named, program
from diffusion.io import stores

# An address within the value of a flag, such as '{"name": "tar_files", "path": "s3://bucket/a"}'.
QUOTED = re.compile(r"""(["'])((?:s3|gs)://[^"'\\]+)\1""")
UNFETCHED = ("workdir", "config", "extend")  # a run is fetched in its own way, and code is never taken from a store
workdir_kinds: set[str] = set()  # "stored": the command opens a run in a store itself; "fetched": a copy is fetched
_readings: list = []  # runs that were fetched from a store
_outputs: list = []  # folders and files that are sent to a store


def take_stored_runs() -> None:
    """Lets --workdir be the address of a run in an object store, which the command itself opens."""
    workdir_kinds.add("stored")


def _with_local_run(argv: list[str]) -> list[str]:
    """The arguments, with a local copy as --workdir if the command reads a run in an object store."""
    address = named(argv, "workdir")
    if address is None or "fetched" not in workdir_kinds or not stores.is_address(address) or help_is_requested(argv):
        return argv
    from diffusion.experiments.run_folder import stored_runs  # imported here: it needs the libraries

    reads_several = any(named(argv, name) for name in ("step", "average"))
    _readings[:] = [stored_runs.Reading(address, every=reads_several)]
    print(f"{program()}: {address} is read in {_readings[0].folder}", file=sys.stderr, flush=True)
    local = os.fspath(_readings[0].folder)
    return [local if word == address else word.replace(f"workdir={address}", f"workdir={local}") for word in argv]


def _with_local_folders(argv: list[str]) -> tuple[list[str], list, list]:
    """Replaces addresses by local paths: (the arguments, the folders to fetch first, those to send at the end)."""
    flags_before = [word.lstrip("-") if word.startswith("-") and "=" not in word else "" for word in ("", *argv)]
    local, inputs, outputs = [], [], []

    def path(address: str, name: str) -> str:
        from diffusion.experiments.run_folder import stored_folders  # imported here: few commands need it

        folder = stored_folders.Output(address) if name == "out" else stored_folders.Input(address)
        (outputs if name == "out" else inputs).append(folder)
        return os.fspath(folder.path)

    for arg, before in zip(argv, flags_before):
        start, equals, word = arg.partition("=") if arg.startswith("-") else ("", "", arg)
        name = start.lstrip("-") or before
        if name not in UNFETCHED and not help_is_requested(argv):
            if stores.is_address(word):
                word = path(word, name)
            else:  # an entry of several fields
                word = QUOTED.sub(lambda quoted, name=name: f"{quoted[1]}{path(quoted[2], name)}{quoted[1]}", word)
        local.append(f"{start}{equals}{word}")
    return local, inputs, outputs


def with_local_paths(argv: list[str]) -> tuple[list[str], list]:
    """Replaces addresses by local paths, also in --workdir: (the arguments, the folders to fetch)."""
    local, inputs, _outputs[:] = _with_local_folders(_with_local_run(argv))
    return local, inputs


def sending_back(main: Callable) -> Callable:
    """Wraps a command: at its end its output, and the files that it wrote into a fetched run, are sent to the store."""

    def sending(argv):
        try:
            result = main(argv)
            for output in _outputs:
                print(f"{program()}: sent {output.send()} files to {output.address}", file=sys.stderr, flush=True)
            return result
        finally:
            for reading in _readings:
                if number := reading.send_changes():
                    print(f"{program()}: sent {number} files to {reading.address}", file=sys.stderr, flush=True)

    return sending
