"""The widths inside attention modules, for the modules and for their rows (no torch)."""


def hidden_width(channels: int, rd_ratio: int, least: int = 1) -> int:
    """Channels of the hidden layer: channels / rd_ratio rounded down, but `least` at least."""
    return max(channels // rd_ratio, least)
