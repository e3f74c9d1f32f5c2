"""Which devices are powered: down when staying on no longer pays, up again when they are needed.

A state machine beside the budget, which it tells of every change of static power before it happens. It decides and
never acts, and time is an argument: its owner carries out the `switches` in their order and says when one is done.

    on -> closing -> off -> (waiting ->) opening -> on

A device comes back for a request whose deadline allows the wait, when demand returns, or because the policy in force
keeps it on. For the last the budget need not have room yet: its static power and the joules of powering up are claimed
at once, so that nothing else is dispatched until they fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from daemon.budget import Budget, Reservation
from daemon.clock import NANO
from daemon.config import PolicyConfig
from hal.device import Cost

# No device is powered down sooner after its last use, however little powering up costs.
FLOOR_NANOSECONDS = 5 * NANO


class PowerState(Enum):
    """The power state of a device."""

    ON = "on"
    CLOSING = "closing"
    OFF = "off"
    WAITING = "waiting"
    OPENING = "opening"


class Switch(NamedTuple):
    """A device to be powered up or down, and why."""

    device: str
    on: bool
    reason: str

    @property
    def to(self) -> str:
        """Name the state that it leads to."""
        return "on" if self.on else "off"


@dataclass(eq=False)
class Supply:
    """The power of one device: it draws `watts` when it is on; `reopening` is None where it cannot be powered down.

    `since` is when its state began, `used` when the router last chose it, `wanted` when the router last would have. It
    is `due` when demand has returned, and rests for a while after it failed to switch.
    """

    device: str
    watts: float
    reopening: Cost | None = None
    state: PowerState = PowerState.ON
    since: int = 0
    used: int = 0
    wanted: int = -(1 << 62)
    due: bool = False
    rests_until: int = 0
    reservation: Reservation | None = None

    @property
    def drawn_watts(self) -> float:
        """Give what the device draws in its state."""
        return 0.0 if self.state in {PowerState.OFF, PowerState.WAITING} else self.watts

    @property
    def break_even_nanoseconds(self) -> int:
        """Give the time in which an idle device draws what powering it up would cost, or the floor."""
        joules = self.reopening.dynamic_joules if self.reopening else 0.0
        return max(round(joules / self.watts * NANO) if self.watts else 0, FLOOR_NANOSECONDS)

    @property
    def upper_nanojoules(self) -> int:
        """Bound the dynamic energy of powering up."""
        return math.ceil(self.reopening.upper_joules * NANO) if self.reopening else 0

    @property
    def opening_seconds(self) -> float:
        """Tell how long powering up takes."""
        return self.reopening.seconds if self.reopening else 0.0


class Power:
    """The power states of all devices under one budget. `unready` are those that are not on."""

    def __init__(self, budget: Budget, supplies: Iterable[Supply] = ()) -> None:
        """Begin with every device on, as the budget's static power says."""
        self.supplies = {supply.device: supply for supply in supplies}
        self.unready: dict[str, Supply] = {}
        self.switches: list[Switch] = []
        self._budget = budget

    @property
    def drawn_watts(self) -> float:
        """Give the static power of all devices in their states."""
        return sum(supply.drawn_watts for supply in self.supplies.values())

    def delay_seconds(self, device: str, now: int) -> float:
        """Tell how long a device would still take to be on, if it is on its way or were sent on it now."""
        supply = self.unready.get(device)
        if supply is None:
            return 0.0
        begun = (now - supply.since) / NANO if supply.state is PowerState.OPENING else 0.0
        return max(supply.opening_seconds - begun, 0.0)

    def opening_seconds(self, device: str) -> float:
        """Tell how long powering up a device takes, if it is down."""
        return self.unready[device].opening_seconds if self.is_down(device) else 0.0

    def rise_watts(self, devices: Iterable[str]) -> float:
        """Give by how much static power would rise with these devices on."""
        return sum(self._rise(self.unready[device]) for device in devices if device in self.unready)

    def is_down(self, device: str) -> bool:
        """Tell whether a device is neither on nor on its way."""
        supply = self.unready.get(device)
        return supply is not None and supply.state is not PowerState.OPENING

    def opening_nanojoules(self, device: str) -> int:
        """Give what a window must hold for a device that is down: powering it up, and its static power."""
        if not self.is_down(device):
            return 0
        supply = self.unready[device]
        return supply.upper_nanojoules + math.ceil(self._rise(supply) * self._budget.limit.window_nanoseconds)

    def chosen(self, device: str, now: int) -> None:
        """Note that the router chose a device."""
        supply = self.supplies.get(device)
        if supply is not None:
            supply.used = now

    def want(self, device: str, now: int) -> None:
        """Note that the router would have chosen a device that is down, had a request had the time.

        The second time within the break-even time is returning demand.
        """
        supply = self.unready[device]
        supply.due = now - supply.wanted <= supply.break_even_nanoseconds
        supply.wanted = now

    def reserve(self, device: str, nanojoules: int, now: int) -> Reservation | None:
        """Set a request's upper bound aside and, where the device is down, all that powering it up takes."""
        if not self.is_down(device):
            return self._budget.reserve(nanojoules, now)
        supply = self.unready[device]
        if supply.state is not PowerState.WAITING and not self._affords(supply, nanojoules, now):
            return None
        reservation = self._budget.reserve(nanojoules, now)
        if reservation is not None:
            self._open(supply, now, "a request is waiting")
        return reservation

    def step(self, now: int, policy: PolicyConfig, idle: Callable[[str], bool]) -> None:
        """Decide for each device, the one unused for longest first. Call it often, and after every policy switch.

        1. What is on, idle and may be down goes down after its break-even time; at once while the limit is below what
           is on.
        2. What is down and must be on is claimed, unless the limit could never hold it; it goes on when it fits.
        3. What is down and in demand again goes on if it fits.
        """
        for supply in sorted(self.supplies.values(), key=lambda each: each.used):
            if supply.reopening is None or now < supply.rests_until:
                continue
            may_be_down = supply.device in policy.power_down
            if supply.state is PowerState.ON and may_be_down and idle(supply.device):
                self._close_if_it_pays(supply, now)
            elif supply.state is PowerState.OFF and not may_be_down:
                self._claim(supply, now)
            elif supply.state is PowerState.WAITING and (may_be_down or not self._ever_fits(supply, 0.0)):
                self._release(supply, now)
            elif supply.state is PowerState.OFF and supply.due:
                self._meet_demand(supply, now)
            if supply.state is PowerState.WAITING and self._budget.room_nanojoules(now) >= 0:
                self._open(supply, now, "the policy keeps it on")

    def resume(self, now: int, before_watts: float, policy: PolicyConfig) -> None:
        """Power down again what the window of an earlier daemon, which drew `before_watts` at its end, has no room for.

        What may be down goes first. What the policy keeps on comes back when it fits.
        """
        watts = self._budget.static_watts
        switchable = [supply for supply in self.supplies.values() if supply.reopening is not None and supply.watts]
        for supply in sorted(switchable, key=lambda each: each.device not in policy.power_down):
            if watts <= before_watts or self._budget.static_fits(watts, now):
                return
            self._close(supply, now, "the window has no room for it after a restart")
            watts -= supply.watts

    def found(self, device: str, watts: float, reopening: Cost | None, now: int) -> None:
        """Take over what a device draws that has come up, for the first time or again."""
        supply = self.supplies[device]
        if supply.state is not PowerState.OFF and watts != supply.watts:
            self._budget.change_static(self._budget.static_watts + watts - supply.watts, now)
        supply.watts, supply.reopening = watts, reopening

    def done(self, device: str, on: bool, now: int) -> int:
        """Take a device for on or off, as a switch has made it; give the dynamic nanojoules of powering up."""
        supply = self.supplies[device]
        if on and supply.state is PowerState.OPENING and supply.reopening and supply.reservation:
            nanojoules = round(supply.reopening.dynamic_joules * NANO)
            self._settle(supply, nanojoules, now)
            self._enter(supply, PowerState.ON, now)
            return nanojoules
        if not on and supply.state is PowerState.CLOSING:
            self._enter(supply, PowerState.OFF, now)
            self._budget.change_static(self._budget.static_watts - supply.watts, now)
        return 0

    def failed(self, device: str, on: bool, now: int) -> int:
        """Take a switch for failed; give the nanojoules that it may have cost.

        What did not go down is on. What did not come up is powered down, to know what it draws.
        """
        supply = self.supplies[device]
        supply.used, supply.due = now, False
        supply.rests_until = now + supply.break_even_nanoseconds
        if on and supply.state is PowerState.OPENING and supply.reservation:
            nanojoules = supply.reservation.nanojoules
            self._settle(supply, nanojoules, now)
            self._close(supply, now, "it did not come up")
            return nanojoules
        if not on and supply.state is PowerState.CLOSING:
            self._enter(supply, PowerState.ON, now)
        return 0

    def _close_if_it_pays(self, supply: Supply, now: int) -> None:
        limit = self._budget.limit
        closing = sum(each.watts for each in self.unready.values() if each.state is PowerState.CLOSING)
        watts = self._budget.static_watts - closing
        unused = now - max(supply.used, supply.since)
        if watts * limit.window_nanoseconds > limit.nanojoules or 0 < limit.burst_watts < watts:
            self._close(supply, now, "the limit is below what is on")
        elif unused >= supply.break_even_nanoseconds:
            self._close(supply, now, f"unused for {unused / NANO:.1f} s")

    def _close(self, supply: Supply, now: int, reason: str) -> None:
        self._enter(supply, PowerState.CLOSING, now)
        self.switches.append(Switch(supply.device, False, reason))

    def _open(self, supply: Supply, now: int, reason: str) -> None:
        """Power a device up, which the budget has room for."""
        if supply.state is not PowerState.WAITING:
            self._hold(supply, now)
        self._enter(supply, PowerState.OPENING, now)
        supply.due = False
        self.switches.append(Switch(supply.device, True, reason))

    def _meet_demand(self, supply: Supply, now: int) -> None:
        if now - supply.wanted > supply.break_even_nanoseconds:
            supply.due = False
        elif self._affords(supply, 0, now):
            self._open(supply, now, "demand has returned")

    def _claim(self, supply: Supply, now: int) -> None:
        """Put a device's power on the books before there is room for it."""
        if self._ever_fits(supply, supply.watts):
            self._hold(supply, now)
            self._enter(supply, PowerState.WAITING, now)

    def _release(self, supply: Supply, now: int) -> None:
        if supply.reservation is not None:
            self._budget.cancel(supply.reservation)
            supply.reservation = None
        self._budget.change_static(self._budget.static_watts - supply.watts, now)
        self._enter(supply, PowerState.OFF, now)

    def _hold(self, supply: Supply, now: int) -> None:
        """Put static power and the bound of powering up on the budget's books."""
        self._budget.change_static(self._budget.static_watts + self._rise(supply), now)
        supply.reservation = self._budget.claim(supply.upper_nanojoules)

    def _settle(self, supply: Supply, nanojoules: int, now: int) -> None:
        if supply.reservation is not None:
            self._budget.settle(supply.reservation, nanojoules, now)
            supply.reservation = None

    def _enter(self, supply: Supply, state: PowerState, now: int) -> None:
        supply.state, supply.since = state, now
        if state is PowerState.ON:
            self.unready.pop(supply.device, None)
        else:
            self.unready[supply.device] = supply

    def _rise(self, supply: Supply) -> float:
        """Give the watts that are not on the budget's books yet."""
        return supply.watts if supply.state is PowerState.OFF else 0.0

    def _affords(self, supply: Supply, nanojoules: int, now: int) -> bool:
        watts = self._budget.static_watts + self._rise(supply)
        return self._budget.static_fits(watts, now, nanojoules + supply.upper_nanojoules)

    def _ever_fits(self, supply: Supply, more_watts: float) -> bool:
        """Tell whether an empty ledger could hold powering a device up beside all static power."""
        limit, watts = self._budget.limit, self._budget.static_watts + more_watts
        held = watts * limit.window_nanoseconds + supply.upper_nanojoules
        burst = limit.burst_nanojoules
        return held <= limit.nanojoules and (
            burst is None or (watts <= limit.burst_watts and supply.upper_nanojoules <= burst)
        )
