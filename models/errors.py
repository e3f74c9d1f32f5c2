"""The errors that leave `models`."""

from __future__ import annotations


class ConversionError(Exception):
    """A network cannot be converted. `subject` names the node or layer, `reason` says what is wrong with it."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"{subject}: {reason}")
        self.subject = subject
        self.reason = reason


class DataError(Exception):
    """A data set cannot be read. `subject` names the file or folder, `reason` says what is wrong with it."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"{subject}: {reason}")
        self.subject = subject
        self.reason = reason
