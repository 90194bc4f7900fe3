"""The command line: the only part that prints, reads the environment, or exits."""

from nasattn.cli.app import main

__all__ = ["main"]
