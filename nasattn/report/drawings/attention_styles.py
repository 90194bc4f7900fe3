"""ATTENTION_STYLES: the fixed colour of every kind of attention.

Okabe and Ito's colours, which the colour-blind can tell apart, are fewer than the kinds: kin share
one, the second of them dashed. A name stands beside each in every picture.
"""

from dataclasses import dataclass
from zlib import crc32

ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
RED, PINK, BLACK = "#D55E00", "#CC79A7", "#000000"


@dataclass(frozen=True)
class AttentionStyle:
    """How a kind is drawn."""

    colour: str
    dashed: bool = False


ATTENTION_STYLES: dict[str, AttentionStyle] = {
    "se": AttentionStyle(ORANGE),
    "gc": AttentionStyle(ORANGE, dashed=True),
    "eca": AttentionStyle(SKY),
    "lsa": AttentionStyle(GREEN),
    "spatial": AttentionStyle(GREEN, dashed=True),
    "lam": AttentionStyle(BLUE),
    "ska": AttentionStyle(BLUE, dashed=True),
    "cbam": AttentionStyle(RED),
    "bam": AttentionStyle(RED, dashed=True),
    "lgam": AttentionStyle(PINK),
    "sge": AttentionStyle(PINK, dashed=True),
    "nl": AttentionStyle(BLACK),
}
# Of plug-ins, by their names: dark tones of Tol's muted scheme.
PLUGIN_STYLES = tuple(map(AttentionStyle, ("#332288", "#882255", "#999933", "#AA4499")))


def style_of(kind: str) -> AttentionStyle:
    """The style of a kind; the same one each time for a plug-in's."""
    if kind in ATTENTION_STYLES:
        return ATTENTION_STYLES[kind]
    return PLUGIN_STYLES[crc32(kind.encode()) % len(PLUGIN_STYLES)]


def paler(colour: str, share: float) -> str:
    """A colour `#rrggbb` of which `share` is left, the rest white."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - share * (255 - c)):02x}" for c in channels)
