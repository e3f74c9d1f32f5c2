"""Of the ways to set a spiking network the one is taken that does most often what the dense network does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models import spiking
from models.convert import Target
from models.data import digits
from models.errors import DataError
from models.spiking import Candidate, Subject
from tests.models.networks import digits_network

STEPS = 4


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Prepare a classifier of digits with half of the training images."""
    training, _ = digits.load()
    return spiking.prepare(digits_network("average"), training.pictures()[::2].reshape(-1, 1, 8, 8).astype(np.float32))


@pytest.fixture(scope="module")
def found(subject: Subject) -> list[Candidate]:
    """Try all ways to set it for a few steps."""
    return spiking.candidates(subject, STEPS, Target())


def test_the_best_agreement_is_taken(found: list[Candidate]) -> None:
    """No other candidate agrees with the dense network more often, not even by one image."""
    assert spiking.best(found).agreement == max(candidate.agreement for candidate in found)
    assert len({candidate.agreement for candidate in found}) > 1
    for candidate in found:
        others = [dataclasses.replace(each, agreement=candidate.agreement - 0.001) for each in found]
        assert spiking.best([*others, candidate]) is candidate


def test_of_equals_the_one_of_least_energy_is_taken(found: list[Candidate]) -> None:
    """Where all agree with the dense network alike, energy decides, whatever their order is."""
    equals = [
        dataclasses.replace(candidate, agreement=1.0, dynamic_joules=joules)
        for candidate, joules in zip(found, (3e-6, 1e-6, 2e-6, 4e-6), strict=True)
    ]
    assert spiking.best(equals) is spiking.best(equals[::-1]) is equals[1]


def test_the_last_layer_learns_from_counts(found: list[Candidate]) -> None:
    """In a few steps the last layer, fitted to the spikes that arrive, makes up for what rates have lost."""
    agreements = {candidate.step: candidate.agreement for candidate in found}
    assert agreements["last layer"] > agreements["potentials and biases"] > agreements["percentile"]


def test_one_image_is_not_enough() -> None:
    """An image cannot both set a correction and judge it."""
    with pytest.raises(DataError, match="1 image is given, 2 are needed"):
        spiking.prepare(digits_network("average"), np.zeros((1, 1, 8, 8), np.float32))
