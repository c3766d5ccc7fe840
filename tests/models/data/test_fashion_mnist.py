"""Fashion-MNIST's files: what intact ones hold, and every way in which they can be unusable."""

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptrt.models.data import fashion_mnist as module
from adaptrt.models.data.fashion_mnist import DEBIAN_FOLDER, FOLDER_VARIABLE, fashion_mnist
from adaptrt.models.data.split import DataError, load_data

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
TRAIN, TEST, CALIBRATION = 120, 30, 40


def idx(values: npt.NDArray[np.uint8], type_code: int = 8) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, type_code, values.ndim, *values.shape) + values.tobytes()


def write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, compresslevel=1))


def labels(count: int) -> npt.NDArray[np.uint8]:
    return (np.arange(count) % 10).astype(np.uint8)


def images(count: int) -> npt.NDArray[np.uint8]:
    """No two are the same: the first two pixels number them."""
    made = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    made[:, 0, 0], made[:, 0, 1] = np.arange(count), count
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Intact files of few images."""
    monkeypatch.setattr(
        module, "_FILES", {"train": (TRAIN_IMAGES, TRAIN_LABELS, TRAIN), "test": (TEST_IMAGES, TEST_LABELS, TEST)}
    )
    monkeypatch.setattr(module, "_CALIBRATION", CALIBRATION)
    for image_file, label_file, count in ((TRAIN_IMAGES, TRAIN_LABELS, TRAIN), (TEST_IMAGES, TEST_LABELS, TEST)):
        write(tmp_path / image_file, idx(images(count)))
        write(tmp_path / label_file, idx(labels(count)))
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        fashion_mnist(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message and FOLDER_VARIABLE in message
    return message


def test_the_three_parts(folder: Path) -> None:
    data = fashion_mnist(folder)
    assert data.train is not None and data.name == "fashion"
    assert (len(data.train), len(data.calibration), len(data.test)) == (TRAIN - CALIBRATION, CALIBRATION, TEST)
    for part in (data.train, data.calibration, data.test):
        assert part.inputs.dtype == np.float32 and part.inputs.shape[1:] == (1, 28, 28)
        assert part.labels.dtype == np.int64
    np.testing.assert_array_equal(data.test.inputs[:, 0] * 255, images(TEST))
    assert np.bincount(data.calibration.labels).tolist() == [CALIBRATION // 10] * 10
    numbers = [np.rint(part.inputs[:, 0, 0, 0] * 255).astype(int) for part in (data.train, data.calibration)]
    assert sorted(np.concatenate(numbers)) == list(range(TRAIN))
    for part, found in zip((data.train, data.calibration), numbers, strict=True):
        np.testing.assert_array_equal(part.labels, labels(TRAIN)[found])


def test_the_calibration_part_is_always_the_same(folder: Path) -> None:
    first, second = fashion_mnist(folder), fashion_mnist(folder)
    np.testing.assert_array_equal(first.calibration.inputs, second.calibration.inputs)


def test_the_environment_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    assert len(load_data("fashion").test) == TEST
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder / "nowhere"))
    with pytest.raises(DataError, match=f"got no .*nowhere.*dataset-fashion-mnist, or set {FOLDER_VARIABLE}"):
        load_data("fashion")
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    monkeypatch.setattr(module, "DEBIAN_FOLDER", folder / "debian")
    with pytest.raises(DataError, match="got no .*debian"):
        load_data("fashion")


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert refused(folder).startswith(f"got no {folder / file}, expected a file of Fashion-MNIST; install")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(file=st.sampled_from(FILES), share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(folder: Path, file: str, share: float) -> None:
    whole = (folder / file).read_bytes()
    try:
        (folder / file).write_bytes(whole[: int(share * len(whole))])
        assert file in refused(folder)
    finally:
        (folder / file).write_bytes(whole)


def test_damaged_bytes_are_noticed(folder: Path) -> None:
    path = folder / TRAIN_IMAGES
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert f"cannot read {path}" in refused(folder)
    path.write_bytes(b"no gzip at all")
    assert f"cannot read {path}" in refused(folder)
    path.unlink()
    path.mkdir()
    assert f"cannot read {path}" in refused(folder)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        pytest.param(TRAIN_IMAGES, b"", "begins with bytes '', expected '00 00 08 03'", id="nothing"),
        pytest.param(TRAIN_IMAGES, idx(images(TRAIN), 9), "begins with bytes '00 00 09 03'", id="signed bytes"),
        pytest.param(TRAIN_IMAGES, b"\x01" + idx(images(TRAIN))[1:], "'01 00 08 03'", id="not idx"),
        pytest.param(TRAIN_IMAGES, idx(labels(TRAIN)), "'00 00 08 01'", id="labels"),
        pytest.param(TRAIN_IMAGES, idx(images(TRAIN))[:9], "holds 9 bytes with sizes []", id="half a header"),
        pytest.param(TRAIN_IMAGES, idx(images(TRAIN)[:, :, :27]), "expected 94096 bytes with sizes", id="narrow"),
        pytest.param(TRAIN_IMAGES, idx(images(TRAIN).reshape(-1, 14, 56)), "sizes [120, 14, 56]", id="other sides"),
        pytest.param(TRAIN_IMAGES, idx(images(TRAIN)[:-1]), "sizes [119, 28, 28]", id="an image less"),
        pytest.param(TRAIN_IMAGES, idx(images(TRAIN))[:-1], "94095 bytes", id="a byte less"),
        pytest.param(TEST_LABELS, idx(labels(TEST + 1)), "at least 39 bytes with sizes [31]", id="a label more"),
        pytest.param(TEST_LABELS, idx(labels(TEST)) + b"\x00", "at least 39 bytes with sizes [30]", id="a byte more"),
        pytest.param(
            TEST_LABELS,
            struct.pack(">BBBBI", 0, 0, 8, 1, 2**32 - 1) + bytes(TEST),
            "sizes [4294967295]",
            id="a header that promises more",
        ),
        pytest.param(TEST_LABELS, idx(np.full(TEST, 10, np.uint8)), "has label 10, expected 0 to 9", id="label 10"),
    ],
)
def test_content_that_does_not_fit_is_named(folder: Path, file: str, content: bytes, expected: str) -> None:
    write(folder / file, content)
    message = refused(folder)
    assert file in message and expected in message


def test_a_file_that_unpacks_to_gigabytes_is_not_unpacked(folder: Path) -> None:
    tail = gzip.compress(bytes(64 << 20)) * 32  # gzip members one after the other: 2 GiB
    (folder / TEST_LABELS).write_bytes(gzip.compress(idx(labels(TEST))) + tail)
    assert "at least 39 bytes" in refused(folder)


@pytest.mark.parametrize(
    ("one", "other"), [(TRAIN_IMAGES, TRAIN_LABELS), (TRAIN_LABELS, TEST_LABELS), (TRAIN_IMAGES, TEST_IMAGES)]
)
def test_swapped_files_are_noticed(folder: Path, one: str, other: str) -> None:
    first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
    (folder / one).write_bytes(second)
    (folder / other).write_bytes(first)
    assert one in refused(folder)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_published_images() -> None:
    data = fashion_mnist(DEBIAN_FOLDER)
    assert data.train is not None
    assert (len(data.train), len(data.calibration), len(data.test)) == (56_000, 4_000, 10_000)
    assert np.bincount(data.train.labels).tolist() == [5_600] * 10
    assert np.bincount(data.calibration.labels).tolist() == [400] * 10
    assert np.bincount(data.test.labels).tolist() == [1_000] * 10
    assert data.train.inputs.mean() == pytest.approx(0.286, abs=1e-3)  # the usual normalisation
    assert data.train.inputs.std() == pytest.approx(0.353, abs=1e-3)
