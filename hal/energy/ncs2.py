"""Joules and seconds of the Intel Neural Compute Stick 2.

Power and the time of a small network: raw logs of github.com/abr/power_benchmarks (a USB meter of 50 mW resolution, a
multilayer perceptron of 2 x 256): idle 0.496 W, busy 1.431 W, 465 inferences per second.
Time per multiply-accumulate: github.com/NitinJSanket/prg_prgncs, the same network of filters 16 to 128 at 256 x 256
(3.560 GFLOP, 7.5 per second) and at 512 x 512 (14.234 GFLOP, 2.0 per second), of which the slope is taken.
Power-up: notes of dcmartin on GitHub (OPENVINO.md; a stick at a Raspberry Pi 4, benchmark_app of OpenVINO 2019 R3): to
boot the firmware and load a network of 2.1 million weights took 2239.71 ms. No log tells the power meanwhile: that of a
busy stick is assumed. Without its port's power the stick draws nothing.
The stick has no sensor of its own: all of this is a model.
"""

from __future__ import annotations

IDLE_WATTS = 0.496
BUSY_WATTS = 1.431
OVERHEAD_SECONDS = 1 / 465
FLOPS_PER_MULTIPLY = 2
SECONDS_PER_MULTIPLY = FLOPS_PER_MULTIPLY * (1 / 2.0 - 1 / 7.5) / (14_234_334_693 - 3_559_699_941)
REOPENING_SECONDS = 2.23971
# Half of the meter's resolution against the dynamic power.
RELATIVE_UNCERTAINTY = 0.025 / (BUSY_WATTS - IDLE_WATTS)


def seconds(multiplies: int) -> float:
    """Give the time of one image through a network of that many multiply-accumulates."""
    return OVERHEAD_SECONDS + multiplies * SECONDS_PER_MULTIPLY


def dynamic_joules(busy_seconds: float) -> float:
    """Price busy time above idling."""
    return busy_seconds * (BUSY_WATTS - IDLE_WATTS)
