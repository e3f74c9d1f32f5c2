"""Take over what the configuration file says now: policies and triggers at once, all else at the next start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import structlog

from daemon import supervisor
from daemon.config import Config
from daemon.dispatcher import Dispatcher
from daemon.errors import ConfigError, PolicyRefused
from daemon.triggers import TriggerWatch

# What a running daemon takes over.
LIVE = {"policy", "trigger", "start_policy"}

log = structlog.get_logger()


class Reloaded(NamedTuple):
    """What a reload changed: policies by name, and the sections that wait for a restart."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    needs_restart: list[str]


class Reload:
    """Reads the configuration again. What is refused changes nothing."""

    def __init__(
        self, config: Config, read: Callable[[], Config], dispatcher: Dispatcher, triggers: TriggerWatch
    ) -> None:
        self._started_with = config
        self._read = read
        self._dispatcher = dispatcher
        self._triggers = triggers
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self) -> Reloaded:
        """Reload. Raises `PolicyRefused` with file, key and reason."""
        async with self._one_at_a_time:
            try:
                config = await asyncio.to_thread(self._read)
            except ConfigError as error:
                raise PolicyRefused(str(error)) from None
            before = self._dispatcher.policies
            self._dispatcher.check_policies(config.policy)
            await self._triggers.replace(config.trigger, config.start_policy)
            self._dispatcher.replace_policies(config.policy, config.start_policy)
        known = before.keys() & config.policy.keys()
        done = Reloaded(
            added=sorted(config.policy.keys() - before.keys()),
            removed=sorted(before.keys() - config.policy.keys()),
            changed=sorted(name for name in known if before[name] != config.policy[name]),
            needs_restart=[
                field.name
                for field in msgspec.structs.fields(Config)
                if field.name not in LIVE and getattr(config, field.name) != getattr(self._started_with, field.name)
            ],
        )
        log.info("configuration reloaded", policy=self._dispatcher.router.name, **done._asdict())
        return done

    async def when(self, signalled: asyncio.Event) -> None:
        """Wait for a signal, reload, and tell the supervisor of both ends; what is refused stands in the log."""
        await signalled.wait()
        signalled.clear()
        supervisor.reloading()
        try:
            await self()
        except PolicyRefused as error:
            log.error("configuration refused", reason=str(error))
        finally:
            supervisor.notify("READY=1")
