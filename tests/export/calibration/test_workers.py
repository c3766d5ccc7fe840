"""Calibration by several processes: the same bytes as by one, and nothing left behind, however it ends."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptrt.export.calibration import workers as workers_module
from adaptrt.export.calibration.calibrate import calibrate_bundle
from adaptrt.export.calibration.worker_process import Call, Failed
from adaptrt.export.calibration.workers import MOST_WORKERS, Workers, chosen_workers, opened
from adaptrt.export.errors import CalibrationError
from adaptrt.export.exporter import export_bundle
from adaptrt.models import ACMConfig, LoadedModel, Network, ViTConfig
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.runtime import InputError, load
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, read_bundle
from tests.export.shared_traces import SharedTraces
from tests.staged_bundle import images, write_staged

IMAGES = ViTConfig(image_size=8, patch_size=2, width=16, depth=2, heads=2, ffn_width=32, classes=3, class_token=True)
TEXTS = TextEncoderConfig(width=16, depth=2, heads=2, ffn_width=32, classes=3, vocabulary=30, length=8)
ACM, PRUNING, EXITS = ACMConfig(learners=2, gate_width=4), PruningConfig((0,)), ExitConfig((1,), "entropy")
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "learners": (IMAGES, {"acm": ACM}),
    "learners, tokens, exits, hard budgets": (IMAGES, {"acm": ACM, "pruning": PRUNING, "exits": EXITS}),
    "routes and exits": (IMAGES, {"others": {"routed_ffn": {"small": 0.25}}, "exits": EXITS}),
    "texts: learners and exits": (TEXTS, {"acm": ACM, "exits": ExitConfig((1,), "certainty")}),
}


def network(kind: str) -> Network:
    """A tiny network whose decisions are spread."""
    torch.manual_seed(0)
    shape, families = KINDS[kind]
    model = Network.from_config(dataclasses.replace(shape, **families)).eval()
    for name, parameter in model.named_parameters():
        if ("gate." in name or "selector." in name) and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7)
    return model


def noise(model: Network, samples: int) -> DataSplits:
    """More than two batches."""
    splits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        first, *others = model.example_inputs(samples).items()
        rest = {name: tensor.numpy() for name, tensor in others}
        labels = np.random.default_rng(seed).integers(0, 3, samples)
        splits.append(Split(first[1].numpy(), labels, rest, first[0]))
    return DataSplits("noise", *splits)


def staged(folder: Path) -> tuple[Path, DataSplits]:
    """A bundle of all families, written by hand, and images to calibrate it with."""
    write_staged(folder, calibrated=False)
    parts = [images(150, seed=seed) for seed in (1, 2)]
    labels = [(10 * pixels.mean((1, 2, 3))).astype(np.int64) % 3 for pixels in parts]
    return folder, DataSplits("brightness", *(Split(x, y) for x, y in zip(parts, labels, strict=True)))


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(reached: Callable[[], bool]) -> None:
    ending = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < ending, "waited for two minutes"
        time.sleep(0.02)


@pytest.mark.slow("exports and calibrates")
@pytest.mark.parametrize("kind", KINDS)
def test_exports_are_those_of_one_process(kind: str, tmp_path: Path, shared_traces: SharedTraces) -> None:
    del shared_traces
    model = network(kind)
    dense = Network.from_config(dataclasses.replace(KINDS[kind][0])).eval()
    data = noise(model, 150)
    told: list[tuple[str, float]] = []
    for count in (1, 3):
        export_bundle(
            LoadedModel("tiny", model, dense, "noise"),
            tmp_path / str(count),
            calibration=data,
            hard_budgets="hard" in kind,
            points=4,
            evaluations=40,
            workers=count,
            progress=lambda *news: told.append(news),
        )
    one, three = ((tmp_path / name / BUNDLE_FILE).read_bytes() for name in ("1", "3"))
    assert one == three
    assert read_bundle(tmp_path / "3").dense.quality is not None and len(read_bundle(tmp_path / "3").curve) >= 4
    passes = [(what, share) for what, share in told if what.startswith(("calibrat", "measuring", "sweeping"))]
    half = len(passes) // 2
    assert half >= 8 and passes[:half] == passes[half:]


def test_a_calibration_is_that_of_one_process(tmp_path: Path) -> None:
    for count in (1, 2):
        folder, data = staged(tmp_path / str(count))
        calibrate_bundle(folder, data, points=6, evaluations=45, workers=count)
    one, two = ((tmp_path / name / BUNDLE_FILE).read_bytes() for name in ("1", "2"))
    assert one == two and {point.hard for point in load(tmp_path / "2").bundle.curve} == {False, True}


def test_answers_come_in_order_and_an_ended_search_disturbs_no_later_one(tmp_path: Path) -> None:
    folder, data = staged(tmp_path / "staged")
    batches = [data.test.inputs[:count] for count in (90, 1, 2, 60, 3, 4, 5, 1, 7)]
    calls = [Call("run_stages", {"pixels": batch}, {"knobs": {"price": 0.3}}) for batch in batches]
    with opened(folder, read_bundle(folder), 1) as alone, opened(folder, read_bundle(folder), 3) as workers:
        assert isinstance(workers, Workers)
        expected = [call.on(alone) for call in calls]
        for used in (2, len(calls)):  # the first search leaves calls behind that are being worked on
            answers = workers.answers(calls)
            for stages, wanted in zip([next(answers) for _ in range(used)], expected, strict=False):
                for stage, other in zip(stages, wanted, strict=True):
                    assert stage.keys() == other.keys()
                    assert all(np.array_equal(stage[name], other[name]) for name in stage)
        assert next(answers, None) is None
        assert list(workers.answers([])) == []
        pids = workers.pids()
        assert len(pids) == 3 and all(map(alive, pids))
    assert not any(map(alive, pids)) and not workers.pids()


def test_an_error_in_a_process_is_the_one_that_this_process_would_raise(tmp_path: Path) -> None:
    folder, data = staged(tmp_path / "staged")
    with opened(folder, read_bundle(folder), 2) as workers:
        assert isinstance(workers, Workers)
        with pytest.raises(InputError, match="price"):
            workers.run({"pixels": data.test.inputs}, knobs={"price": float("nan")})
        with pytest.raises(RuntimeError, match=r"(?s)in a process that ran calibration data:.*AttributeError"):
            next(workers.answers([Call("nothing", {})]))
        assert len(workers.run({"pixels": data.test.inputs[:3]}).macs_fraction) == 3  # they go on
    (folder / "stage1.onnx").write_bytes(b"other bytes")
    message = "stage1.onnx"
    with pytest.raises(Exception, match=message) as alone, opened(folder, read_bundle(folder, verify_hashes=False), 1):
        pass
    with (
        opened(folder, read_bundle(folder, verify_hashes=False), 2) as workers,
        pytest.raises(type(alone.value)) as together,
    ):
        workers.run_stages({"pixels": data.test.inputs})
    assert str(together.value) == str(alone.value)


def test_a_process_that_dies_is_an_error_of_one_line_and_passes_are_kept(tmp_path: Path) -> None:
    folder, data = staged(tmp_path / "staged")
    before = (folder / BUNDLE_FILE).read_bytes()
    with opened(folder, read_bundle(folder), 2) as workers:
        assert isinstance(workers, Workers)
        pids = workers.pids()
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(
            CalibrationError, match=r"died \(signal 9\), expected it to go on; .* fewer workers$"
        ) as died:
            list(workers.answers([Call("run_stages", {"pixels": data.test.inputs})] * 8))
        assert "\n" not in str(died.value)
    assert not any(map(alive, pids))
    assert (folder / BUNDLE_FILE).read_bytes() == before


@pytest.mark.parametrize("how", ["error", "Ctrl-C"])
def test_an_interrupted_calibration_goes_on_with_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder, data = staged(tmp_path / "parts")
    before = (folder / BUNDLE_FILE).read_bytes()
    started: list[int] = []
    enter = Workers.__enter__
    monkeypatch.setattr(Workers, "__enter__", lambda self: (enter(self), started.extend(self.pids()))[0])
    told: list[str] = []

    def stop(what: str, _: float) -> None:
        told.append(what)
        if len(told) == 9:
            if how == "error":
                raise ZeroDivisionError
            signal.raise_signal(signal.SIGINT)

    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(ZeroDivisionError if how == "error" else KeyboardInterrupt):
            calibrate_bundle(folder, data, points=6, evaluations=45, workers=2, progress=stop)
    finally:
        signal.signal(signal.SIGINT, old)
    assert len(started) == 2 and not any(map(alive, started))
    assert (folder / BUNDLE_FILE).read_bytes() == before
    told.clear()
    calibrate_bundle(folder, data, points=6, evaluations=45, workers=1, progress=lambda what, _: told.append(what))
    assert told[0].startswith("going on from ")
    whole, _ = staged(tmp_path / "whole")
    calibrate_bundle(whole, data, points=6, evaluations=45, workers=1)
    assert (folder / BUNDLE_FILE).read_bytes() == (whole / BUNDLE_FILE).read_bytes()


_SCRIPT = """
import sys
from pathlib import Path
from adaptrt.export.calibration import workers
from tests.export.calibration.test_workers import Call, Workers, read_bundle, staged
folder, data = staged(Path(sys.argv[1]))
with Workers(folder, read_bundle(folder), 2) as running:
    print(*running.pids(), flush=True)
    while True:
        list(running.answers([Call("run_stages", {"pixels": data.test.inputs})] * 8))
"""


def test_processes_end_when_who_started_them_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", ".", os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "staged")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=Path(__file__).parents[3])
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    process.kill()
    process.wait()
    process.stdout.close()
    wait_for(lambda: not any(map(alive, pids)))


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cores:
        threads = 4

    monkeypatch.setattr(workers_module, "granted_processors", Cores)
    assert chosen_workers(None, 1e15) == 4 and chosen_workers(None, 0.0) == 1
    assert chosen_workers(None, 2.5e11) == 2  # no more than have something to do
    assert chosen_workers(7, 0.0) == 7
    Cores.threads = 64
    assert chosen_workers(None, 1e15) == MOST_WORKERS
    with pytest.raises(CalibrationError, match="got 0 workers, expected at least 1"):
        chosen_workers(0, 1e15)


def test_a_process_needs_neither_torch_nor_onnx() -> None:
    code = (
        "import sys, adaptrt.export.calibration.worker_process\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'onnx', 'transformers'}))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_failures_are_told_apart_from_answers() -> None:
    with pytest.raises(CalibrationError, match="mine"):
        workers_module._checked(Failed(CalibrationError("mine")))
    assert workers_module._checked({"logits": 1}) == {"logits": 1}
