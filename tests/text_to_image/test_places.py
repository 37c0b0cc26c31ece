"""Until which time words move a picture, and when a LoRA acts."""

import numpy as np
import pytest

from diffusion import timesteps
from diffusion.text_to_image.lora_weights import LoraWeight
from diffusion.text_to_image.regions import NOWHERE, Places, ends


@pytest.mark.parametrize("steps, half, fifth", [(10, 5, 2), (11, 6, 3), (3, 2, 1), (1, 1, 1), (50, 25, 10)])
def test_words_move_the_first_half_and_those_with_a_box_the_first_fifth(steps, half, fifth):
    """The last t of as many steps, rounded up."""
    grid = np.linspace(1, 0, steps + 1)
    assert ends(timesteps.plan(grid)) == pytest.approx((grid[half - 1], grid[fifth - 1]))


def test_a_step_that_is_repeated_counts_once():
    """Of 1.0, 0.8, 0.6, 0.4 and 0.2, where 0.4 and 0.2 come twice, after noise from 0.2 up to 0.4."""
    times = np.array([1.0, 0.8, 0.6, 0.4, 0.2, 0.4, 0.2, 0.0])
    plan = timesteps.plan(times, renoise=np.arange(7) == 4)
    assert ends(plan) == pytest.approx((0.6, 1.0))


def test_places_with_other_masks_boxes_or_times_are_other_programs():
    mask = np.ones((2, 2), np.float32)
    others = [
        Places((mask,)), Places((2 * mask,)), Places(boxes=(None,)), Places(attention=2.0), Places(first=1),
        Places(ends=(0.4, 0.8)), NOWHERE,
    ]  # fmt: skip
    assert len({places.key for places in others}) == len(others)
    assert Places((mask.copy(),)).key == others[0].key


def test_a_lora_acts_always_or_between_two_times_of_the_path():
    for value in (0.8, (0.8,), [0.8], (0.8, (0, 1)), (0.8, [0.0, 1.0])):
        weight = LoraWeight.read(value)
        assert weight == (0.8, (0.0, 1.0)) and weight.always and weight.written == 0.8
    timed = LoraWeight.read((0.8, (0.3, 1)))
    assert timed.times == (0.3, 1.0) and not timed.always and timed.written == [0.8, [0.3, 1.0]]
    assert LoraWeight.read((-1e6, (0.5, 0.5))) == (-1e6, (0.5, 0.5))
    for wrong, message in (
        ((0.8, (0.3, 1.5)), "times of a LoRA"),
        ((0.8, (-0.1, 1)), "times of a LoRA"),
        ((0.8, (0.3, 0.5, 0.7)), "times of a LoRA"),
        ((0.8, 0.5), r"times of a LoRA = 0\.5"),
        ((0.8, (0.7, 0.3)), r"0\.7, 0\.3\)\. Valid: the smaller t first, \(0\.3, 0\.7"),
        ((0.8, (0.3, 1), 2), r"a weight, or a weight and two times, \(0\.8, \(0\.3, 1\)\)"),
        ((), "a weight, or a weight"),
        (2e6, "weight of a LoRA"),
        (-2e6, "weight of a LoRA"),
    ):
        with pytest.raises(ValueError, match=message):
            LoraWeight.read(wrong)
