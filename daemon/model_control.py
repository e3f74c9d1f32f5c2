"""Load models of the repository and take them off the devices while the daemon serves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from daemon.dispatcher import Dispatcher
from daemon.errors import ModelRefused, NotFound, PolicyRefused
from daemon.repository import Repository, names, scan
from hal.artifact import NAME
from hal.errors import ArtifactError
from hal.names import near

log = structlog.get_logger()


class ModelControl:
    """Loads and unloads, one model at a time. `refused` are the artifacts of the repository that were last refused.

    Where there are `trusted` public keys, what none of them signed is refused.
    """

    def __init__(
        self, folder: Path, dispatcher: Dispatcher, refused: list[ArtifactError], trusted: Sequence[str]
    ) -> None:
        self.refused = refused
        self._folder = folder
        self._trusted = trusted
        self._dispatcher = dispatcher
        self._one_at_a_time = asyncio.Lock()

    async def available(self) -> list[tuple[str, str]]:
        """List the repository's models by name and version, loaded or not."""
        return await asyncio.to_thread(names, self._folder)

    async def load(self, name: str) -> None:
        """Read a model of the repository anew, in all its versions, and serve it as it is there now.

        A model that cannot be served as it is now stays what it was. Raises `NotFound`; `ModelRefused` where nothing of
        it can be served, or `PolicyRefused` where a policy has no room for what the devices would draw with it.
        """
        async with self._one_at_a_time:
            found = await self._read(name)
            fleet = self._dispatcher.fleet
            before = await fleet.put(name, found.artifacts)
            models = fleet.models[name].values()
            problems = [problem for model in models for problem in model.problems]
            try:
                self._dispatcher.check_policies(self._dispatcher.policies)
                if problems and not any(model.points for model in models):
                    raise ModelRefused("; ".join(problems))
            except (PolicyRefused, ModelRefused) as error:
                await fleet.put(name, before)
                log.error("model not loaded", model=name, reason=str(error))
                raise
            log.info("model loaded", model=name, versions=list(fleet.models[name]), problems=problems)

    async def _read(self, name: str) -> Repository:
        """Read a model's artifacts; what is refused does not keep the others from serving."""
        # A name is a folder, and no other word must become one.
        found = Repository()
        if NAME.fullmatch(name):
            try:
                found = await asyncio.to_thread(scan, self._folder, name, self._trusted)
            except ArtifactError as error:
                raise ModelRefused(error.reason) from None
        self.refused = [each for each in self.refused if not each.subject.startswith(f"{name}/")] + found.refused
        if found.artifacts:
            return found
        if found.refused:
            raise ModelRefused("; ".join(str(refused) for refused in found.refused))
        known = {model for model, _ in await self.available()}
        raise NotFound(f"no model {name[:64]!r} in the repository{near(name[:64], known)}")

    async def unload(self, name: str) -> None:
        """Take a model off the devices, in all its versions. What is queued is still answered. Raises `NotFound`."""
        async with self._one_at_a_time:
            fleet = self._dispatcher.fleet
            if name not in fleet.models:
                raise NotFound(f"no model {name[:64]!r} is loaded{near(name[:64], fleet.models)}")
            await fleet.put(name, [])
            log.info("model unloaded", model=name)
