"""Draws follow the distribution, constrained ones that of the allowed tokens; the weight is right on average."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adaptrt.runtime.errors import InputError, OutputError
from adaptrt.runtime.generation.sampling import Sampler, log_probabilities
from adaptrt.runtime.generation.weighted_rejection import ConstraintError, draw_allowed

LOGITS = np.array([0.3, 2.0, -1.0, 1.2, 0.0, -3.0, 1.9], np.float32)
DRAWS = 20_000


def chi_square(counts, probabilities):
    """Of the tokens that can be drawn, over its degrees of freedom."""
    expected = probabilities * counts.sum()
    assert counts[expected == 0].sum() == 0
    seen = expected > 0
    return float(((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum() / max(seen.sum() - 1, 1))


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 2.0, "top_k": 5, "top_p": 0.9}])
def test_draws_follow_the_distribution(options):
    probabilities = np.exp(log_probabilities(LOGITS, **options))
    assert probabilities.sum() == pytest.approx(1)
    sampler = Sampler(**{"temperature": 1.0, **options}, seed=1)
    counts = np.bincount([sampler.choose(LOGITS) for _ in range(DRAWS)], minlength=len(LOGITS))
    assert chi_square(counts, probabilities) < 4
    # The check can fail: uniform draws are no such draws.
    assert chi_square(np.full(len(LOGITS), 1) * DRAWS, np.exp(log_probabilities(LOGITS))) > 100


def test_what_is_cut_off():
    plain = np.exp(log_probabilities(LOGITS))
    assert np.flatnonzero(np.isfinite(log_probabilities(LOGITS, top_k=3))).tolist() == [1, 3, 6]
    two = plain[1] + plain[6]
    assert np.isfinite(log_probabilities(LOGITS, top_p=two - 1e-6)).sum() == 2
    assert np.isfinite(log_probabilities(LOGITS, top_p=two + 1e-6)).sum() == 3
    assert np.isfinite(log_probabilities(LOGITS, top_p=1e-9)).sum() == 1
    assert np.isfinite(log_probabilities(np.zeros(5), top_k=2)).sum() == 2


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("top_k", [None, 100])
@pytest.mark.parametrize("temperature", [0.3, 3.0])
def test_a_large_vocabulary_is_cut_where_sorting_it_would_cut(temperature, top_k, top_p):
    logits = np.random.default_rng(0).standard_normal(5000).astype(np.float32) * 2
    order = np.argsort(-logits)[:top_k]
    weights = np.exp((logits[order].astype(np.float64) - logits.max()) / temperature)
    before = (np.cumsum(weights) - weights) / weights.sum()
    kept = order[before < top_p]
    logp = log_probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    assert set(np.flatnonzero(np.isfinite(logp))) == set(kept.tolist())
    assert np.exp(logp).sum() == pytest.approx(1)


def test_a_tiny_temperature_is_greedy():
    sampler = Sampler(temperature=1e-300, seed=0)
    assert {sampler.choose(LOGITS) for _ in range(50)} == {Sampler().choose(LOGITS)} == {1}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_refused(temperature, bad):
    with pytest.raises(OutputError, match="among the logits"):
        Sampler(temperature, seed=0).choose(np.array([1.0, bad, 0.0]))


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"temperature": math.nan}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}],
)
def test_bad_options_are_refused(options):
    with pytest.raises(InputError, match="expected"):
        Sampler(**options)


@pytest.mark.parametrize("allowed", [{0}, {2, 5}, {1, 2, 4}, set(range(7))])
def test_constrained_draws_follow_the_allowed_tokens(allowed):
    logp = log_probabilities(LOGITS)
    mass = sum(math.exp(logp[token]) for token in allowed)
    random = np.random.default_rng(3)
    draws = [draw_allowed(logp, allowed.__contains__, random) for _ in range(DRAWS)]
    counts = np.bincount([draw.token for draw in draws], minlength=len(LOGITS))
    wanted = np.array([math.exp(logp[token]) / mass * (token in allowed) for token in range(len(LOGITS))])
    assert chi_square(counts, wanted) < 4
    weights = np.exp([draw.log_weight for draw in draws])
    error = max(weights.std() / math.sqrt(DRAWS), 1e-12)
    assert abs(weights.mean() - mass) < 5 * error
    # For each token as well, or sequences would be weighed wrongly.
    for token in allowed:
        own = weights[[draw.token == token for draw in draws]]
        assert abs(own.mean() - mass) < 5 * own.std() / math.sqrt(len(own)) + 1e-9


def test_few_tokens_are_checked_where_most_are_allowed():
    logp = log_probabilities(np.zeros(1000))
    random = np.random.default_rng(0)
    checks = [draw_allowed(logp, lambda token: token % 10 != 0, random).checks for _ in range(300)]
    assert np.mean(checks) < 2.3


def test_no_token_is_asked_about_twice_or_without_probability():
    asked = []
    with pytest.raises(ConstraintError, match="got no allowed token among 3 of 3"):
        draw_allowed(log_probabilities(LOGITS, top_k=3), lambda token: asked.append(token), np.random.default_rng(0))
    assert sorted(asked) == [1, 3, 6]


def test_giving_up_is_an_error_never_a_rejected_token():
    with pytest.raises(ConstraintError, match="among 2 of 7.*raise the number of checks"):
        draw_allowed(log_probabilities(LOGITS), lambda _: False, np.random.default_rng(0), max_checks=2)


def test_a_constraint_that_raises_is_named():
    with pytest.raises(ConstraintError, match=r"got KeyError \('x'\) from the constraint at token"):
        draw_allowed(log_probabilities(LOGITS), lambda _: {}["x"], np.random.default_rng(0))
