"""A source of pictures: cheap to name, read only when the cache does not know it."""

from collections.abc import Callable
from dataclasses import dataclass

from nasattn.data.images import Pictures, Progress


@dataclass(frozen=True, eq=False)
class Source:
    """Where pictures come from."""

    kind: str  # 'folder', 'npz' or a known name
    name: str  # short label for reports
    where: str  # how errors call it: the path, or the known name
    resolution: int  # in pixels, unless the user names another
    mirror: bool  # whether a mirrored picture keeps its class
    fingerprint: str  # changes whenever the pictures may have changed
    read: Callable[[int, Progress | None], Pictures]  # (resolution, progress) -> pictures
