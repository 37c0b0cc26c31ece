"""What a call leaves in memory is counted, and what TensorStore leaves with every save stays as little as is stated."""

import pytest

from benchmarks import tensorstore_texts


@pytest.mark.extended
def test_what_a_call_keeps_is_counted():
    kept = []
    assert tensorstore_texts.left_behind(lambda: [object()]) < 0.1
    assert abs(tensorstore_texts.left_behind(lambda: kept.append(object())) - 1) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", tensorstore_texts.calls())
def test_a_call_of_orbax_leaves_no_more_than_the_page_says(name):
    """docs/reliability.md: 11 and 9; none where a later TensorStore frees them."""
    assert tensorstore_texts.left_behind(tensorstore_texts.calls()[name]) < 12
