"""Sample images that an artifact may carry: calibration runs them, so that its joules are those of real pictures."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Optional

import numpy as np

from hal.errors import ArtifactError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact

SAMPLES = "samples.npy"
SAMPLES_LIMIT = 64


def pack(images: NDArray[np.generic]) -> bytes:
    """Give the file that holds (N, *input shape) images of the input's type."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(images), allow_pickle=False)
    return buffer.getvalue()


def spread(images: NDArray[np.generic], count: int = 32) -> NDArray[np.generic]:
    """Choose `count` images at equal distances, or all where there are fewer."""
    chosen: NDArray[np.generic] = images[np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)]
    return chosen


def read(artifact: Artifact) -> Optional[NDArray[np.generic]]:
    """Give the images of a verified artifact, or None where it carries none. Raises `ArtifactError`."""
    content = artifact.files.get(SAMPLES)
    if content is None:
        return None
    spec = artifact.manifest.input
    try:
        images: NDArray[np.generic] = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ArtifactError(artifact.name, f"{SAMPLES} cannot be read: {error}") from None
    if images.dtype != np.dtype(spec.dtype) or images.shape[1:] != spec.shape or not 1 <= len(images) <= SAMPLES_LIMIT:
        raise ArtifactError(
            artifact.name,
            f"{SAMPLES} is {images.dtype} {images.shape}, the input takes {spec.dtype} (1 to {SAMPLES_LIMIT}, "
            f"{', '.join(map(str, spec.shape))})",
        )
    return images
