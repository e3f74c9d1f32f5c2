"""The release."""

from importlib.metadata import version

VERSION = version("jouled")
