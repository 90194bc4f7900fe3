"""`nasattn draw`: a network, or the difference of two, as a picture."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from rich.console import Console

from nasattn.arch import Architecture
from nasattn.baselines.baseline import PICTURES, Pictures
from nasattn.cli.show import check_pictures
from nasattn.errors import ArchitectureError, StudyError
from nasattn.files import slug, write_bytes
from nasattn.report.drawings.architecture_drawing import draw_architecture
from nasattn.report.drawings.difference_drawing import draw_difference
from nasattn.report.drawings.drawing import Drawing
from nasattn.search.storage import TRIAL, open_storage, read_trial
from nasattn.words import printable
from nasattn.zoo import ZOO, NamedNetwork, read_network

WRITERS: dict[str, Callable[[Drawing], bytes]] = {
    ".svg": lambda drawing: drawing.svg().encode(),
    ".png": lambda drawing: drawing.png(),
}
MOST = 2  # networks in a picture


def draw_command(
    names: Sequence[str],
    out: Path | None,
    resolution: int | None,
    num_classes: int | None,
    storage: str,
) -> None:
    """Write the picture of one network, or of the difference of two."""
    if len(names) > MOST:
        raise ArchitectureError(f"draw: takes one network or two, not {len(names)}")
    networks = [find_network(name, storage) for name in names]
    out = out or Path(f"{slug('-'.join(network.name for network in networks))}.svg")
    if out.suffix not in WRITERS:
        raise StudyError(f"--out: {out} must end in {' or '.join(WRITERS)}")
    pictures = check_pictures(networks[0], resolution, num_classes)
    write_picture(out, draw(networks, pictures))
    Console(highlight=False, markup=False, soft_wrap=True).print(f"written: {printable(str(out))}")


def find_network(name: str, storage: str) -> NamedNetwork:
    """What `nasattn show` would show, or a trial: STUDY/NUMBER, also with `trial:` before it."""
    is_trial = name.startswith(TRIAL) or (name not in ZOO and re.fullmatch(r".+/\d+", name))
    if not is_trial:
        return read_network(name)
    name = name.removeprefix(TRIAL)
    architecture, settings = read_trial(storage, TRIAL + name)
    study = optuna.load_study(study_name=name.rpartition("/")[0], storage=open_storage(storage))
    usual = PICTURES["ImageNet"]
    resolution = settings.get("resolution") or usual.resolution
    n_classes = study.user_attrs.get("n_classes") or usual.num_classes
    return NamedNetwork(name, architecture, Pictures(resolution, n_classes))


def draw(networks: Sequence[NamedNetwork], pictures: Pictures) -> Drawing:
    """One network, or two and what differs."""
    (first, *rest), side, n_classes = networks, pictures.resolution, pictures.num_classes
    plan, name = plan_of(first), first.name
    if not rest:
        return draw_architecture(plan, title=name, resolution=side, num_classes=n_classes)
    other, titles = plan_of(rest[0]), (name, rest[0].name)
    return draw_difference(plan, other, titles, resolution=side, num_classes=n_classes)


def plan_of(network: NamedNetwork) -> Architecture:
    """The architecture of a network; a reference has none."""
    if network.architecture is None:
        raise ArchitectureError(
            f"{network.name}: is a reference; only nasattn's own architectures can be drawn"
        )
    return network.architecture


def write_picture(out: Path, drawing: Drawing) -> None:
    """The picture in the form that the file's name asks for; StudyError where it cannot go."""
    try:
        write_bytes(out, WRITERS[out.suffix](drawing))
    except OSError as e:
        raise StudyError(f"--out: {out} cannot be written ({e.strerror})") from e
