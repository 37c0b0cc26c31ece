"""A command that a test starts can be interrupted, however the tests themselves were started."""

import subprocess
import sys

IGNORED = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
LISTENS = "from tests import interrupts; interrupts.listen()\n"
CHILD = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
STARTS = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"


def printed(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_of_a_test_listens_to_an_interrupt_that_the_tests_ignored():
    assert printed(IGNORED + STARTS) == "True"
    assert printed(IGNORED + LISTENS + STARTS) == "False"
