"""The metrics that there are: their names, labels and meaning. The reference is made from them."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Family(NamedTuple):
    """A family of metrics. Its name is without the suffix that the text format adds."""

    kind: Literal["info", "counter", "gauge", "histogram", "stateset"]
    name: str
    meaning: str
    labels: tuple[str, ...] = ()


POINT_LABELS = ("model", "variant", "device", "steps", "margin")

BUILD = Family("info", "jouled_build", "The release that runs.", ("version",))
REQUESTS = Family(
    "counter",
    "jouled_requests",
    "Requests that ended, by operating point and terminal status; the model alone where nothing ran for them.",
    (*POINT_LABELS, "status"),
)
EXPECTED_CORRECT = Family(
    "counter",
    "jouled_expected_correct_answers",
    "Answers that are expected to be right: the sum of the held-out accuracy of the points that gave them.",
    ("model", "variant"),
)
DURATION = Family(
    "histogram",
    "jouled_request_duration_seconds",
    "Seconds from the acceptance of an answered request to its end on the device.",
    ("model", "variant", "device"),
)
DEVICE_ENERGY = Family(
    "counter",
    "jouled_device_energy_joules",
    "Joules that meters counted, or models where there is no meter, and where they went.",
    ("device", "boundary", "provenance", "bucket"),
)
REQUEST_ENERGY = Family(
    "histogram",
    "jouled_request_energy_joules",
    "Dynamic joules of answered requests, final figures.",
    ("model", "variant", "device", "provenance"),
)
WINDOW = Family("gauge", "jouled_budget_window_joules", "Joules of the trailing window, static power included.")
RESERVED = Family("gauge", "jouled_budget_reserved_joules", "Upper bounds of what is under way.")
LIMIT = Family("gauge", "jouled_budget_limit_joules", "The most that any window may hold under the policy in force.")
WINDOW_LENGTH = Family("gauge", "jouled_budget_window_seconds", "Length of the window under the policy in force.")
VIOLATIONS = Family(
    "counter", "jouled_budget_violations", "How often meters counted more than the budget had room for."
)
IN_FORCE = Family("gauge", "jouled_policy_in_force", "1 for the policy in force, 0 for the others.", ("policy",))
GAPS = Family("counter", "jouled_journal_gaps", "Records that could not be written to the journal.")
SAMPLED = Family(
    "gauge",
    "jouled_sample_timestamp_seconds",
    "When the figures of energy, budget and devices were read, in seconds since 1970; once a second.",
)
HEALTH = Family("stateset", "jouled_device_health", "The health of a device.", ("device",))
POWER = Family("stateset", "jouled_device_power", "The power state of a device.", ("device",))
STATIC = Family("gauge", "jouled_device_static_watts", "What a device draws without a request.", ("device",))
QUEUED = Family("gauge", "jouled_device_queued_requests", "Requests that wait or run at a device.", ("device",))
METER_UP = Family(
    "gauge",
    "jouled_meter_up",
    "1 while a meter can be read, 0 while a model stands in for it.",
    ("meter", "boundary"),
)
METER_RESETS = Family("counter", "jouled_meter_resets", "How often a meter began anew.", ("meter",))
METER_REJECTED = Family("counter", "jouled_meter_rejected_readings", "Readings that could not be believed.", ("meter",))

FAMILIES = (
    BUILD, REQUESTS, EXPECTED_CORRECT, DURATION, DEVICE_ENERGY, REQUEST_ENERGY, WINDOW, RESERVED, LIMIT, WINDOW_LENGTH,
    VIOLATIONS, GAPS, SAMPLED, IN_FORCE, HEALTH, POWER, STATIC, QUEUED, METER_UP, METER_RESETS, METER_REJECTED,
)  # fmt: skip
