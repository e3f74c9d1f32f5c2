"""What an unmodified tritonclient gets from the server at HOST:PORT for the image in FILE, as JSON.

Runs in an environment of its own: tritonclient's generated modules and this project's cannot live in one process.
"""

from __future__ import annotations

import json
import queue
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton  # type: ignore[import-not-found]
from tritonclient.utils import InferenceServerException  # type: ignore[import-not-found]


def main(address: str, file: str) -> None:
    """Call the server in right and wrong ways."""
    image = np.frombuffer(Path(file).read_bytes(), np.uint8).reshape(1, 8, 8)
    client = triton.InferenceServerClient(address)
    ranked = [triton.InferRequestedOutput("scores", class_count=3)]
    plain = client.infer("digits", [tensor(image)], request_id="mine")
    best = client.infer("digits", [tensor(image)], outputs=ranked).as_numpy("scores")
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("digits"),
        "unknown_ready": client.is_model_ready("letters"),
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata("digits", as_json=True),
        "config": client.get_model_config("digits", as_json=True)["config"],
        "index": client.get_model_repository_index(as_json=True)["models"],
        "streamed": streamed(client, image),
        "id": plain.get_response().id,
        "shape": plain.as_numpy("scores").shape,
        "label": int(plain.as_numpy("scores").argmax()),
        "energy_joules": plain.get_response().parameters["energy_joules"].double_param,
        "ranked": [text.decode() for text in best[0]],
        "unknown_model": status(client, "letters", tensor(image)),
        "unknown_version": status(client, "digits", tensor(image), model_version="9"),
        "wrong_shape": status(client, "digits", tensor(image[:, :7])),
        "wrong_type": status(client, "digits", tensor(image.astype(np.float32), "FP32")),
        "wrong_name": status(client, "digits", tensor(image, name="picture")),
        "wrong_output": status(client, "digits", tensor(image), outputs=[triton.InferRequestedOutput("tints")]),
        "large_batch": status(client, "digits", tensor(np.repeat(image, 65, axis=0))),
        "no_input": status(client, "digits"),
        "timeout": status(client, "digits", tensor(image), timeout=1),
        "client_timeout": status(client, "digits", tensor(image), client_timeout=1e-5),
    }
    client.close()
    print(json.dumps(found))  # noqa: T201


def streamed(client: Any, image: Any) -> int:
    """Classify over a stream."""
    replies: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: replies.put((result, error)))
    client.async_stream_infer("digits", [tensor(image)], request_id="streamed")
    result, error = replies.get(timeout=30)
    client.stop_stream()
    return -1 if error else int(result.as_numpy("scores").argmax())


def tensor(values: Any, datatype: str = "UINT8", name: str = "image") -> Any:
    """Wrap an array."""
    wrapped = triton.InferInput(name, list(values.shape), datatype)
    wrapped.set_data_from_numpy(values)
    return wrapped


def status(client: Any, model: str, *inputs: Any, **options: Any) -> str:
    """Infer, and give the status of the refusal."""
    try:
        client.infer(model, list(inputs), **options)
    except InferenceServerException as error:
        return str(error.status())
    return "answered"


if __name__ == "__main__":
    main(*sys.argv[1:])
