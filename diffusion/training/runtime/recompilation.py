"""Counts compilations where there should be none: a step that is compiled at each call is a hundred times slower.

Work of one kind (a step, an evaluation, a save) may compile at its first time. Any later compilation is a
recompilation: a shape, a type or a sharding has changed, or a new function is made at each call.
"""

import contextlib
import warnings
from collections.abc import Iterator

from jax import monitoring

# JAX reports each program that it compiles or reads from the compilation cache, but no program in memory.
EVENT = "/jax/core/compile/backend_compile_duration"


class RecompilationWarning(UserWarning):
    """Work compiled a program again after its first time."""


class Watch:
    """Counts recompilations; use it in a `with` block."""

    def __init__(self):
        self.count = 0  # recompilations so far
        self.compiled: list[str] = []  # names of all functions that were compiled, in their order
        self._done: set[str] = set()

    def __enter__(self) -> "Watch":
        monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_) -> None:
        monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **about: str | int) -> None:
        if event == EVENT:
            self.compiled.append(str(about.get("fun_name", "(unknown)")))

    @contextlib.contextmanager
    def work(self, kind: str, step: int) -> Iterator[None]:
        """Encloses work that compiles the first time and never again; warns with the functions' names if it does.

        Args:
            kind: a noun for the work, for example "a step".
            step: the step of the run, for the message.
        """
        before = len(self.compiled)
        yield
        again = self.compiled[before:]
        if kind in self._done and again:
            self.count += len(again)
            warnings.warn(
                f"step {step}: {kind} compiled {', '.join(again)} again ({self.count} recompilations so far). A "
                "shape, type or sharding changed, or a function is created again for each call; "
                "JAX_EXPLAIN_CACHE_MISSES=1 logs the reason.",
                RecompilationWarning,
                stacklevel=3,
            )
        self._done.add(kind)
