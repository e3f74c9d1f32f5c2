"""Tune a spiking network: two steps, then a search.

(1) Threshold and initial-potential calibration; (2) minimisation of the time steps under an accuracy constraint; then
a multi-objective search over percentile, thresholds, potential, steps, early exit and bits, for accuracy, latency and
dynamic energy on the Loihi model. The study that this project follows (IGSC 2022, "Energy-Efficient Deployment of
Machine Learning Workloads on Neuromorphic Hardware") reports two steps without its abstract naming them: that they are
these two is this project's choice. Settings are chosen on calibration images, figures are of the held-out ones.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from models import calibrate, convert, measure, spiking
from models.convert import Setting, Target
from models.errors import ConversionError
from models.figures import Chip, Figures
from models.spiking import JUDGING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from hal.snn.network import Network
    from models.convert import Reset
    from models.data.images import Images
    from models.spiking import Candidate, Subject

# What a layer is normalised by: what calibration found, or a percentile; and how far from there the search goes.
CALIBRATED = "calibrated"
NORMALISATIONS = (CALIBRATED, "99", "99.5", "99.9", "99.99")
FACTORS = (0.6, 1.4)
POTENTIAL_SHIFTS = (-0.2, 0.2)
FEWEST_BITS = 5
STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
# Shares of the images that end at the first quarter of the steps; 0 is no early exit.
SHARES = (0.0, 0.98)
STUDY = "tune"
SEED = 0
# How far, in points of accuracy, the untuned network may stay below the tuned one that it is compared with.
COMPARABLE_POINTS = 0.3


@dataclass(frozen=True)
class Limits:
    """What a tuned network must keep: at most `max_loss` points below the dense one, or at least `min_accuracy`.

    `longest` is the highest number of time steps.
    """

    max_loss: float = 0.3
    min_accuracy: float | None = None
    longest: int = 16
    reset: Reset = "subtract"


@dataclass(frozen=True)
class Way:
    """A network and how it runs: `steps`, and with a `margin` above zero until its best score leads by that much."""

    name: str
    network: Network
    steps: int
    margin: int = 0


class Tuner:
    """Tries settings on those calibration images of `subject` that judge; `labels` are those of all of them."""

    def __init__(self, subject: Subject, labels: NDArray[np.int64], limits: Limits) -> None:
        self.subject = subject
        self.pictures = subject.values[JUDGING]
        self.labels = labels[JUDGING]
        self.limits = limits
        dense = measure.accuracy(subject.wanted[-1][JUDGING].reshape(len(self.labels), -1), self.labels)
        self.floor = dense - limits.max_loss / 100 if limits.min_accuracy is None else limits.min_accuracy
        self.best_seen = (0.0, 0)
        self._normalised: dict[float, list[Setting]] = {}
        self._calibrated: dict[int, Candidate] = {}

    def normalised(self, percentile: float) -> list[Setting]:
        """Give the settings of a percentile, which are found once."""
        if percentile not in self._normalised:
            self._normalised[percentile] = calibrate.percentiles(
                self.subject.without_max, self.subject.given, percentile
            )
        return self._normalised[percentile]

    def network(self, settings: Sequence[Setting], steps: int, bits: int) -> Network:
        """Convert with these settings, the last layer fitted to what arrives there in so many steps."""
        target = Target(self.limits.reset, bits)
        chain = spiking.with_readout(self.subject, self.subject.without_max, settings, steps, target)
        return convert.convert(chain, settings, target)

    def figures(self, way: Way) -> Figures:
        """Run the calibration images."""
        bench = measure.Bench(way.network)
        outcome = bench.run(bench.encode(self.pictures), way.steps, way.margin)
        figures = Chip(way.network).figures(outcome, self.labels)
        self.best_seen = max(self.best_seen, (figures.accuracy, -way.steps))
        return figures

    def untuned(self) -> Network:
        """Convert by percentile alone, all potentials at zero."""
        settings = [dataclasses.replace(each, potential=0.0) for each in self.normalised(calibrate.PERCENTILE)]
        return convert.convert(self.subject.without_max, settings, Target(self.limits.reset))

    def calibrated(self, steps: int) -> Candidate:
        """Do step 1: calibrate thresholds, potentials and biases for so many time steps, as far as each helps.

        Between the counts of `STEPS` the next higher one's calibration is taken.
        """
        steps = next((count for count in STEPS if count >= steps), steps)
        if steps not in self._calibrated:
            self._calibrated[steps] = spiking.best(spiking.candidates(self.subject, steps, Target(self.limits.reset)))
        return self._calibrated[steps]

    def fewest_steps(self) -> Way:
        """Do step 2: find the fewest time steps that, calibrated for them, keep the accuracy.

        Raises `ConversionError` where none do.
        """
        for steps in sorted({*(count for count in STEPS if count <= self.limits.longest), self.limits.longest}):
            way = Way("fewest time steps", self.calibrated(steps).network, steps)
            if self.figures(way).accuracy >= self.floor:
                return way
        raise self.unreachable()

    def unreachable(self) -> ConversionError:
        """Say what the best was that was found."""
        accuracy, steps = self.best_seen
        return ConversionError(
            "accuracy",
            f"{100 * self.floor:.2f} % on the calibration images is not reached; the best found is "
            f"{100 * accuracy:.2f} % at {-steps} steps",
        )

    def suggested(self, trial: optuna.trial.BaseTrial) -> Way:
        """Build what a trial asks for."""
        percentile = trial.suggest_categorical("percentile", NORMALISATIONS)
        factor = trial.suggest_float("threshold_factor", *FACTORS)
        shift = trial.suggest_float("potential_shift", *POTENTIAL_SHIFTS)
        steps = trial.suggest_int("steps", 1, self.limits.longest)
        share = trial.suggest_float("exit_share", *SHARES)
        bits = trial.suggest_int("bits", FEWEST_BITS, convert.WEIGHT_BITS)
        calibrated = self.calibrated(steps).settings
        normal = calibrated if percentile == CALIBRATED else self.normalised(float(percentile))
        settings = [
            dataclasses.replace(base, scale=each.scale * factor, potential=base.potential + shift)
            for base, each in zip(calibrated, normal, strict=True)
        ]
        network = self.network(settings, steps, bits)
        return Way("search", network, steps, self.margin(network, steps, share))

    def margin(self, network: Network, steps: int, share: float) -> int:
        """Give the margin with which about that share of the images ends after a quarter of the steps."""
        if steps == 1 or share <= 0:
            return 0
        return max(0, measure.lead(network, self.pictures, max(1, steps // 4), share))


class Search:
    """The search, kept in a file, so that it goes on where it was interrupted."""

    def __init__(self, tuner: Tuner, path: Path, identity: str) -> None:
        self.tuner = tuner
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            # The journal is new in Optuna and says so.
            warnings.simplefilter("ignore")
            storage = JournalStorage(JournalFileBackend(str(path)))
            self.study = optuna.create_study(
                study_name=STUDY, storage=storage, directions=["maximize", "minimize", "minimize"], load_if_exists=True
            )
        known = self.study.user_attrs.get("identity", identity)
        if known != identity:
            raise ConversionError(
                str(path), "holds the search of another network, data set or limit; name another folder"
            )
        self.study.set_user_attr("identity", identity)
        self.study.sampler = optuna.samplers.TPESampler(seed=SEED + len(self.study.trials))

    @property
    def done(self) -> int:
        """Count the trials that were completed, in this run and those before it."""
        return len(self.complete())

    def complete(self) -> list[optuna.trial.FrozenTrial]:
        """Give the completed trials."""
        return [trial for trial in self.study.trials if trial.state is optuna.trial.TrialState.COMPLETE]

    def start_from(self, steps: int) -> None:
        """Begin with what the two steps found, without early exit and with it."""
        if self.study.trials:
            return
        for share, factor in ((0.0, 1.0), (0.5, 1.0), (0.9, 1.0), (0.5, 1.2), (0.9, 1.2)):
            start = {
                "percentile": CALIBRATED, "threshold_factor": factor, "potential_shift": 0.0,
                "steps": steps, "exit_share": share, "bits": convert.WEIGHT_BITS,
            }  # fmt: skip
            self.study.enqueue_trial(start)

    def run(self, trials: int, advance: Callable[[], Any]) -> None:
        """Complete as many trials as are missing."""

        def objective(trial: optuna.Trial) -> tuple[float, float, float]:
            way = self.tuner.suggested(trial)
            figures = self.tuner.figures(way)
            trial.set_user_attr("figures", dataclasses.asdict(figures))
            advance()
            return figures.accuracy, figures.latency_seconds, figures.dynamic_joules

        missing = trials - self.done
        if missing > 0:
            self.study.optimize(objective, n_trials=missing, catch=(ConversionError,))

    def cheapest(self) -> Way | None:
        """Give the way of least dynamic energy that keeps the accuracy."""
        keeping = [trial for trial in self.complete() if trial.values[0] >= self.tuner.floor]
        if not keeping:
            return None
        best = min(keeping, key=lambda trial: (trial.values[2], trial.number))
        return self.tuner.suggested(optuna.trial.FixedTrial(best.params))

    def front(self) -> list[optuna.trial.FrozenTrial]:
        """Give the trials that no other beats in accuracy, latency and energy at once."""
        return sorted(self.study.best_trials, key=lambda trial: trial.values[2])


def comparable(network: Network, held_out: Images, accuracy: float, longest: int) -> tuple[int, Figures]:
    """Give the fewest steps at which a network comes within `COMPARABLE_POINTS` of an accuracy, or its most accurate.

    Its figures there are of the held-out images.
    """
    bench, chip = measure.Bench(network), Chip(network)
    bias = bench.encode(held_out.pictures())
    found = []
    for steps in (count for count in STEPS if count <= longest):
        figures = chip.figures(bench.run(bias, steps), held_out.labels)
        if figures.accuracy >= accuracy - COMPARABLE_POINTS / 100:
            return steps, figures
        found.append((steps, figures))
    return max(found, key=lambda pair: pair[1].accuracy)
