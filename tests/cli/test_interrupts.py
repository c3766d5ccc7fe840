"""Ctrl-C that Python or a library loses still stops a command."""

from __future__ import annotations

import signal

import pytest

from adaptrt.cli import interrupts, progress


def lose_one() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_lost_interrupt_stops_the_next_step(capsys):
    with interrupts.interrupts_noted(), progress.steps_shown() as tell:
        tell("one", 0.1)
        lose_one()
        with pytest.raises(KeyboardInterrupt):
            tell("two", 0.2)
    assert "two" not in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_next_command_begins_without_it():
    with interrupts.interrupts_noted():
        lose_one()
        assert interrupts.interrupted()
    with interrupts.interrupts_noted():
        interrupts.stop_if_interrupted()


def test_who_handles_the_signal_goes_on_doing_so():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with interrupts.interrupts_noted():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [1]


def test_an_error_that_a_library_makes_of_it_is_an_interrupt(cli, bundle, monkeypatch):
    import adaptrt.export.verify as verify

    def library(*_args, **_settings):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("capture failed") from None

    monkeypatch.setattr(verify, "verify_bundle", library)
    result = cli("verify", str(bundle))
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].startswith("interrupted: ")
