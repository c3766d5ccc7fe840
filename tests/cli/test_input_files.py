from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptrt.cli.errors import CommandError
from adaptrt.cli.input_files import read_inputs
from adaptrt.runtime.bundle.bundle_file import TensorSpec

X = TensorSpec("x", "float32", ["batch", 2])
Y = TensorSpec("y", "float32", ["batch"])
ARRAY = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_npy(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    inputs = read_inputs([tmp_path / "a.npy"], [X])
    assert inputs.keys() == {"x"}
    np.testing.assert_array_equal(inputs["x"], ARRAY)


@pytest.mark.parametrize("name", ["x", "anything"])
def test_npz_with_one_array(tmp_path, name):
    np.savez(tmp_path / "a.npz", **{name: ARRAY})
    np.testing.assert_array_equal(read_inputs([tmp_path / "a.npz"], [X])["x"], ARRAY)


def test_npz_by_name_leaves_others_alone(tmp_path):
    np.savez(tmp_path / "a.npz", x=ARRAY, y=ARRAY[:, 0], labels=np.zeros(3))
    inputs = read_inputs([tmp_path / "a.npz"], [X, Y])
    assert inputs.keys() == {"x", "y"}
    np.testing.assert_array_equal(inputs["y"], [0, 2, 4])


def test_nothing_is_cast(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY.astype(np.float64))
    assert read_inputs([tmp_path / "a.npy"], [X])["x"].dtype == np.float64


def test_wrong_names(tmp_path):
    np.savez(tmp_path / "a.npz", p=ARRAY, q=ARRAY)
    with pytest.raises(CommandError, match=r"holds 'p', 'q', expected 'x'"):
        read_inputs([tmp_path / "a.npz"], [X])
    np.save(tmp_path / "a.npy", ARRAY)
    with pytest.raises(CommandError, match=r"expected 'x', 'y'"):
        read_inputs([tmp_path / "a.npy"], [X, Y])
    np.savez(tmp_path / "none.npz")
    with pytest.raises(CommandError, match="expected 'x'"):
        read_inputs([tmp_path / "none.npz"], [X])


def test_files_that_do_not_go_together(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    with pytest.raises(CommandError, match="one array"):
        read_inputs([tmp_path / "b.png", tmp_path / "a.npy"], [X])
    with pytest.raises(CommandError, match=r"expected a \.npz file"):
        read_inputs([tmp_path / "b.png"], [X])
    with pytest.raises(CommandError, match="no file"):
        read_inputs([tmp_path / "b.npy"], [X])


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(CommandError, match=r"numpy\.save"):
        read_inputs([tmp_path / "a.npy"], [X])


def _encoded(kind):
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, ARRAY)
    elif kind == "npz":
        np.savez(buffer, x=ARRAY)
    else:
        np.savez_compressed(buffer, x=ARRAY)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(tmp_path, kind, data):
    content = bytearray(_encoded(kind))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"a.{kind[:3].replace('com', 'npz')}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert isinstance(read_inputs([path], [X])["x"], np.ndarray)
    except CommandError as error:
        assert str(path) in str(error)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_files_of_anything(tmp_path, content):
    for name in ("a.npy", "a.npz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CommandError):
            read_inputs([tmp_path / name], [X])
