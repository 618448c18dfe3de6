import gc
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from robustok.runtime.npz import array_names, checksum, map_array, read_array


@pytest.fixture
def arrays():
    return {"arr_0": np.arange(60, dtype=np.uint8).reshape(5, 4, 3), "mu": np.linspace(0, 1, 7)}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, arrays, save):
    path = tmp_path / "some.npz"
    save(path, **arrays)
    assert set(array_names(path)) == {"arr_0", "mu"}
    for name, array in arrays.items():
        for read in (read_array, map_array):
            back = read(path, name)
            assert back.dtype == array.dtype
            np.testing.assert_array_equal(back, array)
    assert isinstance(map_array(path, "arr_0"), np.memmap)


def test_in_fortran_order(tmp_path):
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.savez(tmp_path / "some.npz", array)
    np.testing.assert_array_equal(map_array(tmp_path / "some.npz", "arr_0"), array)


def test_the_checksum_follows_the_contents(tmp_path, arrays):
    paths = [tmp_path / f"{i}.npz" for i in range(3)]
    np.savez(paths[0], **arrays)
    np.savez_compressed(paths[1], **arrays)
    np.savez(paths[2], **{**arrays, "arr_0": arrays["arr_0"] + 1})
    first, packed, other = (checksum(path, "arr_0") for path in paths)
    assert first == packed != other


def test_refuses_what_is_no_npz(tmp_path, arrays):
    path = tmp_path / "some.npz"
    for read in (read_array, map_array, checksum):
        with pytest.raises(ValueError, match="some.npz cannot be read as an npz file .*No such file"):
            read(path, "mu")
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="some.npz has no array sigma, only arr_0, mu; give a file that holds it"):
        map_array(path, "sigma")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="cannot be read as an npz file .*give a whole file"):
        array_names(path)
    flipped = bytearray(whole)
    flipped[200] ^= 1
    path.write_bytes(bytes(flipped))
    for read in (read_array, map_array):
        with pytest.raises(ValueError, match="cannot be read as an npz file .*CRC"):
            read(path, "arr_0")
    np.savez(path, mu=np.array([{"a": 1}], dtype=object))
    for read in (read_array, map_array):
        with pytest.raises(ValueError, match="Python objects, which may run code"):
            read(path, "mu")


def test_a_header_that_claims_more_than_there_is_asks_for_no_memory(tmp_path: Path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("mu.npy", header.getvalue() + bytes(64))
    with pytest.raises(ValueError, match=r"claims.npz cannot be read as an npz file \(mu is said to be float64"):
        read_array(tmp_path / "claims.npz", "mu")
    with pytest.raises(ValueError, match="claims.npz cannot be read as an npz file"):
        map_array(tmp_path / "claims.npz", "mu")


def test_a_damaged_file_is_closed(tmp_path: Path):
    """Else a warning of Python's own shows up beside the error."""
    np.savez_compressed(tmp_path / "packed.npz", np.zeros((50, 50)))
    np.savez(tmp_path / "plain.npz", np.zeros((50, 50)))
    for name, where in (("packed.npz", 61), ("plain.npz", 26)):
        data = bytearray((tmp_path / name).read_bytes())
        data[where : where + 8] = bytes([255]) * 8
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="cannot be read as an npz file"):
            map_array(tmp_path / name, "arr_0")
        gc.collect()
