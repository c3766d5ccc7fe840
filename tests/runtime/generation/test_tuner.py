"""Drafting turns itself off where it does not pay, and comes back."""

from __future__ import annotations

import numpy as np
import pytest

from adaptrt.runtime.errors import InputError
from adaptrt.runtime.generation.tree import DraftTree
from adaptrt.runtime.generation.tuner import DraftTuner

TIMES = {1: 10.0, 4: 12.0, 8: 15.0, 16: 22.0}


class Text:
    """Tokens that a drafter's chain guesses with a certain chance, in time that is added up, not measured."""

    def __init__(self, tuner, seed=0, slower=1.0, noise=0.0, times=TIMES):
        self.times = times
        self.tuner, self.random, self.slower, self.noise = tuner, np.random.default_rng(seed), slower, noise
        self.ms, self.plain, self.sizes = 0.0, 0.0, []

    def write(self, calls, chance):
        for _ in range(calls):
            following = self.random.integers(0, 50, size=20).tolist()
            guesses = [token if self.random.random() < chance else 50 for token in following]
            tree = DraftTree(0, 51)
            tree.add_path(guesses[: self.tuner.largest - 1])
            size = self.tuner.size
            self.tuner.drafted(tree)
            wrong = next((place for place, guess in enumerate(guesses) if guess == 50), len(guesses))
            written = following[: min(wrong, size - 1) + 1]
            took = self.times[size] * self.slower * (1 + self.noise * self.random.standard_normal())
            self.tuner.took(size, took)
            self.tuner.wrote(written)
            self.ms += took
            self.plain += self.times[1] * self.slower * len(written)
            self.sizes.append(size)


@pytest.mark.parametrize("slower", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_it_pays_where_guesses_are_right_and_is_off_where_not(slower, noise):
    text = Text(DraftTuner(TIMES), slower=slower, noise=noise)
    text.write(200, chance=0.0)
    assert set(text.sizes) == {1} and text.ms == pytest.approx(text.plain, rel=0.05)
    text.write(300, chance=0.95)
    assert np.mean(np.array(text.sizes[-200:]) > 1) > 0.95
    assert text.plain / text.ms > 1.5
    text.write(300, chance=0.0)
    assert set(text.sizes[-250:]) == {1}
    text.write(100, chance=0.95)
    assert text.sizes[-1] > 1


def test_drafting_on_the_host_counts():
    cheap, dear = Text(DraftTuner(TIMES)), Text(DraftTuner(TIMES, drafting=40.0))
    cheap.write(200, chance=0.9)
    dear.write(200, chance=0.9)
    assert cheap.sizes[-1] > 1 and set(dear.sizes) == {1}


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_times_that_are_not_as_profiled_are_learned(noise):
    """The profile says that trees are free; they take five times as long."""
    text = Text(DraftTuner(dict.fromkeys(TIMES, 10.0)), noise=noise, times={1: 10.0, 4: 50.0, 8: 50.0, 16: 50.0})
    text.write(400, chance=0.6)
    assert max(text.sizes) > 1  # it was tried
    assert np.mean(np.array(text.sizes[-200:]) == 1) > 0.97


def test_a_device_that_slows_down_changes_no_size():
    text = Text(DraftTuner(TIMES))
    text.write(200, chance=0.9)
    before = set(text.sizes[-50:])
    text.slower = 4.0
    text.write(50, chance=0.9)
    assert set(text.sizes[-50:]) == before and 1 not in before


@pytest.mark.parametrize("times", [{}, {2: 1.0}, {1: 0.0}, {1: float("nan")}, {1: 1.0, 0: 1.0}])
def test_bad_profiles_are_refused(times):
    with pytest.raises(InputError, match="expected"):
        DraftTuner(times)
