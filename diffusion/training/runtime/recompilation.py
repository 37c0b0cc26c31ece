"""Counts recompilations; a step that is compiled at each call is about a hundred times slower.

Work of one kind (a step, an evaluation, a save) may compile the first time. Any later compilation is a recompilation:
a shape, a type or a sharding has changed, or a new function is created at each call.
"""

import contextlib
import warnings
from collections.abc import Iterator

from jax import monitoring

# JAX reports each program that it compiles or reads from the compilation cache, but not those already in memory.
EVENT = "/jax/core/compile/backend_compile_duration"


class RecompilationWarning(UserWarning):
    """Work compiled a program again after its first time."""


class Watch:
    """Counts recompilations; use it in a `with` block."""

    def __init__(self):
        self.count = 0  # the number of recompilations so far
        self.compiled: list[str] = []  # the names of all compiled functions, in the order of their compilation
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
        """Encloses work that may compile only the first time; warns with the functions' names if it compiles again.

        Args:
            kind: a noun for the work, such as "a step".
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
