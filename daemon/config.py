"""The configuration: TOML, every key with its unit in its name, unknown keys refused."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from daemon.access import METHODS
from daemon.budget import Limit, limit_of
from daemon.errors import ConfigError
from hal.artifact import NAME
from hal.names import near
from hal.open import DRIVERS
from hal.usb import PORT

PORT_LIMIT = 65535
LOOPBACK = re.compile(r"(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost|\[::1\]):\d{1,5}")
HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
PUBLIC_KEY = "[0-9a-f]{64}"
STRATEGIES = ("accuracy", "balanced", "saver", "latency", "pin")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of all sections: immutable, unknown keys refused."""


S = TypeVar("S", bound=Section)


class Server(Section, frozen=True):
    """`[server]`: where clients connect and what a request may be; no TCP where `tcp_address` is empty.

    With `model_control` they may load and unload models, as the operator always may. With `load_reports` a balancer is
    told with every answer how much of the power budget is used, in ORCA.
    """

    tcp_address: str = "127.0.0.1:8001"
    default_deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    image_pixels_limit: Annotated[int, msgspec.Meta(ge=1, le=1 << 26)] = 4_000_000
    message_bytes_limit: Annotated[int, msgspec.Meta(ge=1 << 16, le=1 << 30)] = 8 << 20
    batch_limit: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    model_control: bool = False
    load_reports: bool = False


class DeviceConfig(Section, frozen=True):
    """`[device.NAME]`: one device. `threads` and `core_watts` are for those that need them.

    A run that takes longer than `time_limit_seconds` is given up: the device hangs. With `worker` a device of this
    process runs in one of its own, as those of vendors' libraries always do, under the interpreter `python` where it is
    named. The device `fallback` serves only while this one is lost. `partition` and `board` choose a Loihi board,
    `usb_port` a Neural Compute Stick 2.

    With `calibrated_bounds` a request reserves the calibration's upper bound, which no image seen exceeded, in place of
    the device's own, which none can.
    """

    driver: str
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    core_watts: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 7.5
    time_limit_seconds: Annotated[float, msgspec.Meta(gt=0, le=600)] = 0.9
    worker: bool = False
    python: str = ""
    fallback: str = ""
    partition: str = ""
    board: str = ""
    usb_port: Annotated[str, msgspec.Meta(pattern=f"^({PORT.pattern})?$")] = ""
    calibrated_bounds: bool = False


class PolicyConfig(Section, frozen=True):
    """`[policy.NAME]`: a strategy, a budget, constraints, and the devices that may be powered down when idle.

    Where `burst_joules` is given, any stretch of time may hold at most that and `burst_watts` times its length. While
    requests come several at a time, a device may wait for `batch_delay_seconds` to run more of them as one batch.
    """

    strategy: str
    budget_watts: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    window_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0
    min_accuracy: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    pin: str = ""
    burst_joules: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    burst_watts: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    power_down: tuple[str, ...] = ()
    batch_delay_seconds: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0

    @property
    def limit(self) -> Limit:
        """The budget's limit under this policy."""
        return limit_of(self.budget_watts, self.window_seconds, self.burst_joules, self.burst_watts)


class TriggerConfig(Section, frozen=True):
    """`[[trigger]]`: when a policy is put in force by itself: while all conditions that are given hold.

    `hours` is a range of local time, such as 22:00-06:00. A temperature is that of `sensor`, the warmest one without.
    """

    policy: str
    hours: Annotated[str, msgspec.Meta(pattern=rf"^({HOURS.pattern})?$")] = ""
    on_battery: bool | None = None
    above_celsius: float | None = None
    below_celsius: float | None = None
    sensor: str = ""
    hysteresis_celsius: Annotated[float, msgspec.Meta(ge=0, le=100)] = 3.0

    @property
    def minutes(self) -> tuple[int, int]:
        """Give the first minute of the day in `hours`, and the first one after them."""
        begin, end = (int(time[:2]) * 60 + int(time[3:]) for time in self.hours.split("-"))
        return begin, end


class AccountConfig(Section, frozen=True):
    """`[[meters.account]]`: devices, and the meters that together count their joules; without meters, a model does."""

    devices: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    meters: tuple[str, ...] = ()


class MetersConfig(Section, frozen=True):
    """`[meters]`: how often they are read, and the accounting frontier; where no `account` is given, it is found out.

    A device whose meter failed, and whose model is less certain than `uncertainty_limit`, relative, is not used.
    """

    sampling_seconds: Annotated[float, msgspec.Meta(ge=0.01, le=10)] = 0.1
    uncertainty_limit: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    sysfs: str = "/sys"
    account: tuple[AccountConfig, ...] | None = None


class MetricsConfig(Section, frozen=True):
    """`[metrics]`: where metrics are served over HTTP, nowhere while `address` is empty, and with them the `page`.

    With `page_control` whoever reaches the page may switch policies there: every user of this host.
    """

    address: str = ""
    page: bool = True
    page_control: bool = False


class TlsConfig(Section, frozen=True):
    """`[tls]`: mutual TLS at `tcp_address`, without which it must be on loopback.

    `certificate`, with its chain, and `key` are the daemon's, `client_authority` signed the clients' certificates: all
    are PEM files. `allow` gives each name that a client's certificate may have (its subject alternative names, else its
    common name) the patterns of the methods that it may call, such as `jouled.v1.Classifier/*`.
    """

    certificate: str
    key: str
    client_authority: str
    allow: dict[str, tuple[str, ...]]


class LogConfig(Section, frozen=True):
    """`[log]`: how and from which level on; with `format` auto, what standard error leads to decides how.

    `jouled log-level` changes the level while the daemon runs.
    """

    format: Literal["auto", "console", "logfmt", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Section, frozen=True):
    """The whole file.

    `start_policy` names the one in force at the start and while no trigger holds, `repository` the folder of the
    models, `calibration` the file of `jouled calibrate`. Where there are `trusted_keys`, public keys of Ed25519 in
    hexadecimal, an artifact that none of them signed is refused.
    """

    start_policy: str
    device: Annotated[dict[str, DeviceConfig], msgspec.Meta(min_length=1)]
    policy: Annotated[dict[str, PolicyConfig], msgspec.Meta(min_length=1)]
    repository: str = ""
    trusted_keys: tuple[Annotated[str, msgspec.Meta(pattern=f"^{PUBLIC_KEY}$")], ...] = ()
    calibration: str = ""
    trigger: tuple[TriggerConfig, ...] = ()
    server: Server = Server()
    meters: MetersConfig = MetersConfig()
    metrics: MetricsConfig = MetricsConfig()
    log: LogConfig = LogConfig()
    tls: TlsConfig | None = None


# The sections within the whole file, by where msgspec says that they are.
NESTED: dict[str, type[Section]] = {
    ".server": Server,
    ".meters": MetersConfig,
    ".meters.account": AccountConfig,
    ".metrics": MetricsConfig,
    ".log": LogConfig,
    ".tls": TlsConfig,
}


def load(path: Path, tcp_address: str | None = None, metrics_address: str | None = None) -> Config:
    """Read a configuration file, with other addresses where they are given. Raises `ConfigError`."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        for table, section in (("device", DeviceConfig), ("policy", PolicyConfig)):
            for name, entry in _table(content, table).items():
                if not NAME.fullmatch(name):
                    raise ValueError(f"{table}.{name}: a name must match {NAME.pattern}")
                _convert(entry, section, f"{table}.{name}")
        triggers = content.get("trigger")
        for index, entry in enumerate(triggers if isinstance(triggers, list) else []):
            _convert(entry, TriggerConfig, f"trigger[{index}]")
        config = _convert(content, Config, "")
        if tcp_address is not None:
            config = replace(config, server=replace(config.server, tcp_address=tcp_address))
        if metrics_address is not None:
            config = replace(config, metrics=replace(config.metrics, address=metrics_address))
        _check(config)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


def _table(content: dict[str, Any], key: str) -> dict[str, Any]:
    table = content.get(key, {})
    return table if isinstance(table, dict) else {}


def _convert(content: Any, section: type[S], key: str) -> S:
    """Convert one section. Raises `ValueError` that names the key and the reason."""
    try:
        return msgspec.convert(content, section)
    except msgspec.ValidationError as error:
        match = re.fullmatch(r"(?P<reason>.*?)(?: - at `(?P<key>.*)`)?", str(error), re.DOTALL)
        reason = match["reason"] if match else str(error)
        where = (match["key"] or "").removeprefix("$") if match else ""
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", reason)
        if unknown:
            nested = NESTED.get(re.sub(r"\[\d+\]", "", where), section)
            known = [field.encode_name for field in msgspec.structs.fields(nested)]
            where, reason = f"{where}.{unknown[1]}", f"unknown key{near(unknown[1], known)}"
        elif reason.startswith("Expected"):
            reason += _given(content, where)
        place = (key + where).removeprefix(".")
        raise ValueError(f"{place}: {reason}" if place else reason) from None


def _given(content: Any, where: str) -> str:
    """Tell the number or the word that stands at a place such as `.server.batch_limit` or `.account[0].meters`."""
    try:
        for part in re.findall(r"[^.\[\]]+", where):
            content = content[int(part)] if isinstance(content, list) else content[part]
    except (LookupError, ValueError, TypeError):
        return ""
    return f", not {content!r}" if isinstance(content, (str, int, float)) else ""


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
