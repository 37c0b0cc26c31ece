"""Measures one case in a process of its own, with its own XLA flags, once for each request.

    python -m benchmarks.gpu.worker '{"kind": "train", "model": "B/2", "batch": 128}'

Its first line of output is JSON about the case ("failed" says why it cannot be measured); then each line of input is
answered by one of JSON: {"seconds": of one turn}, and "peak": bytes of the device's memory at most so far.
"""

import json
import os
import sys
import time


def main(spec: dict) -> None:
    """Answers until its input ends."""
    if spec.get("flags"):  # before JAX is there
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {spec['flags']}"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share the device
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    talk = os.fdopen(os.dup(1), "w")  # whatever else prints goes to the log
    os.dup2(2, 1)

    def say(answer: dict) -> None:
        print(json.dumps(answer), file=talk, flush=True)

    import jax

    from benchmarks.gpu import cases
    from diffusion.training.runtime import compilation_cache

    compilation_cache.enable()
    device = jax.devices()[0]
    description = {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__}
    try:
        began = time.perf_counter()
        case, turn, chosen = cases.first_that_works(spec, device, warm)
        description |= {**case.description, **chosen, "first_seconds": time.perf_counter() - began}
    except Exception as error:  # out of memory, a kernel that is not there ...: the other cases go on
        say({**description, "failed": cases.reason(error)})
        raise
    say(description)
    for _ in sys.stdin:
        try:
            began = time.perf_counter()
            turn()
            taken = (time.perf_counter() - began) / case.count
        except Exception as error:
            say({"failed": cases.reason(error)})
            raise
        say({"seconds": taken, "peak": (device.memory_stats() or {}).get("peak_bytes_in_use", 0)})


def warm(case):
    """The turn of a case, after two of them: the first compiles, the second finds everything in its place."""
    from benchmarks.gpu import cases

    turn = cases.turn(case)
    turn()
    turn()
    return turn


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
