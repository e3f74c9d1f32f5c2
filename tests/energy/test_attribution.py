"""Who gets the joules of an epoch, case by case; tests/energy/test_identity.py holds the identity at random."""

from __future__ import annotations

from daemon.attribution import (
    Account,
    Attribution,
    Buckets,
    CpuShare,
    Final,
    Row,
    apportion,
    attribute,
    combine,
    static_nanojoules,
)
from hal.device import Provenance, weakest
from hal.energy.epochs import Epoch, Gap
from tests.energy.trees import MILLISECOND, SECOND

MEASURED, MODELLED, SIMULATED = Provenance.MEASURED, Provenance.MODELLED, Provenance.SIMULATED
UPDATE = 100 * MILLISECOND


def row(
    number: int, started: float, ended: float | None, joules: float = 0.1, *, images: int = 1, maintenance: bool = False
) -> Row:
    """Make a row of which the model says 0.1 J, give or take a tenth of it, in a second where it has not ended yet."""
    nanojoules = round(joules * SECOND)
    end = None if ended is None else round(ended * SECOND)
    return Row(number, round(started * SECOND), end, nanojoules, nanojoules // 10, SECOND, images, maintenance)


def second(joules: float, provenance: Provenance = MEASURED, began: int = 0) -> Epoch:
    """Make an epoch of one second."""
    return Epoch(began * SECOND, (began + 1) * SECOND, round(joules * SECOND), provenance)


def shares(attribution: Attribution) -> dict[int, tuple[float, float]]:
    """Give the dynamic and static joules of each row."""
    return {
        portion.row.row_id: (portion.dynamic_nanojoules / SECOND, portion.static_nanojoules / SECOND)
        for portion in attribution.portions
    }


def open_account(*rows: Row, relative: float = 0.0) -> Account:
    """Open an account with rows."""
    account = Account(update_nanoseconds=UPDATE, relative_uncertainty=relative, model_provenance=SIMULATED)
    for each in rows:
        account.begin(each)
    return account


def test_apportioning_adds_up_by_largest_remainder() -> None:
    """The largest remainders get the odd ones, the first of equals first."""
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(10, [0, 5, 2]) == [0, 7, 3]
    assert apportion(0, [3, 4]) == [0, 0]


def test_static_power_is_integrated_over_its_states() -> None:
    """Half a second at 1 W and half at 3 W, of which only what lies in the epoch counts."""
    states = [(-SECOND, 1.0), (SECOND // 2, 3.0)]
    assert static_nanojoules(states, 0, SECOND) == 2 * SECOND
    assert static_nanojoules(states, -SECOND // 2, 0) == SECOND // 2
    assert static_nanojoules(states, 2 * SECOND, 3 * SECOND) == 3 * SECOND


def test_dynamic_joules_go_by_overlap_times_power() -> None:
    """Two rows as long, one of three times the modelled power: 0.2 J and 0.6 J of the 0.8 J above static."""
    attribution = attribute(
        second(1.3), [row(1, 0, 0.5, 0.1), row(2, 0.5, 1, 0.3)], SECOND // 2, update_nanoseconds=UPDATE
    )
    assert shares(attribution) == {1: (0.2, 0.25), 2: (0.6, 0.25)}
    assert attribution[2:] == (0, 0, 0)


def test_static_joules_go_by_occupancy_and_the_rest_is_idle() -> None:
    """The device was busy for 0.4 s of 1 s: 0.6 J of 1 J are idle; three of four images take three quarters."""
    rows = [row(1, 0.2, 0.6), row(2, 0.2, 0.6, images=3)]
    attribution = attribute(second(1), rows, SECOND, update_nanoseconds=UPDATE)
    assert shares(attribution) == {1: (0, 0.1), 2: (0, 0.3)}
    assert attribution.idle_nanojoules == 600_000_000


def test_a_meter_below_static_power_leaves_nothing_dynamic() -> None:
    """Static energy is never more than what was metered."""
    attribution = attribute(second(0.3), [row(1, 0, 1)], SECOND, update_nanoseconds=UPDATE)
    assert shares(attribution) == {1: (0, 0.3)}


def test_without_a_request_dynamic_joules_are_unattributed() -> None:
    """Nobody ran, so nobody pays: what exceeds static power is told apart from idling."""
    attribution = attribute(second(1.5), [row(1, 1, 2)], SECOND, update_nanoseconds=UPDATE)
    assert attribution[1:] == ((), SECOND, 0, SECOND // 2)


def test_rows_without_a_modelled_power_share_by_time() -> None:
    """Where the model says nothing, time does."""
    rows = [row(1, 0, 0.25, 0), row(2, 0, 0.75, 0)]
    assert shares(attribute(second(1), rows, 0, update_nanoseconds=UPDATE)) == {1: (0.25, 0), 2: (0.75, 0)}


def test_a_host_meter_is_split_by_cpu_time_first() -> None:
    """Other programs used three quarters of the CPU time: so much of the dynamic joules is background."""
    cpu = CpuShare(SECOND, 4 * SECOND)
    attribution = attribute(second(3), [row(1, 0, 1)], SECOND, update_nanoseconds=UPDATE, cpu=cpu)
    assert shares(attribution) == {1: (0.5, 1)}
    assert attribution.background_nanojoules == 1.5 * SECOND
    for odd in (CpuShare(5, 4), CpuShare(0, 0)):
        assert (
            attribute(second(3), [], SECOND, update_nanoseconds=UPDATE, cpu=odd).unattributed_nanojoules == 2 * SECOND
        )


def test_a_request_is_final_with_the_epoch_that_holds_its_end() -> None:
    """It spans two epochs and runs on in the first; its figure comes with the second, and only once."""
    account = open_account(row(1, 0.5, None))
    assert account.close(second(2), SECOND)[1] == []
    account.end(1, 3 * SECOND // 2)
    attribution, (final,) = account.close(second(2, began=1), SECOND)
    assert attribution.portions[0].static_nanojoules == SECOND // 2
    assert final[:4] == (1, False, 2 * SECOND, SECOND)
    assert (final.provenance, final.sharing) == (MEASURED, "exclusive")
    assert account.close(second(1, began=2), SECOND) == (
        Attribution(second(1, began=2), (), SECOND, 0, 0),
        [],
    )
    assert account.buckets == {MEASURED: Buckets(requests_dynamic=2 * SECOND, requests_static=SECOND, idle=2 * SECOND)}


def test_an_end_that_becomes_known_late_is_final_with_the_next_epoch() -> None:
    """It ended within an epoch that has closed by now."""
    account = open_account(row(1, 0, None))
    account.close(second(1), 0)
    account.end(1, SECOND // 2)
    _, (final,) = account.close(second(0, began=1), 0)
    assert final.dynamic_nanojoules == SECOND


def test_an_aborted_request_pays_for_its_time() -> None:
    """A row that failed is a row, one that never ran costs nothing."""
    account = open_account(row(1, 0, 0.5), row(2, 0.7, 0.7))
    _, finals = account.close(second(1), SECOND // 2)
    assert [final[:4] for final in finals] == [(1, False, SECOND // 2, SECOND // 4), (2, False, 0, 0)]


def test_maintenance_has_its_own_bucket() -> None:
    """Loading and calibrating are rows, and not requests."""
    account = open_account(row(1, 0, 0.5, maintenance=True), row(2, 0.5, 1))
    _, finals = account.close(second(2), SECOND)
    assert [final.maintenance for final in finals] == [True, False]
    assert account.buckets[MEASURED] == Buckets(SECOND // 2, SECOND // 2, 0, 0, 0, SECOND)


def test_a_gap_is_filled_by_the_model_and_says_so() -> None:
    """Half of the request was metered, half modelled: the sum is no longer measured, and each part is booked apart."""
    account = open_account(row(1, 0, 2, 0.4))
    account.close(second(1.7), SECOND)
    attribution, (final,) = account.close(Gap(SECOND, 2 * SECOND, "unplugged"), SECOND, CpuShare(1, 2))
    assert attribution.epoch == second(1.2, SIMULATED, began=1)
    assert final[2:] == (900_000_000, 2 * SECOND, 20_000_000, SIMULATED, "exclusive")
    assert account.buckets[MEASURED].requests_dynamic == 700_000_000
    assert account.buckets[SIMULATED].requests_dynamic == 200_000_000


def test_a_short_request_is_not_measured_alone() -> None:
    """Nine updates of the sensor are too few to call a measured figure a request's own; ten are enough."""
    for length, sharing in ((0.9, "shared"), (1.0, "exclusive")):
        _, (final,) = open_account(row(1, 0, length)).close(second(1), 0)
        assert (final.provenance, final.sharing) == (MEASURED, sharing)
    _, (final,) = open_account(row(1, 0, 0.001)).close(second(1, MODELLED), 0)
    assert (final.provenance, final.sharing) == (MODELLED, "exclusive")


def test_requests_that_run_at_the_same_time_share() -> None:
    """Overlap in time counts, also of more than neighbours; one after the other does not."""
    account = open_account(row(1, 0, 3), row(2, 0, 1), row(3, 1, 2), row(4, 3, 4), row(5, 4, 5))
    _, finals = account.close(Epoch(0, 5 * SECOND, SECOND, MODELLED), 0)
    assert [final.sharing for final in finals] == ["shared", "shared", "shared", "exclusive", "exclusive"]


def test_background_makes_a_figure_shared() -> None:
    """On a host meter the split by CPU time is an estimate."""
    _, (final,) = open_account(row(1, 0, 1)).close(second(2), SECOND, CpuShare(1, 2))
    assert final.sharing == "shared"


def test_uncertainty_has_three_sources() -> None:
    """The meter's own share of everything; the model's where it split; the sensor's update where idle time is near."""
    _, (alone,) = open_account(row(1, 0, 1), relative=0.03).close(second(1), SECOND // 2)
    assert alone.uncertainty_nanojoules == 30_000_000
    _, finals = open_account(row(1, 0, 0.5), row(2, 0.5, 1)).close(second(1), 0)
    assert [final.uncertainty_nanojoules for final in finals] == [50_000_000, 50_000_000]
    # 0.1 J in 0.1 s are 1 W; over an update of 0.1 s an edge is uncertain by 0.1 J / sqrt(6), of which nine tenths.
    _, (brief,) = open_account(row(1, 0, 0.1)).close(second(0), 0)
    assert brief.uncertainty_nanojoules == 36_742_347


def test_better_figures_at_the_end_replace_the_model_s_guess() -> None:
    """What a spiking network really computed is known when it ends, and weighs from then on."""
    account = open_account(row(1, 0, None), row(2, 0.5, None))
    account.end(1, SECOND // 2, 300_000_000, 30_000_000)
    account.end(2, SECOND, 100_000_000, 10_000_000)
    _, finals = account.close(second(0.8), 0)
    assert [final.dynamic_nanojoules for final in finals] == [600_000_000, 200_000_000]


def test_figures_of_several_meters_add_up_with_the_weakest_label() -> None:
    """Package and memory are two counters of one host."""
    first = Final(7, False, 100, 10, 3, MEASURED, "exclusive")
    second = Final(7, False, 50, 5, 4, MODELLED, "shared")
    assert combine([first, second]) == (7, False, 150, 15, 5, MODELLED, "shared")
    assert combine([first]) == first
    assert weakest([SIMULATED, MEASURED, MODELLED]) is SIMULATED
