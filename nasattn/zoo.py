"""ZOO: every network that has a name, the papers' and the libraries', and their figures checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from nasattn.arch import Architecture, parse_architecture
from nasattn.baselines import BASELINES, Baseline
from nasattn.baselines.baseline import COUNTED, PICTURES, Pictures, Published
from nasattn.compress.narrow import Cuts, narrow
from nasattn.cost import StaticCost, count_cost
from nasattn.errors import ArchitectureError, UnknownNameError
from nasattn.model import build_model
from nasattn.references import REFERENCES, Reference


@dataclass(frozen=True)
class NamedNetwork:
    """A network that can be built, whatever it is, and the pictures that it is for."""

    name: str
    plan: Architecture | Reference
    pictures: Pictures = PICTURES["ImageNet"]
    family: str = "file"
    source: str = ""
    published: tuple[Published, ...] = ()
    note: str = ""
    in_zoo: bool = False  # else its name is a file's, and says nothing of what it is
    cuts: Cuts = ()  # of a pruned network: what is gone of the plan, in that order

    @property
    def architecture(self) -> Architecture | None:
        """The network as a value of ours; None for a reference."""
        return self.plan if isinstance(self.plan, Architecture) else None

    def build(self, num_classes: int, resolution: int, in_chs: int = 3) -> nn.Module:
        """The network: (N, in_chs, resolution, resolution) -> (N, num_classes) logits.

        Ours adapts its strides to small pictures; a reference stays what its library makes it.
        Raises WeightsError for cuts that do not fit.
        """
        if isinstance(self.plan, Reference):
            model = self.plan.build(num_classes, in_chs)
        else:
            model = build_model(self.plan.at_resolution(resolution), num_classes, in_chs)
        narrow(model, self.cuts, self.name)
        return model

    def count(self, pictures: Pictures) -> StaticCost:
        """What the network costs for some pictures; only shapes are computed."""
        with torch.device("meta"):
            model = self.build(pictures.num_classes, pictures.resolution)
        return count_cost(model, pictures.resolution)


def named(entry: Baseline | Reference) -> NamedNetwork:
    """A row of BASELINES or REFERENCES, with the pictures that it is drawn for."""
    return NamedNetwork(
        entry.name,
        entry.architecture if isinstance(entry, Baseline) else entry,
        PICTURES[home(entry)],
        entry.family,
        entry.source,
        entry.published,
        entry.note,
        in_zoo=True,
    )


def home(entry: Baseline | Reference) -> str:
    """The key of PICTURES that a network is drawn for.

    Where its first published count is; else CIFAR-10 if it fits 32 pixels as it stands.
    """
    for figure in entry.published:
        if figure.metric in COUNTED:
            return figure.where
    small = isinstance(entry, Baseline) and fits(entry.architecture, PICTURES["CIFAR-10"])
    return "CIFAR-10" if small else "ImageNet"


def fits(arch: Architecture, pictures: Pictures) -> bool:
    """Whether a network needs no change of strides for such pictures."""
    return arch.at_resolution(pictures.resolution) == arch


ENTRIES: tuple[Baseline | Reference, ...] = (*BASELINES.values(), *REFERENCES.values())
ZOO: Mapping[str, NamedNetwork] = {entry.name: named(entry) for entry in ENTRIES}


def get_network(name: str) -> NamedNetwork:
    """A network of the zoo by name; raises UnknownNameError."""
    if name not in ZOO:
        raise UnknownNameError("network", name, known=ZOO)
    return ZOO[name]


def read_network(name: str) -> NamedNetwork:
    """A network of the zoo, or a JSON file: an architecture, or a network that a search wrote.

    Raises UnknownNameError, or ArchitectureError where the file does not hold a network.
    """
    path = Path(name)
    if name in ZOO or path.suffix != ".json":
        return get_network(name)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        reason = getattr(e, "strerror", None) or e
        raise ArchitectureError(f"{path}: cannot be read as JSON ({reason})") from e
    if not isinstance(data, dict) or "architecture" not in data:
        return NamedNetwork(path.stem, parse_architecture(data, str(path)))
    architecture = parse_architecture(data["architecture"], str(path))
    return NamedNetwork(path.stem, architecture, searched_pictures(data))


def searched_pictures(data: Mapping[str, object]) -> Pictures:
    """The pictures that a search's network is for, where its file says so."""
    settings = data.get("settings")
    resolution = settings.get("resolution") if isinstance(settings, dict) else None
    num_classes = data.get("n_classes")
    if isinstance(resolution, int) and isinstance(num_classes, int):
        return Pictures(resolution, num_classes)
    return PICTURES["ImageNet"]


@dataclass(frozen=True)
class Check:
    """A published figure, and what the network costs for the pictures that it was counted for."""

    network: NamedNetwork
    figure: Published
    cost: StaticCost | None = None  # None: only training or a clock can tell

    @property
    def counted(self) -> int | None:
        """Our count of the figure."""
        if self.cost is None:
            return None
        return self.cost.params if self.figure.metric == "params" else self.cost.macs

    @property
    def difference(self) -> float | None:
        """How far our count is from the published figure, as a share of it."""
        return None if self.counted is None else self.counted / self.figure.value - 1

    @property
    def exact(self) -> bool:
        """Whether our count is the published figure to its printed digits."""
        return self.counted is not None and replace(self.figure, tolerance=None).agrees(
            self.counted
        )

    @property
    def holds(self) -> bool | None:
        """Whether the figure's verdict is what counting gives: a `no` must not agree."""
        if self.counted is None:
            return None
        return self.figure.agrees(self.counted) == (self.figure.verdict != "no")

    @property
    def verdict(self) -> str:
        """The figure's verdict where it is right, "off" where it is not, "" where it has none."""
        if self.figure.verdict is None:
            return ""
        return self.figure.verdict if self.holds else "off"


def check_published(network: NamedNetwork) -> list[Check]:
    """Every published figure of a network, beside our count where counting can tell."""
    places = dict.fromkeys(f.where for f in network.published if f.metric in COUNTED)
    costs = {where: network.count(PICTURES[where]) for where in places}
    return [
        Check(network, figure, costs[figure.where] if figure.metric in COUNTED else None)
        for figure in network.published
    ]


def select_networks(family: str | None = None, paper: str | None = None) -> list[NamedNetwork]:
    """The zoo's networks of a family, and of those that a paper has figures of.

    Raises UnknownNameError for a family, or a paper in it, that nobody has.
    """
    networks = list(ZOO.values())
    if family is not None:
        families = {network.family for network in networks}
        if family not in families:
            raise UnknownNameError("family", family, families)
        networks = [network for network in networks if network.family == family]
    if paper is not None:
        papers = {figure.paper for network in networks for figure in network.published}
        if paper not in papers:
            raise UnknownNameError("paper", paper, papers, f"family {family!r}" if family else "")
        networks = [n for n in networks if any(f.paper == paper for f in n.published)]
    return networks
