"""Build the network of a spiking artifact. It needs NumPy only, so a vendor's interpreter can do it as well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from hal.errors import ArtifactError
from hal.snn import parts

if TYPE_CHECKING:
    from hal.artifact import Artifact
    from hal.snn.network import Network

STRUCTURE, TENSORS = "network.json", "network.safetensors"


def read_network(artifact: Artifact) -> Network:
    """Give the network of a verified artifact. Raises `ArtifactError` where it is not what the manifest says."""
    missing = {STRUCTURE, TENSORS} - artifact.manifest.files.keys()
    if missing:
        raise ArtifactError(artifact.name, f"{', '.join(sorted(missing))} is missing")
    try:
        structure = json.loads(artifact.files[STRUCTURE])
    except (ValueError, RecursionError) as error:
        raise ArtifactError(artifact.name, f"the network cannot be read: {error}") from None
    network = parts.put_together(structure, artifact.tensors, artifact.name)
    manifest = artifact.manifest
    if network.layers[0].size != int(np.prod(manifest.input.shape)):
        raise ArtifactError(
            artifact.name, f"the network takes {network.layers[0].shape}, the manifest says {manifest.input.shape}"
        )
    if network.classes != len(manifest.labels):
        raise ArtifactError(artifact.name, f"{network.classes} scores for {len(manifest.labels)} labels")
    return network
