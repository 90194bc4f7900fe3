"""What a study found, as tables and files."""

from nasattn.report.front import Front, FrontRow, read_front, write_front

__all__ = ["Front", "FrontRow", "read_front", "write_front"]
