"""Words for people: counted nouns, times, text that steers nothing."""


def plural(n: int, noun: str) -> str:
    """`1 epoch`, `3 epochs`."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def duration(seconds: float) -> str:
    """45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def printable(text: str) -> str:
    """Text with every character that a terminal would obey, and not show, as its escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
