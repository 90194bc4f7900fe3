"""GROUPS: what the parameters of a search space are about, so that 40 of them make ten."""

from fnmatch import fnmatchcase

OTHER = "other"

# Pattern of a parameter's path -> its group; the first that fits. `*` is any stage, or all.
GROUPS: dict[str, str] = {
    "fusion.*": "fusion",
    "*attention.*": "attention",
    "progressive": "attention",
    "head.pooling": "pooling",
    "head.gem_*": "pooling",
    "head.*": "head",
    "stem.width": "width",
    "stem.*": "stem",
    "stages.*width": "width",
    "stages.*depth": "depth",
    "stages.*expansion": "expansion",
    "stages.*kernel": "kernel",
    "stages.*block": "block",
    "stages.*conv": "block",
    "stages.*groups": "block",
    "stages.*radix": "block",
    "stages.*pool": "block",
    "stages.*shortcut": "block",
    "stages.*norm": "block",
    "stages.*run_share": "run share",
    "act": "activation",
}


def group_of(path: str) -> str:
    """The group of a parameter such as `stages.2.attention.kind`; OTHER for what is not known."""
    return next((group for pattern, group in GROUPS.items() if fnmatchcase(path, pattern)), OTHER)
