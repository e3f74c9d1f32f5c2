"""The identity: on any history, what the rows got and what is left add up to what the meter counted, exactly."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.attribution import Account, Attribution, CpuShare, Final, Row, attribute
from hal.device import Provenance
from hal.energy.epochs import Epoch, Epochs, Span
from hal.energy.meter import Fault, MeterBoundary, MeterError, Reading
from tests.energy.trees import MILLISECOND, SECOND, Time

UPDATE = 10 * MILLISECOND
# So large that a wrong reading does not look right by chance.
RANGE = 1 << 62


class Counter62:
    """A counter of a device whose joules are known: it wraps, is reset, jumps for one reading, fails."""

    name = "counter"
    boundary = MeterBoundary.DEVICE
    provenance = Provenance.MEASURED
    watts_limit = 5.0
    update_nanoseconds = UPDATE
    relative_uncertainty = 0.02
    inside: frozenset[str] = frozenset()

    def __init__(self, time: Time, random: Random) -> None:
        self.range_nanojoules: int | None = random.choice([None, RANGE])
        self.true_nanojoules = 0
        self._time = time
        self._random = random
        self._offset = RANGE - random.choice([random.randrange(10 * SECOND), random.randrange(RANGE)])

    def spend(self, nanojoules: int) -> None:
        """Let the device draw energy."""
        self.true_nanojoules += nanojoules

    def reset(self) -> None:
        """Begin at zero again, but not so near to the range that it could not be told from a wrap."""
        if (self.true_nanojoules + self._offset) % RANGE < RANGE - 100 * SECOND:
            self._offset = -self.true_nanojoules

    def read(self) -> Reading:
        """Read, or fail once in a while."""
        fate = self._random.random()
        if fate < 0.05:
            raise MeterError(self.name, Fault.IO, "Input/output error")
        value = self._random.randrange(RANGE) if fate < 0.07 else self.true_nanojoules + self._offset
        return Reading(self._time.now, value % self.range_nanojoules if self.range_nanojoules else value)


class History:
    """A random history: rows that overlap, are aborted, run across epochs, and a meter that misbehaves."""

    def __init__(self, seed: int) -> None:
        self.random, self.time = Random(seed), Time()  # noqa: S311
        self.meter = Counter62(self.time, self.random)
        self.epochs = Epochs(self.meter, self.time, pause_nanoseconds=SECOND, patience_nanoseconds=SECOND // 2)
        self.account = Account(
            update_nanoseconds=UPDATE, relative_uncertainty=0.02, model_provenance=Provenance.MODELLED
        )
        self.spans: list[Span] = []
        self.attributions: list[Attribution] = []
        self.finals: list[Final] = []
        self.rows: list[Row] = []
        self.running: list[Row] = []

    def run(self) -> None:
        """Let 5 to 30 things happen, then let everything come to its end."""
        for _ in range(self.random.randrange(5, 30)):
            self._happen()
        while self.running:
            self._end(self.running[-1])
        for _ in range(25):
            if len(self.finals) == len(self.rows):
                break
            self.time.now += 50 * MILLISECOND
            self._close()

    def _happen(self) -> None:
        fate = self.random.random()
        elapsed = self.random.randrange(2 * SECOND if fate < 0.03 else 150 * MILLISECOND)
        self.time.now += elapsed
        self.meter.spend(self.random.randrange(4 * elapsed + 1))
        if fate < 0.06:
            self.meter.reset()
        elif fate < 0.35:
            self._begin()
        elif fate < 0.6 and self.running:
            self._end(self.random.choice(self.running))
        else:
            self._close()

    def _begin(self) -> None:
        random = self.random
        energy = random.choice([0, random.randrange(SECOND)])
        row = Row(
            len(self.rows), self.time.now, None, energy, energy // 8, random.randrange(1, SECOND),
            random.randrange(1, 5), random.random() < 0.1,
        )  # fmt: skip
        self.rows.append(row)
        self.running.append(row)
        self.account.begin(row)

    def _end(self, row: Row) -> None:
        self.running.remove(row)
        figure = self.random.choice([None, self.random.randrange(SECOND)])
        self.account.end(row.row_id, self.time.now, figure, figure and figure // 10)

    def _close(self) -> None:
        for span in self.epochs.advance():
            cpu = self.random.choice([None, CpuShare(self.random.randrange(100), self.random.randrange(100))])
            static = self.random.randrange(2 * (span.ended - span.began))
            attribution, finals = self.account.close(span, static, cpu)
            self.spans.append(span)
            self.attributions.append(attribution)
            self.finals += finals


@settings(max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 64))
def test_identity_on_random_histories(seed: int) -> None:
    """Nothing is lost, nothing is invented, every row is final once, spans leave no hole."""
    history = History(seed)
    history.run()
    spans, finals, buckets = history.spans, history.finals, history.account.buckets
    assert all(earlier.ended == later.began for earlier, later in pairwise(spans))
    assert all(span.began < span.ended for span in spans)
    dynamic, static = Counter[int](), Counter[int]()
    for attribution in history.attributions:
        epoch = attribution.epoch
        left = attribution.idle_nanojoules, attribution.background_nanojoules, attribution.unattributed_nanojoules
        given_away = [part for portion in attribution.portions for part in portion[1:3]]
        assert sum(given_away) + sum(left) == epoch.nanojoules
        assert min(*left, *given_away, 0) == 0
        for portion in attribution.portions:
            dynamic[portion.row.row_id] += portion.dynamic_nanojoules
            static[portion.row.row_id] += portion.static_nanojoules
    assert sorted(final.row_id for final in finals) == [row.row_id for row in history.rows]
    for final in finals:
        assert (final.dynamic_nanojoules, final.static_nanojoules) == (dynamic[final.row_id], static[final.row_id])
        assert final.uncertainty_nanojoules >= 0
    measured = sum(span.nanojoules for span in spans if isinstance(span, Epoch))
    assert sum(buckets.get(Provenance.MEASURED, ())) == measured <= history.meter.true_nanojoules
    modelled = sum(attribution.epoch.nanojoules for attribution in history.attributions) - measured
    assert sum(buckets.get(Provenance.MODELLED, ())) == modelled
    requests = sum(final.dynamic_nanojoules + final.static_nanojoules for final in finals if not final.maintenance)
    assert requests == sum(bucket.requests_dynamic + bucket.requests_static for bucket in buckets.values())


@settings(max_examples=500, deadline=None, database=None)
@given(st.integers(0, 1 << 64))
def test_an_epoch_split_in_two_holds_the_same_joules(seed: int) -> None:
    """Another reading in the middle moves joules between rows at most, never out of the sum."""
    random = Random(seed)  # noqa: S311
    cut, ended = random.randrange(1, SECOND), SECOND
    first, second = random.randrange(1 << 40), random.randrange(1 << 40)
    rows = [
        Row(number, random.randrange(SECOND), random.choice([None, random.randrange(2 * SECOND)]), 1000, 10, 5)
        for number in range(random.randrange(6))
    ]

    def total(attribution: Attribution) -> int:
        return sum(attribution[2:]) + sum(sum(portion[1:3]) for portion in attribution.portions)

    halves = [Epoch(0, cut, first, Provenance.MEASURED), Epoch(cut, ended, second, Provenance.MEASURED)]
    whole = Epoch(0, ended, first + second, Provenance.MEASURED)
    split = sum(total(attribute(half, rows, random.randrange(1 << 40), update_nanoseconds=UPDATE)) for half in halves)
    assert (
        split == total(attribute(whole, rows, random.randrange(1 << 40), update_nanoseconds=UPDATE)) == first + second
    )
