"""SIGINT in the processes that tests start, also where the tests run in the background of a script."""

import signal


def listen() -> None:
    """Takes back that SIGINT is ignored, as shells begin the commands of a script that end with `&`.

    A process inherits this from the process that starts it, so the tests of interrupted commands would wait for their
    end in vain.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
