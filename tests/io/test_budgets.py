"""What a file may unpack to has bounds: bytes, members and seconds, each refused before it is spent."""

import pytest

from diffusion.io import budgets, limits


def test_a_file_may_unpack_to_128_mib_or_to_a_hundred_times_its_size():
    assert budgets.unpacked(0) == 128 * 2**20
    assert budgets.unpacked(2**20) == 128 * 2**20
    assert budgets.unpacked(10**9) == 100 * 10**9


def test_bytes_are_counted_together():
    budget = budgets.Budget("a.tar.gz", 100)
    budget.spend(60)
    budget.spend(40)
    with pytest.raises(limits.Refused, match=r"a\.tar\.gz unpacks to 101 B or more, but at most 100 B are read"):
        budget.spend(1)


def test_members_are_counted():
    budget = budgets.Budget("a.tar", 0, members=2)
    budget.spend(members=2)
    with pytest.raises(limits.Refused, match=r"a\.tar holds more than 2 members"):
        budget.spend(members=1)


def test_a_budget_without_figures_has_a_million_members_and_a_minute(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(budgets.time, "thread_time", lambda: clock[0])
    many, slow = budgets.Budget("a.tar", 0), budgets.Budget("b.tar", 0)
    many.spend(members=1_000_000)
    with pytest.raises(limits.Refused, match=r"a\.tar holds more than 1,000,000 members"):
        many.spend(members=1)
    clock[0] = 60.0
    slow.spend()
    clock[0] = 60.1
    with pytest.raises(limits.Refused, match=r"b\.tar takes longer than 60 s"):
        slow.spend()


def test_computing_is_counted_and_waiting_is_not(monkeypatch):
    clock = [10.0]
    monkeypatch.setattr(budgets.time, "thread_time", lambda: clock[0])
    budget = budgets.Budget("a.gif", 0, seconds=5)
    clock[0] = 15.0
    budget.spend()
    clock[0] = 15.1
    with pytest.raises(limits.Refused, match=r"a\.gif takes longer than 5 s to unpack"):
        budget.spend()
