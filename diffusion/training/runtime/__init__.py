"""The surroundings of a run: its processes, signals, compilations and memory pages."""

from typing import TYPE_CHECKING

from diffusion import public

if TYPE_CHECKING:
    from diffusion.training.runtime import (
        accelerators,
        agreement,
        compilation_cache,
        huge_pages,
        preemption,
        process_memory,
        progress,
        recompilation,
    )

__all__ = [
    "accelerators",
    "agreement",
    "compilation_cache",
    "huge_pages",
    "preemption",
    "process_memory",
    "progress",
    "recompilation",
]

public.declare(__name__)
