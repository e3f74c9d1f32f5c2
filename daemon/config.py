"""The configuration: TOML, every key with its unit in its name, unknown keys refused.

What stands below a key is its meaning in the reference, which `docs/reference.py` makes.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import replace

from daemon.access import METHODS
from daemon.budget import Limit, limit_of
from daemon.errors import ConfigError
from daemon.sections import Section, convert
from hal.artifact import NAME
from hal.names import near
from hal.open import DRIVERS
from hal.usb import PORT

PORT_LIMIT = 65535
LOOPBACK = re.compile(r"(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost|\[::1\]):\d{1,5}")
HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
PUBLIC_KEY = "[0-9a-f]{64}"
STRATEGIES = ("accuracy", "balanced", "saver", "latency", "pin")


class Server(Section, frozen=True):
    """`[server]`: where clients connect, and what a request may be."""

    tcp_address: str = "127.0.0.1:8001"
    """HOST:PORT of the TCP port for clients, none where it is empty; off loopback with `[tls]` only."""
    default_deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    """How long a request without a deadline may take."""
    image_pixels_limit: Annotated[int, msgspec.Meta(ge=1, le=1 << 26)] = 4_000_000
    """The largest picture that is decoded, width times height."""
    message_bytes_limit: Annotated[int, msgspec.Meta(ge=1 << 16, le=1 << 30)] = 8 << 20
    """The largest message that is received."""
    batch_limit: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    """The most images in one request."""
    model_control: bool = False
    """Whether clients may load and unload models, as the operator always may."""
    load_reports: bool = False
    """Whether a balancer is told with every answer how much of the power budget is used, in ORCA."""


class DeviceConfig(Section, frozen=True):
    """`[device.NAME]`: one device. The name is the operator's."""

    driver: str
    """What drives it: `cpu`, `ncs2`, `ncs2-sim`, `loihi`, `loihi-lava` or `loihi-sim`."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """The threads of `cpu` and `ncs2-sim`, which compute on the host."""
    core_watts: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 7.5
    """What one busy core of `cpu` draws above an idle one: thermal design power by the number of cores."""
    time_limit_seconds: Annotated[float, msgspec.Meta(gt=0, le=600)] = 0.9
    """A run that takes longer is given up: the device hangs."""
    worker: bool = False
    """Whether a device of this process runs in one of its own, as those of vendors' libraries always do."""
    python: str = ""
    """The interpreter of its worker, where it is neither this one nor that of the vendor's runtime."""
    fallback: str = ""
    """The device that serves while this one is lost, and only then."""
    partition: str = ""
    """The partition of a SLURM cluster that has the Loihi board."""
    board: str = ""
    """The Loihi board, where there are several."""
    usb_port: Annotated[str, msgspec.Meta(pattern=f"^({PORT.pattern})?$")] = ""
    """The port of a Neural Compute Stick 2 as in /sys/bus/usb/devices, such as `1-1.4`, where there are several."""
    calibrated_bounds: bool = False
    """Whether requests reserve the calibration's upper bound, which no image seen exceeded, not the device's own."""


class PolicyConfig(Section, frozen=True):
    """`[policy.NAME]`: a strategy, a budget, constraints, and the devices that may be powered down when idle."""

    strategy: str
    """How an operating point is chosen: `accuracy`, `balanced`, `saver`, `latency` or `pin`."""
    budget_watts: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    """The most that the devices may draw in the mean of any window, their static power included."""
    window_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0
    """The length of a window."""
    min_accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """The least accuracy of an operating point, a fraction."""
    pin: str = ""
    """What the strategy `pin` keeps to: `snn`, `dnn` or a device."""
    burst_joules: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    """With `burst_watts`: any stretch of time may hold at most this and `burst_watts` times its length."""
    burst_watts: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """The rate beside `burst_joules`; both or neither."""
    power_down: tuple[str, ...] = ()
    """The devices that may be powered down when nothing has used them for their break-even time."""
    batch_delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """How long a device may wait for a fuller batch while requests come several at a time."""

    @property
    def limit(self) -> Limit:
        """The budget's limit under this policy."""
        return limit_of(self.budget_watts, self.window_seconds, self.burst_joules, self.burst_watts)


class TriggerConfig(Section, frozen=True):
    """`[[trigger]]`: when a policy is put in force by itself: while all conditions that are given hold."""

    policy: str
    """The policy; the first trigger that holds decides."""
    hours: Annotated[str, msgspec.Meta(pattern=rf"^({HOURS.pattern})?$")] = ""
    """A range of local time, such as `22:00-06:00`."""
    on_battery: bool | None = None
    """Whether the host runs on battery."""
    above_celsius: float | None = None
    """The temperature is above this."""
    below_celsius: float | None = None
    """The temperature is below this."""
    sensor: str = ""
    """The sensor whose temperature counts, the warmest one where it is empty."""
    hysteresis_celsius: Annotated[float, msgspec.Meta(ge=0, le=100)] = 3.0
    """How much further back a temperature lets go."""

    @property
    def minutes(self) -> tuple[int, int]:
        """Give the first minute of the day in `hours`, and the first one after them."""
        begin, end = (int(time[:2]) * 60 + int(time[3:]) for time in self.hours.split("-"))
        return begin, end


class AccountConfig(Section, frozen=True):
    """`[[meters.account]]`: devices, and the meters that together count their joules."""

    devices: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """The devices that these meters feed."""
    meters: tuple[str, ...] = ()
    """The meters, as `jouled devices` names them; without any a model counts."""


class MetersConfig(Section, frozen=True):
    """`[meters]`: how often they are read, and the accounting frontier."""

    sampling_seconds: Annotated[float, msgspec.Meta(ge=0.01, le=10)] = 0.1
    """The time between two readings."""
    uncertainty_limit: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """A device whose meter failed, and whose model is less certain than this, is not used; relative."""
    sysfs: str = "/sys"
    """Where the kernel shows its meters."""
    account: tuple[AccountConfig, ...] | None = None
    """The accounting frontier; where no account is given, it is found out."""


class MetricsConfig(Section, frozen=True):
    """`[metrics]`: what is served over HTTP, on loopback only."""

    address: str = ""
    """HOST:PORT of metrics and page, nowhere where it is empty."""
    page: bool = True
    """Whether the page is served beside the metrics."""
    page_control: bool = False
    """Whether the page may switch policies: whoever reaches it may then do so, every user of this host."""


class TlsConfig(Section, frozen=True):
    """`[tls]`: mutual TLS at `tcp_address`, without which it must be on loopback. All files are PEM."""

    certificate: str
    """The daemon's certificate, with its chain."""
    key: str
    """The key of that certificate."""
    client_authority: str
    """The certificate that signed the clients'."""
    allow: dict[str, tuple[str, ...]]
    """For each name of a client's certificate (its subject alternative names, else its common name) the patterns of the
    methods that it may call, such as `jouled.v1.Classifier/*`."""


class JournalConfig(Section, frozen=True):
    """`[journal]`: what is kept of requests."""

    retention_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] | None = None
    """How long each record is kept; what is older stays in sums and counts. Without it every record stays."""


class LogConfig(Section, frozen=True):
    """`[log]`: how, and from which level on."""

    format: Literal["auto", "console", "logfmt", "json"] = "auto"
    """How a line looks; with `auto`, what standard error leads to decides."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged; `jouled log-level` changes it while the daemon runs."""


class Config(Section, frozen=True):
    """Top level: what belongs to no section."""

    start_policy: str
    """The policy in force at the start, and while no trigger holds."""
    device: Annotated[dict[str, DeviceConfig], msgspec.Meta(min_length=1)]
    policy: Annotated[dict[str, PolicyConfig], msgspec.Meta(min_length=1)]
    repository: str = ""
    """The folder of the models, `model/version/variant/`; the shipped models where it is empty."""
    trusted_keys: tuple[Annotated[str, msgspec.Meta(pattern=f"^{PUBLIC_KEY}$")], ...] = ()
    """Public keys of Ed25519 in hexadecimal: where there are any, an artifact that none of them signed is refused."""
    calibration: str = ""
    """The file that `jouled calibrate` wrote; models of the devices where it is empty."""
    trigger: tuple[TriggerConfig, ...] = ()
    server: Server = Server()
    meters: MetersConfig = MetersConfig()
    metrics: MetricsConfig = MetricsConfig()
    journal: JournalConfig = JournalConfig()
    log: LogConfig = LogConfig()
    tls: TlsConfig | None = None


def load(
    path: Path, tcp_address: str | None = None, metrics_address: str | None = None, *, page_control: bool = False
) -> Config:
    """Read a configuration file, with what is given here in place of what it says. Raises `ConfigError`."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        for table, section in (("device", DeviceConfig), ("policy", PolicyConfig)):
            for name, entry in _table(content, table).items():
                if not NAME.fullmatch(name):
                    raise ValueError(f"{table}.{name}: a name must match {NAME.pattern}")
                convert(entry, section, f"{table}.{name}")
        triggers = content.get("trigger")
        for index, entry in enumerate(triggers if isinstance(triggers, list) else []):
            convert(entry, TriggerConfig, f"trigger[{index}]")
        config = convert(content, Config, "")
        if tcp_address is not None:
            config = replace(config, server=replace(config.server, tcp_address=tcp_address))
        if metrics_address is not None:
            config = replace(config, metrics=replace(config.metrics, address=metrics_address))
        if page_control:
            config = replace(config, metrics=replace(config.metrics, page_control=True))
        _check(config)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


def _table(content: dict[str, Any], key: str) -> dict[str, Any]:
    table = content.get(key, {})
    return table if isinstance(table, dict) else {}


def _check(config: Config) -> None:
    """Check what the types do not say."""
    _check_loopback("metrics.address", config.metrics.address, "such as 127.0.0.1:9464")
    if config.tls:
        _check_tls(config.tls, config.server.tcp_address)
    else:
        _check_loopback(
            "server.tcp_address", config.server.tcp_address, "such as 127.0.0.1:8001; any other one needs [tls]"
        )
    if config.start_policy not in config.policy:
        raise ValueError(
            f"start_policy: no such policy {config.start_policy!r}{near(config.start_policy, config.policy)}"
        )
    for name, device in config.device.items():
        _check_device(name, device)
        _check_fallback(name, config.device)
        if device.driver not in DRIVERS:
            raise ValueError(f"device.{name}.driver: unknown driver {device.driver!r}{near(device.driver, DRIVERS)}")
    for name, policy in config.policy.items():
        _check_policy(f"policy.{name}", policy, list(config.device))
    for index, trigger in enumerate(config.trigger):
        _check_trigger(f"trigger[{index}]", trigger, config.policy)


def _check_loopback(key: str, address: str, hint: str) -> None:
    if address and not (LOOPBACK.fullmatch(address) and int(address.rpartition(":")[2]) <= PORT_LIMIT):
        raise ValueError(f"{key}: {address!r} is not HOST:PORT on loopback, {hint}")


def _check_tls(tls: TlsConfig, address: str) -> None:
    """Check that there is a port to protect, and that each pattern lets someone call something."""
    if not _is_numeric(address):
        raise ValueError(f"server.tcp_address: {address!r} is not ADDRESS:PORT in numbers, which [tls] takes")
    for name, patterns in tls.allow.items():
        for pattern in patterns:
            if not any(fnmatchcase(method, pattern) for method in METHODS):
                raise ValueError(f"tls.allow.{name}: {pattern!r} is no method{near(pattern, METHODS)}")


def _is_numeric(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    bracketed = host.startswith("[") and host.endswith("]")
    return bracketed == (":" in host) and port.isdecimal() and port.isascii() and int(port) <= PORT_LIMIT


def _check_trigger(key: str, trigger: TriggerConfig, policies: Iterable[str]) -> None:
    if trigger.policy not in policies:
        raise ValueError(f"{key}.policy: no such policy {trigger.policy!r}{near(trigger.policy, policies)}")
    thermal = trigger.above_celsius is not None or trigger.below_celsius is not None
    if not (trigger.hours or trigger.on_battery is not None or thermal):
        raise ValueError(f"{key}: it has no condition; known are hours, on_battery, above_celsius, below_celsius")
    if trigger.sensor and not thermal:
        raise ValueError(f"{key}.sensor: only above_celsius and below_celsius take it")


def _check_policy(key: str, policy: PolicyConfig, devices: list[str]) -> None:
    if policy.strategy not in STRATEGIES:
        raise ValueError(f"{key}.strategy: unknown {policy.strategy!r}{near(policy.strategy, STRATEGIES)}")
    if (policy.burst_joules > 0) != (policy.burst_watts > 0):
        raise ValueError(f"{key}.burst_joules: it takes burst_watts above 0, and these take it")
    pins = ["snn", "dnn", *devices]
    if policy.strategy == "pin" and policy.pin not in pins:
        raise ValueError(f"{key}.pin: {policy.pin!r} is neither snn, dnn nor a device{near(policy.pin, pins)}")
    if policy.strategy != "pin" and policy.pin:
        raise ValueError(f"{key}.pin: only strategy 'pin' takes it, the strategy is {policy.strategy!r}")
    for device in policy.power_down:
        if device not in devices:
            raise ValueError(f"{key}.power_down: no such device {device!r}{near(device, devices)}")
    if policy.pin in policy.power_down:
        raise ValueError(f"{key}.power_down: {policy.pin!r} is what the policy is pinned to")


def _check_device(name: str, device: DeviceConfig) -> None:
    """Check that a key of one driver is not given to another one."""
    for key, driver in (("partition", "loihi"), ("board", "loihi"), ("usb_port", "ncs2")):
        if getattr(device, key) and device.driver != driver:
            raise ValueError(f"device.{name}.{key}: only driver {driver!r} takes it, the driver is {device.driver!r}")


def _check_fallback(name: str, devices: dict[str, DeviceConfig]) -> None:
    """Check that a device's fallback exists, stands in for nobody else, and that no chain of them comes back."""
    fallback = devices[name].fallback
    if not fallback:
        return
    if fallback not in devices:
        raise ValueError(f"device.{name}.fallback: no such device {fallback!r}{near(fallback, devices)}")
    others = [other for other, device in devices.items() if device.fallback == fallback and other != name]
    if others:
        raise ValueError(f"device.{name}.fallback: {fallback!r} already stands in for {others[0]!r}")
    chain = [name]
    while fallback:
        if fallback in chain:
            raise ValueError(f"device.{name}.fallback: {' -> '.join([*chain, fallback])} goes in a circle")
        chain.append(fallback)
        fallback = devices[fallback].fallback
