"""The configuration is refused with file, key and reason, or it is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daemon import config
from daemon.clock import NANO
from daemon.config import DeviceConfig, PolicyConfig
from daemon.errors import ConfigError

REFERENCE = Path(__file__).parents[2] / "systemd" / "jouled.toml"
MINIMAL = """
start_policy = "all"
[device.chip]
driver = "loihi-sim"
[policy.all]
strategy = "accuracy"
budget_watts = 5.0
"""


def _refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "jouled.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_minimal(tmp_path: Path) -> None:
    """What a file leaves out has its documented default."""
    path = tmp_path / "jouled.toml"
    path.write_text(MINIMAL)
    loaded = config.load(path)
    assert loaded.device == {"chip": DeviceConfig("loihi-sim")}
    assert loaded.policy == {"all": PolicyConfig("accuracy", 5.0)}
    assert loaded.policy["all"].window_seconds == 10.0
    assert loaded.policy["all"].limit.nanojoules == 50 * NANO
    assert loaded.server.tcp_address == "127.0.0.1:8001"
    assert loaded.repository == ""


def test_commented_defaults_are_true(tmp_path: Path) -> None:
    """Taking the comment signs off the shipped file's keys changes nothing."""
    path = tmp_path / "all.toml"
    path.write_text(re.sub(r"^# (\w+ = )", r"\1", REFERENCE.read_text(), flags=re.MULTILINE))
    assert path.read_text() != REFERENCE.read_text()
    assert config.load(path) == config.load(REFERENCE)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:9000", "[::1]:8001", "127.1.2.3:1", ""])
def test_addresses_on_loopback(tmp_path: Path, address: str) -> None:
    """A loopback address takes the place of the configured one; an empty one means no TCP."""
    path = tmp_path / "jouled.toml"
    path.write_text(MINIMAL)
    assert config.load(path, tcp_address=address).server.tcp_address == address


def test_the_command_may_let_the_page_switch(tmp_path: Path) -> None:
    """It adds to what the file says, and takes nothing from it."""
    path = tmp_path / "jouled.toml"
    path.write_text(MINIMAL)
    assert not config.load(path).metrics.page_control
    assert config.load(path, page_control=True).metrics.page_control
    path.write_text(MINIMAL + "[metrics]\npage_control = true\n")
    assert config.load(path).metrics.page_control


@pytest.mark.parametrize(
    "address", ["0.0.0.0:8001", "127.0.0.1", "example.org:8001", "127.0.0.1:8001x", "[::]:8001", "127.0.0.1:65536"]
)
def test_addresses_off_loopback(tmp_path: Path, address: str) -> None:
    """Plain TCP off loopback is refused."""
    refusal = _refusal(tmp_path, MINIMAL + f'[server]\ntcp_address = "{address}"\n')
    assert refusal.startswith(f"server.tcp_address: {address!r} is not HOST:PORT on loopback")


TLS = """
[tls]
certificate = "server.pem"
key = "server.key"
client_authority = "clients.pem"
[tls.allow]
camera = ["jouled.v1.Classifier/*", "grpc.health.v1.Health/Check"]
"""


@pytest.mark.parametrize("address", ["0.0.0.0:8001", "192.168.1.5:443", "[::]:8001", "[fe80::1]:1", "127.0.0.1:8001"])
def test_any_address_with_mutual_tls(tmp_path: Path, address: str) -> None:
    """With mutual TLS the daemon may listen on any address in numbers."""
    path = tmp_path / "jouled.toml"
    path.write_text(MINIMAL + TLS)
    loaded = config.load(path, tcp_address=address)
    assert loaded.server.tcp_address == address
    assert loaded.tls is not None
    assert loaded.tls.allow == {"camera": ("jouled.v1.Classifier/*", "grpc.health.v1.Health/Check")}


@pytest.mark.parametrize(
    "address",
    ["", "example.org:8001", "192.168.1.5", "::1:8001", "[0.0.0.0]:1", "0.0.0.0:x", "0.0.0.0:65536", "[fe80:1"],
)
def test_no_address_for_mutual_tls(tmp_path: Path, address: str) -> None:
    """What is no address in numbers is refused, and so is TLS for no port at all."""
    refusal = _refusal(tmp_path, MINIMAL + f'[server]\ntcp_address = "{address}"\n' + TLS)
    assert refusal == f"server.tcp_address: {address!r} is not ADDRESS:PORT in numbers, which [tls] takes"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("v1.Classifier/*", "v1.Clasifier/*", "tls.allow.camera: 'jouled.v1.Clasifier/*' is no method; did you mean"),
        ("v1.Classifier/*", "v1.Control/*", "tls.allow.camera: 'jouled.v1.Control/*' is no method"),
        ('key = "server.key"', "", "tls: Object missing required field `key`"),
        ("[tls.allow]", "[tls.alow]", "tls.alow: unknown key; did you mean 'allow'?"),
    ],
)
def test_refused_tls(tmp_path: Path, old: str, new: str, expected: str) -> None:
    """A pattern that matches no method of the inference plane and a file that is not named are refused."""
    assert _refusal(tmp_path, MINIMAL + TLS.replace(old, new)).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "budget_watts = 5.0",
            "budget_wats = 5.0",
            "policy.all.budget_wats: unknown key; did you mean 'budget_watts'?",
        ),
        ("driver =", "zzz = 1\ndriver =", "device.chip.zzz: unknown key; known are driver, threads"),
        ("start_policy", "start_polcy", "start_polcy: unknown key; did you mean 'start_policy'?"),
        ('start_policy = "all"', "", "Object missing required field `start_policy`"),
        ('start_policy = "all"', 'start_policy = "al"', "start_policy: no such policy 'al'; did you mean 'all'?"),
        ('start_policy = "all"', "start_policy = 3", "start_policy: Expected `str`, got `int`"),
        ("loihi-sim", "loihi-simm", "device.chip.driver: unknown driver 'loihi-simm'; did you mean 'loihi-sim'?"),
        ("loihi-sim", "toaster", "device.chip.driver: unknown driver 'toaster'; known are cpu, "),
        ('"accuracy"', '"acuracy"', "policy.all.strategy: unknown 'acuracy'; did you mean 'accuracy'?"),
        ('"accuracy"', '"pin"', "policy.all.pin: '' is neither snn, dnn nor a device"),
        ('"accuracy"', '"pin"\npin = "chap"', "policy.all.pin: 'chap' is neither snn, dnn nor a device; did you mean"),
        ('"accuracy"', '"saver"\npin = "snn"', "policy.all.pin: only strategy 'pin' takes it, the strategy is 'saver'"),
        ("5.0", "-1.0", "policy.all.budget_watts: Expected `float` >= 0.0, not -1.0"),
        ("5.0", "nan", "policy.all.budget_watts: Expected `float` >= 0.0"),
        ("5.0", "inf", "policy.all.budget_watts: Expected `float` <= 1000000.0"),
        ("5.0", '"5"', "policy.all.budget_watts: Expected `float`, got `str`"),
        ("5.0", "5.0\nwindow_seconds = 0", "policy.all.window_seconds: Expected `float` > 0.0"),
        ('"loihi-sim"', '"cpu"\ncore_watts = inf', "device.chip.core_watts: Expected `float` <= 1000.0"),
        ('"loihi-sim"', '"cpu"\nthreads = 0', "device.chip.threads: Expected `int` >= 1"),
        (
            '"loihi-sim"', '"loihi-sim"\nusb_port = "1-1"',
            "device.chip.usb_port: only driver 'ncs2' takes it, the driver is 'loihi-sim'",
        ),
        ('"loihi-sim"', '"loihi-sim"\nfallback = "chop"', "device.chip.fallback: no such device 'chop'; did you mean"),
        ('"loihi-sim"', '"loihi-sim"\nfallback = "chip"', "device.chip.fallback: chip -> chip goes in a circle"),
        (
            "[policy.all]",
            '[device.a]\ndriver = "cpu"\nfallback = "b"\n[device.b]\ndriver = "cpu"\nfallback = "a"\n[policy.all]',
            "device.a.fallback: a -> b -> a goes in a circle",
        ),
        ('"loihi-sim"', '"ncs2"\nusb_port = "port 4"', "device.chip.usb_port: Expected `str` matching regex"),
        ('"loihi-sim"', '"loihi-lava"\nboard = "og-5"', "device.chip.board: only driver 'loihi' takes it"),
        ("[device.chip]", '[device."No Good"]', "device.No Good: a name must match"),
        ("[policy.all]", '[policy.ALL]', "policy.ALL: a name must match"),
        ("5.0", "5.0\n[server]\nbatch_limt = 3", "server.batch_limt: unknown key; did you mean 'batch_limit'?"),
        ("5.0", "5.0\n[server]\nbatch_limit = 0", "server.batch_limit: Expected `int` >= 1, not 0"),
        ("5.0", '5.0\npower_down = ["chp"]', "policy.all.power_down: no such device 'chp'; did you mean 'chip'?"),
        ("5.0", '5.0\npower_down = "chip"', "policy.all.power_down: Expected `array`, got `str`"),
        (
            '"accuracy"',
            '"pin"\npin = "chip"\npower_down = ["chip"]',
            "policy.all.power_down: 'chip' is what the policy is pinned to",
        ),
        ("5.0", '5.0\n[[trigger]]\npolicy = "al"\nhours = "22:00-06:00"', "trigger[0].policy: no such policy 'al'"),
        ("5.0", '5.0\n[[trigger]]\npolicy = "all"', "trigger[0]: it has no condition; known are hours, on_battery"),
        ("5.0", '5.0\n[[trigger]]\npolicy = "all"\nhour = ""', "trigger[0].hour: unknown key; did you mean 'hours'?"),
        ("5.0", '5.0\n[[trigger]]\npolicy = "all"\nhours = "22-6"', "trigger[0].hours: Expected `str` matching regex"),
        (
            "5.0",
            '5.0\n[[trigger]]\npolicy = "all"\nhours = "01:00-02:00"\nsensor = "x"',
            "trigger[0].sensor: only above_celsius and below_celsius take it",
        ),
        ('start_policy = "all"', 'start_policy = "all"\ntrigger = 3', "trigger: Expected `array`, got `int`"),
        (
            'start_policy = "all"', 'start_policy = "all"\ntrusted_keys = ["00ff"]',
            "trusted_keys[0]: Expected `str` matching regex '^[0-9a-f]{64}$', not '00ff'",
        ),
        ('[device.chip]\ndriver = "loihi-sim"', "device = 3", "device: Expected `object`, got `int`"),
        ('[device.chip]\ndriver = "loihi-sim"', "[device]", "device: Expected `object` of length >= 1"),
        ('[device.chip]\ndriver = "loihi-sim"', "", "Object missing required field `device`"),
        ("[policy.all]", "[policy.all", "Expected ']' at the end of a table declaration"),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, old: str, new: str, expected: str) -> None:
    """Every mistake is told by key and reason, with the nearest right word."""
    assert old in MINIMAL
    assert _refusal(tmp_path, MINIMAL.replace(old, new)).startswith(expected)


def test_no_file(tmp_path: Path) -> None:
    """A missing file and a folder are told as such."""
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory"):
        config.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path)


def test_not_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are refused."""
    path = tmp_path / "jouled.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="utf-8"):
        config.load(path)
