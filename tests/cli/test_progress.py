from __future__ import annotations

import pytest

from adaptrt.cli.progress import steps_shown, training_shown
from adaptrt.models.training.phase import Progress


@pytest.fixture(params=["terminal", "log"])
def kind(request, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    if request.param == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
    return request.param


def test_steps(kind, capsys):
    with steps_shown() as progress:
        progress("tracing", 0.0)
        for index in range(11):
            progress("checking [red]parity", index / 10)
    out, err = capsys.readouterr()
    assert out == ""
    assert "tracing" in err and "checking [red]parity" in err
    if kind == "log":
        assert err == "tracing ...\nchecking [red]parity ...\n"


def test_training(kind, capsys):
    with training_shown() as progress:
        for step in range(1, 21):
            progress(Progress("dense", step, 20, 1 / step, 0.5, 83.0 - step))
        progress(Progress("distil", 1, 1, 0.25, None, 0.0))
    out, err = capsys.readouterr()
    assert out == ""
    assert "20/20" in err and "loss 0.0500" in err and "accuracy 50.0%" in err and "1:03 left" in err
    assert "distil" in err and "loss 0.2500" in err
    if kind == "log":
        lines = err.splitlines()
        assert lines[0] == "dense 1/20  loss 1.0000  accuracy 50.0%  1:22 left"
        assert [line.split()[1] for line in lines] == ["1/20", "20/20", "1/1"]  # not every step


def test_a_phase_without_a_loss(kind, capsys):
    with training_shown() as progress:
        progress(Progress("activations", 1000, 1000, float("nan"), None, 5.0))
    err = capsys.readouterr().err
    assert "1000/1000" in err and "0:05 left" in err and "loss" not in err and "nan" not in err
    if kind == "log":
        assert err == "activations 1000/1000  0:05 left\n"


def test_bars_are_left_in_order_after_an_interrupt(kind, capsys):  # noqa: ARG001
    with pytest.raises(KeyboardInterrupt), steps_shown() as progress:
        progress("tracing", 0.5)
        raise KeyboardInterrupt
    assert not capsys.readouterr().err.endswith("\x1b[?25l")  # the cursor is shown again
