"""The surroundings of a run: its processes, signals, compilations and memory pages."""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.training.runtime import (
        accelerators as accelerators,
        agreement as agreement,
        compilation_cache as compilation_cache,
        huge_pages as huge_pages,
        preemption as preemption,
        process_memory as process_memory,
        progress as progress,
        recompilation as recompilation,
    )

public.declare(__name__)
