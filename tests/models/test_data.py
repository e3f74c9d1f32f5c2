"""Data sets are read from the files that users have, and damaged ones are refused by name."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.data import calibration, folder, idx
from models.errors import DataError


def _idx(array: np.ndarray[Any, Any], kind: int = 8) -> bytes:
    extents = b"".join(extent.to_bytes(4) for extent in array.shape)
    return bytes([0, 0, kind, array.ndim]) + extents + array.tobytes()


def _picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (6, 4), kind: str = "PNG") -> bytes:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def _write_idx(path: Path, prefix: str = "train", count: int = 5) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 3, 4), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8)
    (path / f"{prefix}-images-idx3-ubyte").write_bytes(_idx(pixels))
    (path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(labels)))
    (path / f"{prefix}-labels-idx1-ubyte").write_bytes(_idx(labels))
    return pixels, labels


def _write_packed(path: Path, **changes: Any) -> None:
    files = [_picture(seed) for seed in range(3)]
    arrays: dict[str, Any] = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.array([0, 2, 1], np.uint8),
        "signer": np.array([7, 7, 9], np.int16),
    }
    arrays.update(changes)
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_people_are_held_out_whole(tmp_path: Path) -> None:
    """Where a data set says who is in the picture, and has no test images, nobody is on both sides."""
    _write_packed(tmp_path / "train.npz", signer=np.array([3, 10, 10], np.int16))
    found = calibration.load(tmp_path, (3, 4, 6))
    assert found.training.signer is not None
    assert found.held_out.signer is not None
    assert (found.training.signer.tolist(), found.held_out.signer.tolist()) == ([3], [10, 10])
    assert found.held_out_note == "2 of 3 images, those whose signer divides by 5"


@pytest.mark.parametrize("signer", [5, 7])
def test_one_person_cannot_be_split(tmp_path: Path, signer: int) -> None:
    """With nobody left to train on, or to hold out, the data set is refused."""
    _write_packed(tmp_path / "train.npz", signer=np.full(3, signer, np.int16))
    with pytest.raises(DataError, match="3 images are too few to hold some out"):
        calibration.load(tmp_path, (3, 4, 6))


def test_idx_files(tmp_path: Path) -> None:
    """The four files of MNIST, compressed or not, give one channel and as many classes as there are labels."""
    pixels, labels = _write_idx(tmp_path)
    images = folder.load(tmp_path)
    np.testing.assert_array_equal(images.pixels, pixels[:, np.newaxis])
    np.testing.assert_array_equal(images.labels, labels)
    assert images.names == ("0", "1", "2", "3", "4")
    assert images.shape == (1, 3, 4)


@pytest.mark.parametrize("present", [("t10k",), ("t10k", "test-even")])
def test_test_split_is_test_or_else_t10k(tmp_path: Path, present: tuple[str, ...]) -> None:
    """A test set named `t10k` is found, one named `test` goes first."""
    written = [_write_idx(tmp_path, prefix, count) for count, prefix in enumerate(present, start=2)]
    np.testing.assert_array_equal(folder.load(tmp_path, "test").labels, written[-1][1])


def test_two_test_sets_are_ambiguous(tmp_path: Path) -> None:
    """Neither of two test sets is taken silently."""
    _write_idx(tmp_path, "test-even")
    _write_idx(tmp_path, "test-odd")
    with pytest.raises(DataError, match="test-even-images-idx3-ubyte and test-odd-images-idx3-ubyte both look like"):
        folder.load(tmp_path, "test")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x1f\x8b", "does not begin with two zero bytes"),
        (_idx(np.zeros(3, np.uint8), kind=0x0D), "type 0x0d, only unsigned bytes"),
        (b"\0\0\x08\x03\0\0", "ends within its 3 extents"),
        (_idx(np.zeros((2, 2), np.uint8))[:-1], r"has 3 numbers, its extents \[2, 2\] need 4"),
    ],
)
def test_damaged_idx(tmp_path: Path, content: bytes, reason: str) -> None:
    """What is wrong with an IDX file is said."""
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        idx.read_array(path)


@pytest.mark.parametrize("cut", [10, -6])
def test_damaged_compression(tmp_path: Path, cut: int) -> None:
    """A compressed file that ends early is refused."""
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(_idx(np.zeros(100, np.uint8)))[:cut])
    with pytest.raises(DataError, match="damaged or not compressed"):
        idx.read_array(path)


def test_labels_that_do_not_match(tmp_path: Path) -> None:
    """Labels for another number of images are refused with both figures."""
    _write_idx(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(_idx(np.zeros(4, np.uint8)))
    with pytest.raises(DataError, match="4 labels for 5 images"):
        folder.load(tmp_path)


def test_images_without_labels(tmp_path: Path) -> None:
    """The missing file is named."""
    (tmp_path / "train-images-idx3-ubyte").write_bytes(_idx(np.zeros((1, 2, 2), np.uint8)))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte is not"):
        folder.load(tmp_path)


def _write_cifar(path: Path, name: str, count: int) -> np.ndarray[Any, Any]:
    data = np.random.default_rng(count).integers(0, 256, (count, 3072), dtype=np.uint8)
    path.mkdir(exist_ok=True)
    content = {b"data": data, b"labels": [index % 10 for index in range(count)]}
    (path / name).write_bytes(pickle.dumps(content, protocol=2))
    return data


def test_cifar_batches(tmp_path: Path) -> None:
    """The batches are joined in their order, also from the folder that the archive unpacks to."""
    inner = tmp_path / "cifar-10-batches-py"
    data = np.concatenate([_write_cifar(inner, f"data_batch_{index}", index + 1) for index in (1, 2)])
    _write_cifar(inner, "test_batch", 4)
    images = folder.load(tmp_path)
    np.testing.assert_array_equal(images.pixels, data.reshape(-1, 3, 32, 32))
    assert images.labels.tolist() == [0, 1, 0, 1, 2]
    assert images.names[3] == "cat"
    assert len(folder.load(tmp_path, "test")) == 4


def test_pickle_that_runs_a_program(tmp_path: Path) -> None:
    """A batch that asks for anything but arrays is refused before it runs."""

    class Program:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path}/ran",)

    content = pickle.dumps({b"data": Program()})
    assert "system" in {argument for _, argument, _ in pickletools.genops(content)}
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match=r"asks for posix\.system"):
        folder.load(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({b"labels": [0]}, "1 labels for 2 images"),
        ({b"labels": [0, 10]}, "labels from 0 to 10, there are 10 classes"),
        ({b"labels": "ab"}, "not a list of whole numbers"),
        ({b"data": np.zeros((2, 3), np.uint8)}, r"has data uint8 \[2, 3\]"),
    ],
)
def test_wrong_cifar_batch(tmp_path: Path, changes: dict[Any, Any], reason: str) -> None:
    """A batch whose content does not fit is refused."""
    content = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1]}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({**content, **changes}))
    with pytest.raises(DataError, match=reason):
        folder.load(tmp_path)


def test_packed_images(tmp_path: Path) -> None:
    """Packed files are decoded one by one, with who signs."""
    _write_packed(tmp_path / "train.npz")
    images = folder.load(tmp_path)
    expected = np.asarray(Image.open(io.BytesIO(_picture(1)))).transpose(2, 0, 1)
    np.testing.assert_array_equal(images.pixels[1], expected)
    assert images.labels.tolist() == [0, 2, 1]
    assert images.signer is not None
    assert images.signer.tolist() == [7, 7, 9]
    chosen = images.take(images.signer == 7)
    assert chosen.labels.tolist() == [0, 2]
    assert chosen.pictures().max() <= 1.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": None}, "labels is missing"),
        ({"labels": np.zeros(2, np.uint8)}, "2 labels for 3 images"),
        ({"labels": np.zeros(3)}, "labels is not a list of whole numbers"),
        ({"offsets": np.array([0, 5, 9])}, "offsets do not lead from 0 to"),
        ({"signer": np.zeros(4, np.int16)}, "signer has 4 entries for 3 images"),
        ({"jpeg": np.zeros(9), "offsets": np.array([0, 9])}, "jpeg is float64"),
        ({"jpeg": np.zeros(9, np.uint8), "offsets": np.array([0, 3, 6, 9])}, "image 0: is not a readable picture"),
        ({"labels": np.array([object()] * 3)}, "damaged or no .npz"),
    ],
)
def test_wrong_packed_file(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    """A packed file whose arrays do not fit is refused, and no pickled object is loaded."""
    _write_packed(tmp_path / "train.npz", **changes)
    with pytest.raises(DataError, match=reason):
        folder.load(tmp_path)


def test_folder_of_pictures(tmp_path: Path) -> None:
    """Folders are classes by name; pictures are resized as the daemon does it."""
    for split, count in (("train", 2), ("test", 1)):
        for name in ("dog", "cat"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                (tmp_path / split / name / f"{index}.png").write_bytes(_picture(index, size=(6 + index, 4)))
    images = folder.load(tmp_path, "train", shape=(1, 3, 3))
    assert images.names == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 1, 1]
    grey = Image.open(io.BytesIO(_picture(1, size=(7, 4)))).convert("L").resize((3, 3), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images.pixels[1, 0], np.asarray(grey))
    assert folder.load(tmp_path, "test").shape == (3, 4, 6)
    with pytest.raises(DataError, match=r"cat/1.png: is \[3, 4, 7\].*give a shape"):
        folder.load(tmp_path)


def test_classes_without_a_split_are_for_training(tmp_path: Path) -> None:
    """A folder that holds the classes themselves has no test images."""
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "a.jpg").write_bytes(_picture(0, mode="L", kind="JPEG"))
    images = folder.load(tmp_path)
    assert (images.names, images.shape) == (("zero",), (1, 4, 6))
    with pytest.raises(DataError, match="holds no test images"):
        folder.load(tmp_path, "test")


def test_arrays_are_resized_like_files(tmp_path: Path) -> None:
    """IDX images become the shape that a model takes, colours included."""
    _write_idx(tmp_path)
    images = folder.load(tmp_path, shape=(3, 6, 8))
    assert images.shape == (3, 6, 8)
    np.testing.assert_array_equal(images.pixels[:, 0], images.pixels[:, 2])


def test_nothing_there(tmp_path: Path) -> None:
    """A folder without images says what was looked for; a missing one that it is none."""
    with pytest.raises(DataError, match="IDX files, CIFAR-10 batches"):
        folder.load(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        folder.load(tmp_path / "missing")


@pytest.mark.parametrize(
    ("name", "split", "count", "shape"),
    [
        ("mnist", "train", 60_000, (1, 28, 28)),
        ("mnist", "test", 5_000, (1, 28, 28)),
        ("cifar10", "test", 5_000, (3, 32, 32)),
        ("asl-digits", "train", 1_682, (3, 64, 64)),
    ],
)
def test_real_data(
    data_folder: Path, name: str, split: folder.Split, count: int, shape: tuple[int, int, int]
) -> None:  # fmt: skip
    """The data sets that the zoo is trained on have their known sizes, all ten classes about equally often."""
    images = folder.load(data_folder / name, split, shape)
    assert len(images) == count
    assert images.shape == shape
    shares = np.bincount(images.labels, minlength=10) / count
    assert len(shares) == 10
    assert 0.08 < shares.min() <= shares.max() < 0.12
    assert (images.signer is not None) == (name == "asl-digits")


def test_one_photo_is_larger(data_folder: Path) -> None:
    """One of the photos of hand signs was never scaled down: without a shape it is named."""
    with pytest.raises(DataError, match=r"image 1324: is \[3, 3024, 3024\], the first is \[3, 100, 100\]"):
        folder.load(data_folder / "asl-digits")
