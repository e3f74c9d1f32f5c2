"""`jouled calibrate`: find out what the devices of a configuration draw, and write it for the daemon."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from daemon import calibration, config
from daemon.calibrate import Bench, Power, Resident, images_of
from daemon.calibration import Calibration, DeviceFigures
from daemon.cli.options import AsJson
from daemon.cli.output import fail, joules, print_json, print_table
from daemon.client import default_runtime, default_state
from daemon.clock import NANO, boot_nanoseconds
from daemon.config import Config
from daemon.errors import ConfigError
from daemon.opening import open_configured
from daemon.repository import SHIPPED, scan
from hal.energy.frontier import Found, choose, detect
from hal.errors import HalError
from hal.names import near

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact
    from hal.device import Device

SYSFS = Path("/sys")
SAMPLING_NANOSECONDS = NANO // 10

Images = Mapping[str, "NDArray[np.generic]"]


def calibrate(
    file: Annotated[Path, typer.Option("--config", help="The daemon's configuration.")] = Path(
        "/etc/jouled/jouled.toml"
    ),
    out: Annotated[
        Path | None, typer.Option(help="The file to write; calibration.json beside the journal where left out.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Only this device; may be repeated. All else.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, max=600, help="How long each figure is measured.")] = 2.0,
    images: Annotated[
        list[str] | None, typer.Option(help="MODEL=FILE.npy with images to run; the artifact's samples where left out.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Measure what devices and operating points draw. No daemon may run meanwhile."""
    from daemon.server import StartError, own

    target = out or default_state() / "calibration.json"
    try:
        settings = config.load(file)
        chosen = device or list(settings.device)
        for name in chosen:
            if name not in settings.device:
                fail(f"{file}: no device {name!r}{near(name, settings.device)}")
        given = dict(_images(each) for each in images or ())
        with own(default_runtime()):
            found = _measure(settings, chosen, given, seconds)
        before = calibration.load(target, settings.device).device if target.exists() else {}
        made = Calibration(
            calibration.FORMAT, f"jouled {importlib.metadata.version('jouled')}", int(time.time()),
            calibration.host_mark(), {**before, **found},
        )  # fmt: skip
        calibration.save(target, made)
    except (ConfigError, HalError, StartError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or target}: {error.strerror}")
    if json:
        print_json(msgspec.to_builtins(made))
        return
    for name in chosen:
        _print(name, found[name])
    print(f"{target}: written. The daemon uses it with calibration = {str(target)!r} in {file}")


def _images(text: str) -> tuple[str, NDArray[np.generic]]:
    model, equals, name = text.partition("=")
    if not equals:
        fail(f"--images {text!r}: MODEL=FILE.npy is needed", 2)
    try:
        return model, np.load(name, allow_pickle=False)
    except (OSError, ValueError) as error:
        fail(f"--images {name}: {error}")


def _measure(settings: Config, chosen: list[str], given: Images, seconds: float) -> dict[str, DeviceFigures]:
    folder = Path(settings.repository) if settings.repository else SHIPPED
    repository = scan(folder, trusted=settings.trusted_keys)
    meters = detect(SYSFS, boot_nanoseconds, sampling_nanoseconds=SAMPLING_NANOSECONDS)
    found = {}
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        for name in chosen:

            def tell(what: str, name: str = name) -> None:
                progress.update(task, description=f"{name}: {what}")

            options = settings.device[name]
            with closing(open_configured(name, options, tell)) as device:
                bench = Bench(
                    device, _power(name, device, meters), boot_nanoseconds, time.sleep, seconds=seconds, tell=tell
                )
                found[name] = bench.measure(options.driver, _load(device, repository.artifacts, given))
    return found


def _power(name: str, device: Device, meters: list[Found]) -> Power:
    """Watch the meters that account for a device, if any do."""
    accounts = choose(meters, {name: device.boundary}).accounts
    names = {meter for account in accounts if name in account.devices for meter in account.meters}
    return Power(
        [each.meter for each in meters if each.meter.name in names], boot_nanoseconds, SAMPLING_NANOSECONDS
    )  # fmt: skip


def _load(device: Device, artifacts: list[Artifact], given: Images) -> list[Resident]:
    """Load what the daemon would load, and what fits."""
    residents = []
    for artifact in artifacts:
        if artifact.manifest.kind is device.kind:
            images, inputs = images_of(artifact, given)
            residents.append(Resident(artifact, device.load(artifact), images, inputs))
    return residents


def _print(name: str, figures: DeviceFigures) -> None:
    static = figures.static_power[calibration.ON]
    source = ", ".join(figures.meters) or "the device's model"
    print(
        f"{name}: {static.watts:.4g} W +- {static.uncertainty_watts:.2g} W when idle, {figures.provenance} by {source}"
    )
    for inputs in sorted({point.inputs for point in figures.points}):
        print(f"{name}: ran {inputs}")
    rows = [
        (
            f"{point.model}/{point.variant}", f"{point.steps}" + (f"-{point.margin}" if point.margin else ""),
            joules(point.saturated.dynamic_joules * NANO), joules(point.saturated.dynamic_joules_spread * NANO),
            joules(point.half_load.dynamic_joules * NANO), joules(point.upper_joules * NANO),
            f"{point.saturated.seconds * 1e3:.3g}",
        )
        for point in figures.points
    ]  # fmt: skip
    columns = ("variant", "steps", "mean", "spread", "half load", "bound", "time [ms]")
    print_table("dynamic energy of an image", columns, rows)
