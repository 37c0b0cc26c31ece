"""Finds an accelerator of this machine that the installed JAX cannot use; nothing here imports JAX."""

import importlib.util
import os
import pathlib

NVIDIA = ("/dev/nvidia0", "/proc/driver/nvidia/version")  # files that exist if the driver is installed
PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def advice() -> str | None:
    """How to use an NVIDIA device that JAX lacks a plugin for; None without one, or if JAX_PLATFORMS excludes it."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    device = next((path for path in NVIDIA if pathlib.Path(path).exists()), None)
    if device is None or (platforms and not {"cuda", "gpu"} & set(platforms.split(","))):
        return None
    if any(importlib.util.find_spec(name) for name in PLUGINS):
        return None
    return (
        f"this machine has an NVIDIA device ({device}), but jax is installed without its CUDA plugin and computes on "
        "the CPU: pip install 'jax-diffusion[cuda12]', or in a clone make setup ACCELERATOR=cuda12; JAX_PLATFORMS=cpu "
        "says that the CPU is meant"
    )


def refusal() -> str | None:
    """Why JAX_PLATFORMS cannot be used, as it names CUDA without its plugin; None otherwise, when JAX decides."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if "cuda" not in platforms.split(",") or any(importlib.util.find_spec(name) for name in PLUGINS):
        return None
    return (
        f"JAX_PLATFORMS={platforms}: jax is installed without its CUDA plugin. Valid: JAX_PLATFORMS=cpu, or with the "
        "plugin, pip install 'jax-diffusion[cuda12]'; in a clone make setup ACCELERATOR=cuda12"
    )
