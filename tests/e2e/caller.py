"""Ask for a label as a client of the network: `python -m tests.e2e.caller ADDRESS [AUTHORITY [CERTIFICATE KEY]]`.

Prints how the call ended, a status and its message, as JSON. Without an authority it speaks in the clear.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import grpc
import numpy as np

from protos.jouled_pb2_grpc import ClassifierStub
from tests.daemon.certificates import SERVER
from tests.daemon.serving import digit_request

CALL_SECONDS = 10.0


def call(address: str, *files: str) -> tuple[str, str]:
    """Call, and give how that ended."""
    authority, certificate, key = [*(Path(name).read_bytes() for name in files), None, None, None][:3]
    options = [("grpc.ssl_target_name_override", SERVER)]
    channel = (
        grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, certificate), options)
        if files
        else grpc.insecure_channel(address)
    )
    with channel:
        try:
            ClassifierStub(channel).Classify(digit_request(np.zeros((8, 8), np.uint8)), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            return error.code().name, str(error.details())
        return "OK", ""


if __name__ == "__main__":
    print(json.dumps(call(*sys.argv[1:])))
