"""``adaptrt inspect`` on an adaptation: numbers of the log, pictures, a training at work, and what cannot be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.samples import Samples
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.network import Network
from adaptrt.models.training import steps
from adaptrt.models.training.adapting import AdaptSettings, adapt_network

SETTINGS = AdaptSettings(
    acm=ACMConfig(learners=2), joint_steps=40, distil_steps=20, gate_steps=10, tokens=200, layer_batch=32, batch=4
)


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


@pytest.fixture(scope="module")
def works(tmp_path_factory):
    """The work folders of a training in its joint phase, and of the same when it is finished."""
    torch.manual_seed(0)
    shape = ViTConfig(image_size=4, patch_size=2, width=16, depth=2, heads=2, ffn_width=32, classes=3)
    dense = Network.from_config(shape).eval()
    images = np.random.default_rng(0).random((24, 1, 4, 4), dtype=np.float32)
    samples = Samples.of(dense, {"pixels": images})
    folder = tmp_path_factory.mktemp("works")

    def stop(progress):
        if progress.phase == "joint" and progress.step == 25:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(StoppedError):
            adapt_network(dense, samples, SETTINGS, folder / "work", stop)
    going = shutil.copytree(folder / "work", folder / "going")
    adapt_network(dense, samples, SETTINGS, folder / "work", lambda _: None)
    return going, folder / "work"


@pytest.fixture
def finished(works, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(works[1], tmp_path / "finished"))


def phases(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["phases"]


@pytest.mark.slow("trains")
def test_the_numbers_are_those_of_the_log(cli, works):
    _, work = works
    log = json.loads((work / "losses.json").read_text())
    found = phases(cli("inspect", work, "--json"))
    assert [phase["phase"] for phase in found] == ["distil0", "distil1", "gate0", "gate1", "joint"]
    assert {phase["phase"]: [*map(list, zip(phase["step"], phase["loss"], strict=True))] for phase in found} == log
    assert found[-1]["step"] == [10, 20, 30, 40] and found[-1]["done"] == 40
    lines = cli("inspect", work).stdout.splitlines()
    assert any(line.split() == ["gate", "1", "10", *2 * [f"{log['gate1'][-1][1]:.4g}"]] for line in lines)


@pytest.mark.slow("trains")
def test_a_training_at_work_is_read_from_its_checkpoints(cli, works, tmp_path):
    going, work = works
    assert not (going / "losses.json").exists()
    now, later = phases(cli("inspect", going, "--json")), phases(cli("inspect", work, "--json"))
    assert [(phase["done"], phase["steps"]) for phase in now] == [(20, 20), (20, 20), (10, 10), (10, 10), (24, 40)]
    for phase, whole in zip(now, later, strict=True):
        count = len(phase["step"])
        assert (phase["step"], phase["loss"]) == (whole["step"][:count], whole["loss"][:count])
    assert now[-1]["step"] == [10, 20]
    assert "24 of 40" in cli("inspect", going).stdout
    begun = Path(shutil.copytree(going, tmp_path / "begun"))
    for path in begun.glob("[gj]*.pt"):
        path.unlink()
    assert [phase["phase"] for phase in phases(cli("inspect", begun, "--json"))] == ["distil0", "distil1"]


@pytest.mark.slow("trains")
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_picture_has_a_panel_for_each_kind_of_phase(cli, works, tmp_path, monkeypatch, kind):
    import adaptrt.bench.reports.losses_plot as losses_plot

    drawn = []
    save = losses_plot.save_picture
    monkeypatch.setattr(losses_plot, "save_picture", lambda figure, path: (drawn.append(figure), save(figure, path)))
    for folder in works:
        picture = tmp_path / f"{folder.name}.{kind}"
        assert f"Picture in {picture}" in cli("inspect", folder, "--plot", picture).stdout
        if kind == "png":
            with Image.open(picture) as image:
                assert image.width > 2 * image.height and len(set(image.convert("L").tobytes())) > 20
        else:
            assert picture.read_text().lstrip().startswith("<?xml")
        axes = drawn[-1].axes
        assert [len(panel.lines) for panel in axes] == [2, 2, 1]
        assert {panel.get_yscale() for panel in axes} == {"log"}
        shown = phases(cli("inspect", folder, "--json"))
        for line, phase in zip([line for panel in axes for line in panel.lines], shown, strict=True):
            assert (list(line.get_xdata()), list(line.get_ydata())) == (phase["step"], phase["loss"])


@pytest.mark.slow("trains")
def test_losses_below_zero_are_drawn_without_a_logarithm(finished, tmp_path, monkeypatch):
    import adaptrt.bench.reports.losses_plot as losses_plot
    from adaptrt.models.training.loss_log import read_losses

    log = json.loads((finished / "losses.json").read_text())
    log["joint"][-1][1] = -0.01
    (finished / "losses.json").write_text(json.dumps(log))
    drawn = []
    monkeypatch.setattr(losses_plot, "save_picture", lambda figure, _: drawn.append(figure))
    losses_plot.plot_losses(read_losses(finished), tmp_path / "losses.png")
    assert [panel.get_yscale() for panel in drawn[0].axes] == ["log", "log", "linear"]


@pytest.mark.slow("trains")
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"joint": 3}',
        '{"joint": [[1, 2, 3]]}',
        '{"joint": [[10, "x"]]}',
        '{"joint": [[10, NaN]]}',
        '{"joint": [[20, 1.0], [10, 1.0]]}',
        '{"joint": [[0, 1.0]]}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_damaged_log_is_one_line(refused, finished, content):
    (finished / "losses.json").write_bytes(content.encode("latin-1"))
    line = refused("inspect", finished, "--json")
    assert "cannot read the losses in" in line and "losses.json" in line and "copy it again" in line


@pytest.mark.slow("trains")
def test_a_damaged_checkpoint_is_one_line(refused, works, tmp_path):
    going = Path(shutil.copytree(works[0], tmp_path / "going"))
    whole = (going / "joint.pt").read_bytes()
    for content in (b"", b"nothing", whole[: len(whole) // 2]):
        (going / "joint.pt").write_bytes(content)
        assert "joint.pt" in refused("inspect", going)
    torch.save({"done": 3, "steps": 4}, going / "joint.pt")
    assert "joint.pt" in refused("inspect", going)


@pytest.mark.slow("trains")
def test_a_folder_without_losses_is_one_line(refused, cli, works, tmp_path):
    going = Path(shutil.copytree(works[0], tmp_path / "going"))
    for path in going.glob("*.pt"):
        path.unlink()
    line = refused("inspect", going)
    assert "neither losses.json nor checkpoints" in line and "a minute" in line
    torch.save({"done": 3, "steps": 4, "losses": []}, going / "joint.pt")
    picture = tmp_path / "losses.png"
    assert "without a loss so far" in refused("inspect", going, "--plot", picture)
    assert not picture.exists()
    assert "3 of 4" in cli("inspect", going).stdout
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        assert "bundle.json" in refused("inspect", folder) or "nowhere" in refused("inspect", folder)


@pytest.mark.slow("trains")
def test_the_network_keeps_the_log(cli, works, tmp_path):
    network = tmp_path / "network"
    network.mkdir()
    shutil.copyfile(works[1] / "losses.json", network / "losses.json")
    (network / "adapted.json").write_text("{}")
    assert phases(cli("inspect", network, "--json")) == phases(cli("inspect", works[1], "--json"))


def test_a_bundle_has_no_losses(refused, bundle, tmp_path):
    assert "expected an adaptation's folder" in refused("inspect", bundle, "--plot", tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()


@pytest.mark.slow("trains")
def test_a_picture_that_cannot_be_written(refused, works, tmp_path):
    assert "ends in .png" in refused("inspect", works[1], "--plot", tmp_path / "losses.gif")
    assert "mkdir -p" in refused("inspect", works[1], "--plot", tmp_path / "nowhere" / "losses.png")
