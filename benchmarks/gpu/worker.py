"""Measures one case, with the case's XLA flags, once for each line of input.

    python -m benchmarks.gpu.worker '{"kind": "train", "model": "B/2", "batch": 128}'

The first line of output is JSON about the case; "failed" is the reason why it cannot be measured. Each line of input is
then answered by a line of JSON, {"seconds": the time of the measured work, "peak": the most bytes of the device's
memory so far}.
"""

import json
import os
import sys
import time


def main(spec: dict) -> None:
    """Answers each line of input until the input ends."""
    if spec.get("flags"):  # XLA reads the flags when JAX is imported
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {spec['flags']}"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share the device
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    talk = os.fdopen(os.dup(1), "w")  # the answers; everything else that is printed goes to the log
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
    except Exception as error:  # e.g. too little memory, or a missing kernel; the other cases are still measured
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
    """The turn of a case, which has run twice: the first turn compiles, and the second one fills all caches."""
    from benchmarks.gpu import cases

    turn = cases.turn(case)
    turn()
    turn()
    return turn


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
