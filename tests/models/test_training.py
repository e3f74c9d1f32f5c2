"""Training with PyTorch: what it exports, that it can go on where it stopped, and how pictures are altered."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from hal.snn import reference
from hal.snn.network import Conv, Encoder, Layer, Lif, Network
from models.data.images import Images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.train.job import Job

pytestmark = [
    pytest.mark.needs_host,
    pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed (models/train/requirements.txt)"),
    # PyTorch's exporter calls what PyTorch itself has deprecated.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

SHAPE = (1, 8, 8)


def _bright_side(count: int) -> Images:
    """Give pictures whose class is the half that is brighter."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 128, (count, *SHAPE), dtype=np.uint8)
    labels = np.arange(count) % 2
    pixels[labels == 0, :, :, :4] += 100
    pixels[labels == 1, :, :, 4:] += 100
    return Images(pixels, labels, ("left", "right"))


def _job(epochs: int) -> Job:
    from models.train import job, rates, recipe

    return job.Job(
        name="sides",
        shape=SHAPE,
        convolutions=(rates.Conv(8, 3, 2, 1), rates.Conv(8, 4, 4, 0)),
        levels=8,
        recipe=recipe.Recipe(
            epochs=epochs,
            steps=8,
            learning_rate=0.1,
            weight_decay=1e-4,
            augment=lambda pixels: pixels,
            batch=32,
            spiking_epochs=2,
            spiking_steps=4,
        ),
    )


def test_trained_network_is_exported(tmp_path: Path) -> None:
    """A small network learns; in the ONNX file no normalisation is left, and activations are clipped."""
    import torch

    from models.train import rates, recipe

    job, images = _job(8), _bright_side(256)
    network = job.build(images)
    recipe.fit(network, images, images, job.recipe, tmp_path / "sides.checkpoint")
    assert recipe.accuracy(network, images, 8) > 0.95
    deployed = rates.deployed(network)
    recipe.adapt(deployed, images, images, job.recipe)
    rates.export(deployed, SHAPE, tmp_path / "sides.onnx")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["sides.checkpoint", "sides.onnx"]
    kinds = [node.op_type for node in onnx.load(tmp_path / "sides.onnx").graph.node]
    assert [kind for kind in kinds if kind in {"Conv", "BatchNormalization", "Clip", "Gemm"}] == [
        "Conv", "Clip", "Conv", "Clip", "Gemm",
    ]  # fmt: skip
    with torch.no_grad():
        pictures = torch.from_numpy(images.pixels / np.float32(255))
        rounded, clipped = network.eval()(pictures), deployed(pictures)
    assert float((rounded.argmax(1) == clipped.argmax(1)).float().mean()) > 0.95


def test_spikes_are_those_of_the_daemon() -> None:
    """Neurons of PyTorch fire as those of the engine do: input, convolution and reset by subtraction."""
    import torch

    from models.train import spikes

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 1, 4, 4), dtype=np.uint8)
    bias = reference.encode(Encoder(2040.0, 2040.5), pixels / 255.0)
    weight = 2 * rng.integers(-100, 100, (5, 1, 3, 3)).astype(np.int16)
    neurons = Lif(200, reset="subtract", initial_voltage=200 << 5)
    layers = (
        Layer("in", (1, 4, 4), Lif(4080, reset="subtract", initial_voltage=4080 << 5)),
        Layer("out", (5, 2, 2), neurons, Conv(weight)),
    )
    traces = reference.run(Network(Encoder(2040.0, 2040.5), layers), bias, 9, trace=True).traces
    sent = spikes.encode(torch.tensor(pixels), 9)
    np.testing.assert_array_equal(sent.numpy(), traces["in"].spikes)
    currents = torch.nn.functional.conv2d(sent.flatten(0, 1), torch.tensor(weight / 200.0).float())
    fired = spikes.fire(currents.unflatten(0, (9, 3)))
    assert float((fired.numpy() == traces["out"].spikes).mean()) > 0.98


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """What is trained in two parts has the weights of what is trained at once."""
    import torch

    from models.train import recipe

    job, images = _job(2), _bright_side(64)
    whole, first = job.build(images), None
    recipe.fit(whole, images, images, job.recipe, tmp_path / "whole")
    first = job.build(images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "_save", _stop_after(recipe._save))
        with pytest.raises(KeyboardInterrupt):
            recipe.fit(first, images, images, job.recipe, tmp_path / "parts")
    second = job.build(images)
    recipe.fit(second, images, images, job.recipe, tmp_path / "parts")
    for expected, actual in zip(whole.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(actual, expected)


def _stop_after(save: Callable[..., None]) -> Callable[..., None]:
    def stop(*arguments: object) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    return stop


def test_shift_and_mirror_moves_pixels() -> None:
    """Each picture is a window of itself between black borders, mirrored or not."""
    import torch

    from models.train import augment

    torch.manual_seed(0)
    pixels = torch.arange(1, 13, dtype=torch.uint8).reshape(1, 1, 3, 4).repeat(200, 1, 1, 1)
    padded = np.pad(np.asarray(pixels[0, 0]), 1)
    windows = [padded[y : y + 3, x : x + 4] for y in range(3) for x in range(3)]
    possible = {window.tobytes() for each in windows for window in (each, np.pad(each[:, ::-1], 0))}
    altered = {np.asarray(picture[0]).tobytes() for picture in augment.shift_and_mirror(pixels, 1)}
    mirrored = {np.ascontiguousarray(window[:, ::-1]).tobytes() for window in windows}
    assert altered <= possible | mirrored
    assert len(altered) == 18


def test_distort_without_reach_changes_nothing() -> None:
    """With nothing to alter the picture stays; with a mirror, half of them are turned round."""
    import torch

    from models.train import augment

    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (50, 1, 6, 6), dtype=torch.uint8)
    same = augment.distort(pixels, degrees=0, scale=0, shift=0)
    torch.testing.assert_close(same, pixels.float())
    turned = augment.distort(pixels, degrees=0, scale=0, shift=0, mirror=True)
    straight = (turned == pixels).flatten(1).all(1)
    flipped = (turned == pixels.flip(3)).flatten(1).all(1)
    assert bool((straight | flipped).all())
    assert 10 < int(straight.sum()) < 40
