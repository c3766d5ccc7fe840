"""Exit heads: each criterion against its formula."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax
from scipy.stats import entropy

from adaptrt.models.families.exit_head import CRITERIA, ExitConfig, ExitHead, HeadOutput

CLASSES = 5
LOGITS = arrays(np.float32, st.tuples(st.integers(1, 6), st.just(CLASSES)), elements=st.floats(-30, 30, width=32))


def passing(criterion: str, classes: int = CLASSES) -> ExitHead:
    """A head whose logits are its features."""
    head = ExitHead(classes, classes, criterion).eval()
    with torch.no_grad():
        head.classifier.weight.copy_(torch.eye(classes))
        head.classifier.bias.zero_()
    return head


def judge(criterion: str, logits: npt.NDArray[np.float32]) -> HeadOutput:
    with torch.no_grad():
        out: HeadOutput = passing(criterion)(torch.from_numpy(logits), {})
    np.testing.assert_array_equal(out.outputs["logits"].numpy(), logits)
    assert out.confidence.dtype == torch.float32 and out.confidence.shape == (len(logits),)
    return out


@settings(deadline=None)
@given(LOGITS)
def test_max_softmax(logits: npt.NDArray[np.float32]) -> None:
    found = judge("max_softmax", logits).confidence.numpy()
    np.testing.assert_allclose(found, softmax(logits.astype(np.float64), axis=1).max(1), atol=1e-6)
    assert (found <= 1).all()  # a threshold of 1 means that nobody leaves


@settings(deadline=None)
@given(LOGITS)
def test_entropy(logits: npt.NDArray[np.float32]) -> None:
    found = judge("entropy", logits).confidence.numpy()
    probabilities = softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(found, 1 - entropy(probabilities, axis=1) / np.log(CLASSES), atol=2e-6)
    assert (found <= 1).all() and (found >= -1e-6).all()


@settings(deadline=None)
@given(st.floats(-200, 200, width=32), st.floats(0, 1e4, width=32))
def test_extreme_logits_are_finite_and_sure(shift: float, gap: float) -> None:
    logits = np.full((1, CLASSES), shift, np.float32)
    logits[0, 2] += gap
    for criterion in ("max_softmax", "entropy"):
        found = float(judge(criterion, logits).confidence[0])
        assert np.isfinite(found) and found <= 1
        assert gap < 50 or found == 1


@pytest.mark.parametrize("criterion", ["max_softmax", "entropy"])
def test_one_class_is_sure(criterion: str) -> None:
    out = passing(criterion, classes=1)(torch.tensor([[3.0], [-3.0]]), {})
    assert out.confidence.tolist() == [1.0, 1.0]


@settings(deadline=None)
@given(LOGITS, st.integers(0, 2**31 - 1))
def test_certainty(features: npt.NDArray[np.float32], seed: int) -> None:
    torch.manual_seed(seed)
    head = ExitHead(CLASSES, 3, "certainty")
    assert head.certainty is not None
    with torch.no_grad():
        out = head(torch.from_numpy(features), {})
    assert out.certainty is not None
    weight, bias = head.certainty.weight.detach().numpy()[0], head.certainty.bias.detach().numpy()
    wanted = features.astype(np.float64) @ weight.astype(np.float64) + bias
    np.testing.assert_allclose(out.certainty.numpy(), wanted, atol=1e-4)
    np.testing.assert_allclose(out.confidence.numpy(), expit(wanted), atol=1e-5)
    assert (out.confidence <= 1).all()


def naive_streaks(predictions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of ``[heads, B]``: how many heads just before each one agree with it, without a gap."""
    found = np.zeros_like(predictions)
    for head, row in enumerate(predictions):
        for sample, own in enumerate(row):
            while found[head, sample] < head and predictions[head - 1 - found[head, sample], sample] == own:
                found[head, sample] += 1
    return found


PREDICTIONS = arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.integers(0, 2))


@settings(deadline=None)
@given(PREDICTIONS)
def test_patience_counts_heads_that_agree_in_a_row(predictions: npt.NDArray[np.int64]) -> None:
    head, streaks = passing("patience", 3), []
    carried: dict[str, torch.Tensor] = {}
    for row in predictions:
        out = head(torch.nn.functional.one_hot(torch.from_numpy(row), 3).float(), carried)
        assert out.carried["next_prediction"].dtype == torch.int64
        torch.testing.assert_close(out.carried["next_streak"], out.confidence)
        carried = {"prediction": out.carried["next_prediction"], "streak": out.carried["next_streak"]}
        streaks.append(out.confidence.detach().numpy())
    np.testing.assert_array_equal(np.stack(streaks), naive_streaks(predictions))


def test_patience_by_hand() -> None:
    predictions = np.array([[0, 1, 2], [0, 1, 1], [0, 2, 1], [1, 2, 1]])
    np.testing.assert_array_equal(naive_streaks(predictions), [[0, 0, 0], [1, 1, 0], [2, 0, 1], [0, 1, 2]])


@pytest.mark.parametrize("criterion", CRITERIA)
@settings(max_examples=20, deadline=None)
@given(logits=LOGITS)
def test_a_confidence_does_not_depend_on_the_batch(criterion: str, logits: npt.NDArray[np.float32]) -> None:
    torch.manual_seed(0)
    head = passing(criterion)
    with torch.no_grad():
        together = head(torch.from_numpy(logits), {}).confidence
        alone = torch.cat([head(torch.from_numpy(row[None]), {}).confidence for row in logits])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_work_of_a_head() -> None:
    assert ExitHead(7, 3, "entropy").macs(last=False) == ExitHead(7, 3, "entropy").macs(last=True) == 21
    assert ExitHead(7, 3, "certainty").macs(last=False) == 28
    assert ExitHead(7, 3, "certainty").macs(last=True) == 21  # nobody asks the last head how sure it is


@pytest.mark.parametrize(
    ("after", "criterion", "message"),
    [
        ((), "entropy", "got exits after blocks"),
        ((2, 1), "entropy", "expected ascending numbers from 1"),
        ((1, 1), "entropy", "expected ascending numbers from 1"),
        ((0, 1), "entropy", "expected ascending numbers from 1"),
        ((1,), "margin", "got exit criterion 'margin', expected one of max_softmax, entropy, certainty, patience"),
    ],
)
def test_exits_that_cannot_be_are_refused(after: tuple[int, ...], criterion: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExitConfig(after, criterion)


def test_an_exit_stands_before_the_end() -> None:
    ExitConfig((1, 3)).require_depth(4)
    with pytest.raises(ValueError, match="got an exit after block 3 of 3"):
        ExitConfig((1, 3)).require_depth(3)
