"""Ctrl-C that Python or a library loses still stops a command."""

from __future__ import annotations

import json
import signal

import pytest

from adaptrt.cli import interrupts, progress
from tests.runtime.conftest import FIXTURES


@pytest.fixture(autouse=True)
def handled_as_in_the_foreground():
    """A shell starts jobs in the background with the signal ignored, and so would the tests find it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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
    import adaptrt.export.parity.verify as verify

    def library(*_args, **_settings):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("capture failed") from None

    monkeypatch.setattr(verify, "verify_bundle", library)
    result = cli("verify", str(bundle))
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].startswith("interrupted: ")


@pytest.mark.parametrize("ignored", [True, False])
def test_a_job_in_the_background_is_not_interrupted(python, main_code, ignored):
    code = f"""
import signal
import adaptrt.runtime.bundle.bundle_file as bundle
read = bundle.read_bundle

def read_interrupted(*args, **settings):
    signal.raise_signal(signal.SIGINT)
    return read(*args, **settings)

bundle.read_bundle = read_interrupted
{main_code("inspect", FIXTURES / "exported", "--json")}
"""
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # which a new process is born with; a handler it is not
    done = python(code)
    if ignored:
        assert done.returncode == 0 and done.stderr == ""
        assert json.loads(done.stdout)["name"] == "exported"
    else:
        assert (done.returncode, done.stdout) == (130, "")
        assert done.stderr == "interrupted: nothing was written\n"
