"""`jouled reload`: let the daemon read its configuration again."""

from __future__ import annotations

from daemon.cli.options import CALL_SECONDS, AsJson, Runtime
from daemon.cli.output import as_dict, daemon_errors, print_json
from daemon.client import control, default_runtime
from protos import jouled_pb2 as pb


def reload(runtime: Runtime = None, json: AsJson = False) -> None:
    """Take over the policies and triggers of the configuration file; an invalid file is refused and changes nothing."""
    place = runtime or default_runtime()
    with daemon_errors(place):
        reply = control(place).Reload(pb.ReloadRequest(), timeout=CALL_SECONDS)
    if json:
        print_json(as_dict(reply))
        return
    for word in ("added", "removed", "changed"):
        names = getattr(reply, word)
        if names:
            print(f"{word}: {', '.join(names)}")
    print(f"policy {reply.policy} is in force")
    if reply.needs_restart:
        print(f"changed, but only a restart takes it over: {', '.join(reply.needs_restart)}")
