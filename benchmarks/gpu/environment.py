"""Writes the device and the versions of packages as JSON for `benchmarks.gpu`; fails if a package is missing.

python -m benchmarks.gpu.environment --out=environment.json
"""

import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys

from absl import flags

from diffusion.experiments import command_line

NEEDED = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "rich", "absl-py", "ml-collections",
          "safetensors")  # fmt: skip
USED = ("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "orbax-checkpoint", "torch",
        "grain", "array-record", "tensorflow-datasets", "tensorboardX", "matplotlib", "pillow",
        "scikit-learn")  # fmt: skip


def main(argv: list[str]) -> None:
    """Reads and writes the environment; ends with an error if the measurements cannot run in it."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    device = jax.devices()[0]
    environment = {
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in NEEDED + USED},
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "memory": (device.memory_stats() or {}).get("bytes_limit"),
        "cores": os.cpu_count(),
        "nvidia_smi": nvidia_smi(),
    }
    missing = [name for name in NEEDED if environment["versions"][name] is None]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)}")
    print(json.dumps(environment, indent=1))
    pathlib.Path(flags.FLAGS.out).write_text(
        json.dumps({"title": "environment", "rows": [], "environment": environment})
    )


def version(name: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def nvidia_smi() -> str | None:
    """The name, driver, memory and clocks of the GPU; None without nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return None
    query = "--query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"
    done = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip()


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "file for the environment, as JSON", required=True)
    command_line.begin()
    command_line.run(main)
