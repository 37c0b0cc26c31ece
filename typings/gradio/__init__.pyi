# Gradio lives in an environment of its own (`make playground-env`), so that its names have no types here.
from typing import Any

def __getattr__(name: str) -> Any: ...
