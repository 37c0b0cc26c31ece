"""The user's code that a run has used: its path, SHA-256 and commit, in WORKDIR/extensions.jsonl.

A start of the run adds a line if the code differs from the last line.
"""

import hashlib
import pathlib
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from diffusion.io import json_lines
from diffusion.recipe.extensions import Extension, loaded

FILE = "extensions.jsonl"


def note(folder: pathlib.Path, step: int, extensions: Iterable[Extension]) -> list[str]:
    """Records the code with which a run starts at a step, if it has changed.

    Returns:
        A sentence for each change since the run's last start; [] at its first start.

    Raises:
        OSError: if the file cannot be written.
    """
    now = [described(extension) for extension in extensions]
    path = folder / FILE
    json_lines.mend(path)
    lines = json_lines.rows(path)
    before = lines[-1] if lines else {"step": 0, "extensions": []}
    if now == before["extensions"]:
        return []
    json_lines.append(path, {"step": step, "extensions": now})
    return changes(before["extensions"], now, before["step"]) if lines or step else []


def not_loaded(folder: pathlib.Path) -> list[str]:
    """The extensions of the run's last start that are not loaded now, by their names in --extend."""
    lines = json_lines.rows(folder / FILE)
    return [
        extension["name"] for extension in (lines[-1]["extensions"] if lines else ()) if extension["name"] not in loaded
    ]


def described(extension: Extension) -> dict[str, Any]:
    """An extension as the file has it: "name", "path", "sha256" of all its files, "commit" or None."""
    home = extension.home
    if home.is_file():
        content = home.read_bytes()  # sha256sum prints the same digest
    else:
        heading = lambda file: f"{file.relative_to(home.parent)}\n{file.stat().st_size}\n".encode()
        content = b"".join(heading(file) + file.read_bytes() for file in sorted(home.rglob("*.py")))
    digest = hashlib.sha256(content).hexdigest()
    return {"name": extension.name, "path": str(extension.path), "sha256": digest, "commit": commit(extension.path)}


def commit(path: pathlib.Path) -> str | None:
    """The commit of the repository that a file is tracked in, with "+changes" where its folder differs from it."""
    try:
        if _git(path, "ls-files", "--error-unmatch", path.name) is None:
            return None
        head = _git(path, "rev-parse", "HEAD")
        changed = _git(path, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.TimeoutExpired):  # no git here, or on a file system that does not answer
        return None
    return head and f"{head}{'+changes' if changed else ''}"


def _git(path: pathlib.Path, *words: str) -> str | None:
    """The output of a git command in the folder of a file; None if the command fails."""
    command = ["git", "--no-optional-locks", "-C", str(path.parent), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    return done.stdout.strip() if done.returncode == 0 else None


def changes(before: Iterable[Mapping], now: Iterable[Mapping], step: int) -> list[str]:
    """How the code of a run has changed since its start at a step: a sentence for each extension."""
    old = {extension["name"]: extension for extension in before}
    new = {extension["name"]: extension for extension in now}
    sentences = []
    for name in old.keys() | new.keys():
        if name not in new:
            sentences.append(f"extension {name}, which the run used from step {step} on, is not loaded now")
        elif name not in old:
            sentences.append(f"extension {name} is new: the run did not use it before")
        elif differs := [field for field in ("path", "sha256", "commit") if old[name][field] != new[name][field]]:
            shown = "; ".join(f"{field} {_short(old[name][field])} -> {_short(new[name][field])}" for field in differs)
            sentences.append(f"extension {name} has changed since the run started at step {step}: {shown}")
    return sorted(sentences)


def _short(value: str | None) -> str:
    return "none" if value is None else value if "/" in value else value[:12] + ("+changes" if "+" in value else "")
