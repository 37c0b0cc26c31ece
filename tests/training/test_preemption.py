import signal

import pytest

from diffusion.training.preemption import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_second_acts(number):
    acted = []
    before = signal.signal(number, lambda *_: acted.append(number))
    try:
        with StopRequest() as stop:
            assert stop.received(1) is None
            signal.raise_signal(number)
            assert stop.received(1) == number == stop.received(2)
            assert acted == []
            signal.raise_signal(number)
            assert acted == [number]
        signal.raise_signal(number)
        assert acted == [number] * 2  # handlers are as they were
    finally:
        signal.signal(number, before)
