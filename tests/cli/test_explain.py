"""``adaptrt run --explain``: what the picture says, for every subset of the families."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adaptrt.cli.errors import CommandError
from adaptrt.cli.explanation import PatchGrid
from adaptrt.runtime import load
from tests.staged_bundle import images, write_staged


@pytest.fixture
def photo(tmp_path):
    """A left half brighter than the right one, as a file."""
    pixels = np.full((4, 4), 20, np.uint8)
    pixels[:2, :2], pixels[2:, :2] = 120, 60
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []

    def keep(figure, path):
        figures.append(figure)
        path.write_bytes(b"drawn")

    monkeypatch.setattr("adaptrt.cli.explanation.save_picture", keep)
    return figures


def panels(figure):
    """Title and x label of every panel that shows."""
    return [(axes.get_title(), axes.get_xlabel()) for axes in figure.axes if axes.get_visible() and axes.images]


def test_picture_file(cli, staged, photo, tmp_path):
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        out = tmp_path / f"explained{suffix}"
        result = cli("run", staged, photo, "--price", 0.2, "--explain", out)
        assert result.exit_code == 0, result.output
        assert out.read_bytes().startswith(start)
        assert f"What was decided for photo.png in {out}" in result.stdout


def test_it_says_what_the_runtime_decided(cli, staged, photo, tmp_path, drawn):
    report = json.loads(cli("run", staged, photo, "--price", 0.2, "--explain", tmp_path / "x.png", "--json").stdout)
    [figure] = drawn
    pixels = np.asarray(Image.open(photo), np.float32)[None, None] / np.float32(255)
    result = load(staged).run({"pixels": pixels}, knobs={"price": 0.2}, decisions=True)
    kept, learners = result.decisions.kept[0], result.decisions.learners[0]
    assert kept[0].tolist() == [True, True, False, True, False]  # the class token and the bright patches
    found = panels(figure)
    assert found[0] == ("4 x 4 pixels", "")
    assert [title for title, _ in found[1:3]] == [
        f"selection {n}: {kept[n - 1, 1:].sum()} of 4 patches" for n in (1, 2)
    ]
    means = [own[own >= 0].mean() for own in learners]
    assert [title for title, _ in found[3:5]] == [f"gate {n}: {means[n - 1]:.2f} of 2 on average" for n in (1, 2)]
    assert [label for _, label in found[3:5]] == [f"class token: {own[0]}" for own in learners]
    heading = figure.get_suptitle()
    best = report["results"][0]["classes"][0]
    assert heading.startswith(f"class {best['class']}: {best['probability']:.1%}, class ")
    assert "left at final (exit 2 of 2)" in heading and f"{result.macs_fraction[0]:.1%} of the dense" in heading
    assert "price 0.2" in heading


def test_dropped_patches_are_darkened_and_gone_tokens_are_grey(cli, staged, photo, tmp_path, drawn):
    cli("run", staged, photo, "--price", 0.2, "--explain", tmp_path / "x.png")
    shown = [axes for axes in drawn[0].axes if axes.get_visible() and axes.images]
    image, selected = (np.asarray(axes.images[0].get_array()) for axes in shown[:2])
    same = (image == selected).all(2)
    assert same[:, :2].all() and not same[:, 2:].any()
    gate = shown[4].images[0].get_array()
    assert gate.mask.tolist() == [[False, True], [False, True]]
    assert (gate.data[:, 0] >= 0).all()


def test_stages_that_were_not_reached(cli, staged, tmp_path, drawn):
    Image.fromarray(np.full((4, 4), 250, np.uint8)).save(tmp_path / "bright.png")
    result = cli("run", staged, tmp_path / "bright.png", "--budget", "40%", "--explain", tmp_path / "x.png")
    assert "left at after_block_1: 1" in result.stdout
    titles = [title for title, _ in panels(drawn[0])]
    assert titles[2] == "selection 2: not reached" and titles[4] == "gate 2: not reached"
    assert "left at after_block_1 (exit 1 of 2)" in drawn[0].get_suptitle()
    assert "budget 0.4 of the dense work; price" in drawn[0].get_suptitle()


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("learners",), ["gate"]),
        (("selection",), ["selection"]),
        (("learners", "selection"), ["selection", "gate"]),
        ((), []),
    ],
)
@pytest.mark.parametrize("stages", [1, 2])
def test_any_subset_of_the_families(cli, edit, photo, tmp_path, drawn, stages, kinds, expected):
    folder = tmp_path / "bundle"
    write_staged(folder, stages=stages)

    def tell(content):
        content["tokens"]["tokens"]["size"] = 5
        for stage in content["stages"]:
            stage["decisions"] = [decision for decision in stage["decisions"] if decision["kind"] in kinds]

    edit(folder, tell)
    result = cli("run", folder, photo, "--explain", tmp_path / "x.png")
    assert result.exit_code == 0, result.output
    titles = [title for title, _ in panels(drawn[0])]
    wanted = ["4 x 4 pixels"] + [f"{kind} {number + 1}" for kind in expected for number in range(stages)]
    assert [title.split(":")[0] for title in titles] == wanted
    assert ("left at final" in drawn[0].get_suptitle()) == (stages == 2)


def test_colours_and_preprocessing_are_undone(cli, edit, staged, tmp_path, drawn, photo):
    folder = shutil.copytree(staged, tmp_path / "bundle")
    edit(folder, lambda content: content["inputs"][0]["preprocessing"].update(mean=[0.5], std=[0.25], scale=1 / 255))
    cli("run", folder, photo, "--explain", tmp_path / "x.png")
    shown = next(axes for axes in drawn[0].axes if axes.images).images[0].get_array()
    np.testing.assert_allclose(shown[:, :, 0] * 255, np.asarray(Image.open(photo)), atol=1e-3)
    assert shown.shape == (4, 4, 3)


def test_only_one_image(refused, contents, staged, photo, tmp_path):
    np.save(tmp_path / "x.npy", images(1))
    before = contents(tmp_path)
    out = tmp_path / "x.png"
    assert "got --explain with 2 files, expected one image" in refused("run", staged, photo, photo, "--explain", out)
    assert "x.npy', expected one image" in refused("run", staged, tmp_path / "x.npy", "--explain", out)
    assert ".png or .svg or .pdf" in refused("run", staged, photo, "--explain", tmp_path / "x.bmp")
    assert "two files" in refused("run", staged, photo, "--explain", photo)
    assert "mkdir" in refused("run", staged, photo, "--explain", tmp_path / "no" / "x.png")
    assert contents(tmp_path) == before


def test_inputs_that_are_no_images(refused, edit, staged, photo, tmp_path):
    folder = shutil.copytree(staged, tmp_path / "bundle")
    edit(folder, lambda content: content["inputs"][0].update(preprocessing=None))
    assert "how to make them of images" in refused("run", folder, photo, "--explain", tmp_path / "x.png")


def test_tokens_that_are_no_grid(refused, edit, photo, tmp_path):
    folder = tmp_path / "bundle"
    write_staged(folder, stages=1)

    def tell(content):
        content["tokens"]["tokens"]["size"] = 7
        del content["stages"][0]["decisions"][0]  # the learners, of which there are five

    edit(folder, tell)
    assert "got 7 tokens" in refused("run", folder, photo, "--explain", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_without_matplotlib_nothing_runs(python, main_code, staged, photo, tmp_path):
    out = tmp_path / "out.npz"
    code = main_code("run", staged, photo, "--explain", tmp_path / "x.png", "--output", out)
    done = python(code, without=("matplotlib",))
    assert done.returncode == 2 and "matplotlib is not installed" in done.stderr and not out.exists()


@given(st.integers(1, 12), st.integers(1, 12), st.booleans(), st.integers(1, 5))
def test_grid_of_any_image(rows, columns, class_token, patch):
    if class_token and any((rows * columns + 1) == a * a * rows * columns for a in range(9)):
        return
    grid = PatchGrid(rows * columns + class_token, rows * patch, columns * patch)
    if (grid.rows, grid.columns) != (rows, columns):
        assert rows * columns + class_token == grid.patches + grid.first  # another grid of the same tokens
        return
    values = np.arange(rows * columns + class_token)
    assert grid.first == class_token
    enlarged = grid.enlarged(values, rows * patch, columns * patch)
    assert enlarged.shape == (rows * patch, columns * patch)
    np.testing.assert_array_equal(enlarged[::patch, ::patch], values[class_token:].reshape(rows, columns))


@pytest.mark.parametrize(("tokens", "height", "width"), [(0, 8, 8), (3, 8, 8), (64, 8, 16), (7, 4, 4)])
def test_no_grid(tokens, height, width):
    with pytest.raises(CommandError, match=f"got {tokens} tokens"):
        PatchGrid(tokens, height, width)
