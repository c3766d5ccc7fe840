"""Tiny bundles of every family, traced once per session, with golden runs but no proof of parity: others prove it."""

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from adaptrt.export.calibration.evaluations import untold
from adaptrt.export.exporter import describe_bundle
from adaptrt.export.graph.stage_files import save_stages, trace_stages
from adaptrt.export.parity.check import parity_inputs, parity_settings
from adaptrt.export.parity.reference import GOLDEN_FILE, encode_golden, run_reference
from adaptrt.export.targets import int8_scales
from adaptrt.export.targets.int8 import byte_tensors, to_int8
from adaptrt.models import ACMConfig, LoadedModel, Network
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, Dense, encode_bundle
from tests.export.parity.test_families import ACM, SHAPE
from tests.models.adapters.test_resnet import TINY as RESNET
from tests.models.adapters.test_resnet import trained_like
from tests.models.adapters.test_text_encoder import TINY as TEXT

SHALLOW = dataclasses.replace(SHAPE, depth=2)
SAMPLES = 24


def _vit(**families: object) -> Network:
    return Network.from_config(dataclasses.replace(SHALLOW, **families))  # type: ignore[arg-type]


MAKERS: dict[str, Callable[[], StagedNetwork]] = {
    "combined": lambda: _vit(
        acm=ACM, pruning=PruningConfig((0,)), exits=ExitConfig((1,), "entropy"), hard_budgets=True
    ),
    "fixed": lambda: _vit(pruning=PruningConfig((0,), "fixed")),
    "merge": lambda: _vit(pruning=PruningConfig((0,), "merge")),
    "text": lambda: Network.from_config(
        dataclasses.replace(
            TEXT,
            depth=2,
            acm=ACMConfig(learners=2, gate="argmax", gate_width=4, projections=True),
            pruning=PruningConfig((0,)),
            exits=ExitConfig((1,), "patience"),
        )
    ),
    "resnet": lambda: trained_like(dataclasses.replace(RESNET, exits=ExitConfig((1,), "max_softmax"))),
}


def write_bundle(name: str, folder: Path) -> Path:
    """Trace a model and write its bundle."""
    torch.manual_seed(0)
    model = MAKERS[name]().eval()
    for parameter_name, parameter in model.named_parameters():
        if ("gate." in parameter_name or "selector." in parameter_name) and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7)
    stages, ops = trace_stages(model, debug=False, progress=untold)
    inputs = {key: array[:SAMPLES] for key, array in parity_inputs(model, None).items()}
    folder.mkdir()
    dense = Dense(macs=model.dense_macs(), parameters=model.dense_parameters())
    source = LoadedModel(name, model, None, None)
    bundle = describe_bundle(source, stages, save_stages(stages, folder), ops, dense)
    golden = [run_reference(model, inputs, setting) for setting in parity_settings(model, inputs)]
    (folder / GOLDEN_FILE).write_bytes(encode_golden(golden))
    (folder / BUNDLE_FILE).write_bytes(encode_bundle(bundle))
    return folder


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a name, written when it is first asked for; not to be changed."""
    root = tmp_path_factory.mktemp("targets")

    def of(name: str) -> Path:
        return root / name if (root / name).exists() else write_bundle(name, root / name)

    return of


@pytest.fixture
def copied(written: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """The same, as a copy that a test may change."""
    return lambda name: Path(shutil.copytree(written(name), tmp_path / name))


@pytest.fixture
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' networks are narrower than what is worth computing in int8."""
    monkeypatch.setattr(int8_scales, "to_int8", partial(to_int8, least_width=6))
    monkeypatch.setattr(int8_scales, "byte_tensors", partial(byte_tensors, least_width=6))
