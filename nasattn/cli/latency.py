"""`nasattn latency`: networks timed, or foretold, on the runtime where they will live."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nasattn.cli.data import load_with_progress
from nasattn.cli.folders import check_target, write_result
from nasattn.cli.machine import check_here, check_params, machine_turns
from nasattn.cli.show import check_pictures
from nasattn.cli.tables import add_row, name_column, number_column, table
from nasattn.cost.bench import N_PICTURES, Bench, Measured
from nasattn.cost.features import arch_features
from nasattn.cost.latency import Latency
from nasattn.cost.measurements import MeasuredNetwork, Measurements, read_measurements
from nasattn.cost.pieces import PieceCounter
from nasattn.cost.predictor import MIN_NETWORKS, Features
from nasattn.data.augment import Normalise, to_float
from nasattn.errors import EvaluationError, StudyError
from nasattn.evaluate import LATENCY_REFERENCE
from nasattn.runtimes.protocol import Effort
from nasattn.runtimes.spec import RuntimeSpec
from nasattn.space import load_space
from nasattn.train.loop import to_tensors
from nasattn.words import plural
from nasattn.zoo import NamedNetwork, read_network

MOST_PIXELS = 64  # of the pictures that are loaded; larger ones are made from these
MIB = 2**20
MEMORY = {
    "cpu": "the peak above what the runtime takes by itself",
    "cuda": "the GPU's, at its peak",
}


@dataclass(frozen=True)
class Wanted:
    """What is to be measured."""

    networks: Sequence[str]
    space: str | None
    samples: int
    seed: int
    resolution: int | None
    classes: int | None
    reference: str
    data: str

    def named(self) -> dict[str, NamedNetwork]:
        """The networks by name; those of a space are random ones, by arch_id."""
        found: dict[str, NamedNetwork] = {}
        for text in self.networks:
            network = read_network(text)
            if network.name in found:
                raise StudyError(f"{text}: is the second network called {network.name!r}")
            found[network.name] = network
        if self.space is not None:
            space, rng = load_space(self.space), Random(self.seed)
            wanted = len(found) + self.samples
            for _ in range(100 * self.samples):  # the same network may be drawn again
                if len(found) < wanted:
                    arch = space.decode(space.sample(rng))
                    found[arch.arch_id] = NamedNetwork(arch.arch_id, arch)
        if not found:
            raise StudyError("nothing to measure: name a network, or --space a search space")
        return found


@dataclass(frozen=True)
class Scene:
    """Networks as they are built for pictures of one size."""

    networks: Mapping[str, NamedNetwork]
    reference: NamedNetwork
    resolution: int
    num_classes: int
    pictures: Tensor  # (N, 3, H, W), normalised

    def build(self, network: NamedNetwork) -> nn.Module:
        """A network with random weights, the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            check_params(network.name, lambda: network.build(self.num_classes, self.resolution))
            return network.build(self.num_classes, self.resolution).eval()

    def models(self) -> Mapping[str, nn.Module]:
        return Models(self)


@dataclass(frozen=True)
class Models(Mapping[str, nn.Module]):
    """A scene's networks, each built when it is asked for: many would fill the memory."""

    scene: Scene

    def __getitem__(self, name: str) -> nn.Module:
        return self.scene.build(self.scene.networks[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.scene.networks)

    def __len__(self) -> int:
        return len(self.scene.networks)


def latency_command(
    wanted: Wanted,
    runtimes: Sequence[RuntimeSpec],
    effort: Effort,
    *,
    memory: bool,
    fit: Path | None,
    json_file: Path | None,
    cache_dir: Path,
) -> int:
    """Measure on every runtime in turn; 1 where a network has no latency, else 0."""
    console = Console(highlight=False)
    for file in filter(None, (fit, json_file)):
        check_target(file, *(other for other in (fit, json_file) if other is not file))
    if fit and len(runtimes) > 1:
        raise StudyError("--fit: learns one runtime at a time")
    for spec in runtimes:
        check_here(spec)
    scene = set_scene(console, wanted, cache_dir)
    features: dict[str, Features] = {}
    if fit:  # what cannot be learned from is found out before anything is measured
        if (n := len(scene.networks)) < MIN_NETWORKS:
            raise StudyError(
                f"--fit: learns from {MIN_NETWORKS} networks or more, not {n}; see --space"
            )
        features = describe(scene.networks, scene.num_classes, scene.resolution)
    turns = machine_turns(console, cache_dir)
    report: list[dict[str, Any]] = []
    for spec in runtimes:
        bench = Bench(
            spec,
            scene.build(scene.reference),
            scene.pictures,
            effort=effort,
            memory=memory,
            turns=turns,
        )
        try:
            bench.start()
            found = list(with_progress(console, bench, scene))
            report.append(report_of(bench, scene, found))
            show(console, bench, scene, found)
        finally:
            bench.close()
    if json_file:
        write_result(json_file, json.dumps(report, indent=1) + "\n")
        console.print(f"written: {json_file}", markup=False, soft_wrap=True)
    if fit:
        learn(console, scene, runtimes[0], found, features, fit)
    else:
        first = next(iter(wanted.networks), LATENCY_REFERENCE)
        console.print(f"where the time goes: nasattn show {first} --layers --latency", markup=False)
    return int(any(one["reason"] for part in report for one in part["networks"]))


def effort_of(precision: str) -> Effort:
    """How long to measure for a precision in per cent."""
    try:
        share = float(precision) / 100
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise StudyError(f"--precision: must be 0 to 100 per cent, is {precision!r}")
    return Effort(precision=share)


def set_scene(console: Console, wanted: Wanted, cache_dir: Path) -> Scene:
    """The networks, and real pictures for them."""
    networks, reference = wanted.named(), read_network(wanted.reference)
    size = check_pictures(next(iter(networks.values())), wanted.resolution, wanted.classes)
    resolution, num_classes = size.resolution, size.num_classes
    data = load_with_progress(console, wanted.data, min(resolution, MOST_PIXELS), cache_dir)
    images, _ = to_tensors(data.train, "cpu")
    pictures = Normalise.of(images)(to_float(to_tensors(data.val_search, "cpu")[0][:N_PICTURES]))
    if data.resolution != resolution:
        pictures = interpolate(pictures, (resolution, resolution), mode="bilinear")
    return Scene(networks, reference, resolution, num_classes, pictures)


def with_progress(console: Console, bench: Bench, scene: Scene) -> Iterator[Measured]:
    """Measure all networks, with a bar on a terminal."""
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task(f"measuring on {bench.spec}", total=len(scene.networks))
        for measured in bench.measure_all(scene.models()):
            yield measured
            bar.advance(task)


def show(console: Console, bench: Bench, scene: Scene, found: Sequence[Measured]) -> None:
    """The table of a runtime, and how far its figures can be trusted."""
    if any(one.latency for one in found):
        console.print(latency_table(bench.spec, scene, found))
        console.print(words(bench, scene, found), style="dim", markup=False)
    for one in found:
        if one.reason:
            line = f"{one.name} has no latency: {one.reason}"
            console.print(line, style="red", markup=False, soft_wrap=True)


def latency_table(spec: RuntimeSpec, scene: Scene, found: Sequence[Measured]) -> Table:
    """A row a network, the fastest first."""
    heads = ("median ms", "p10", "p90", "ratio", "± %", "n", "FPS", "memory", "file")
    made = table(
        name_column("network"), *map(number_column, heads), title=f"{spec.row.title}", tight=True
    )
    known = [(one.name, one.latency) for one in found if one.latency]
    for name, latency in sorted(known, key=lambda pair: pair[1].relative):
        mark = " =" if name == scene.reference.name else ""
        add_row(made, (name + mark, *cells(latency)))
    return made


def cells(latency: Latency) -> tuple[str, ...]:
    """A latency's row."""
    return (
        *(f"{ms:.3g}" for ms in (latency.median_ms, latency.p10_ms, latency.p90_ms)),
        f"{latency.relative:.3f}",
        "-" if latency.precision is None else f"{100 * latency.precision:.1f}",
        str(latency.n),
        f"{latency.fps:,.0f}",
        mebibytes(latency.peak_bytes),
        mebibytes(latency.size_bytes),
    )


def mebibytes(n: int | None) -> str:
    """`8.5 M`, or `-` where it is not known."""
    return "-" if n is None else f"{n / MIB:.1f} M"


def words(bench: Bench, scene: Scene, found: Sequence[Measured]) -> str:
    """What was measured, on what, and how the figures are to be read."""
    spec, facts = bench.spec, bench.facts
    pinned = ", ".join(map(str, facts["pinned"]))
    cores = f"pinned to core {pinned}" if pinned else "not pinned"
    side = f"{scene.resolution}x{scene.resolution}"
    lines = [
        f"{bench.runtime}, {plural(spec.threads, 'thread')}, {spec.device}, {cores}; "
        f"batch {spec.batch} of {side}",
        f"{facts['processor']}, {facts['cores']} cores, load {facts['load']}, "
        f"governor {facts['governor']}",
        *([f"on {spec.target}"] if spec.target else []),
        f"ratio: of lower quartiles, to {scene.reference.name}'s in the same rounds, ± half",
        "its 95 % interval: of all figures the one that comes out the same tomorrow",
    ]
    if parities := [one.parity for one in found if one.parity]:
        worst = max(parity.max_diff for parity in parities)
        lines.append(
            f"parity: logits differ from eager torch by at most {worst:.1g} of the largest,\n"
            f"over {plural(parities[0].n, 'picture')}"
        )
    if found and bench.memory:
        lines.append(
            f"memory: {MEMORY[spec.device.split(':')[0]]}; energy: "
            + energy_words([one.latency for one in found if one.latency])
        )
    return "\n".join(lines)


def energy_words(latencies: Sequence[Latency]) -> str:
    """Millijoules a run, or that nobody can tell."""
    known = [latency.energy_mj for latency in latencies if latency.energy_mj is not None]
    return f"{min(known):.3g} to {max(known):.3g} mJ a run" if known else "not available"


def report_of(bench: Bench, scene: Scene, found: Sequence[Measured]) -> dict[str, Any]:
    """All that was measured on a runtime, as plain data."""
    return {
        "runtime": str(bench.spec),
        "version": bench.runtime,
        "machine": dict(bench.facts),
        "reference": scene.reference.name,
        "resolution": scene.resolution,
        "num_classes": scene.num_classes,
        "networks": [asdict(one) for one in found],
    }


def describe(
    networks: Mapping[str, NamedNetwork], num_classes: int, resolution: int
) -> dict[str, Features]:
    """What a predictor is told of networks; EvaluationError for a reference."""
    counter = PieceCounter(num_classes, resolution)
    found: dict[str, Features] = {}
    for name, network in networks.items():
        if network.architecture is None:
            raise EvaluationError(
                f"{name}: is a reference, no architecture of ours: it cannot be learned from, nor "
                "foretold"
            )
        found[name] = arch_features(network.architecture.at_resolution(resolution), counter)
    return found


def learn(
    console: Console,
    scene: Scene,
    spec: RuntimeSpec,
    found: Sequence[Measured],
    features: Mapping[str, Features],
    file: Path,
) -> None:
    """Write the measured networks down, and say how well others can be foretold from them."""
    known = {one.name: one.latency for one in found if one.latency}
    if len(known) < MIN_NETWORKS:
        raise EvaluationError(
            f"--fit: {len(known)} networks have a latency, {MIN_NETWORKS} or more must; {file} is "
            "not written"
        )
    reference_ms = torch.tensor([one.reference_ms for one in known.values()]).median().item()
    rows = [
        MeasuredNetwork(
            name=name,
            features=dict(features[name]),
            latency_ms=latency.relative * reference_ms,
        )
        for name, latency in known.items()
    ]
    learned = Measurements(
        runtime=str(spec),
        reference=scene.reference.name,
        reference_ms=reference_ms,
        resolution=scene.resolution,
        num_classes=scene.num_classes,
        networks=tuple(rows),
    )
    error = learned.predictor.error
    write_result(file, learned.to_json())
    console.print(
        f"learned from {plural(len(rows), 'network')}: others are foretold with a median error of "
        f"{100 * error:.1f} %",
        markup=False,
    )
    console.print(
        f"written: {file}\nforetell others: nasattn latency NETWORK --predict {file}", markup=False
    )


def predict_command(wanted: Wanted, file: Path, as_json: Path | None) -> int:
    """Foretell networks from those of a file; nothing is measured."""
    console = Console(highlight=False)
    learned = read_measurements(file)
    for option, given, own in (
        ("--resolution", wanted.resolution, learned.resolution),
        ("--classes", wanted.classes, learned.num_classes),
    ):
        if given not in (None, own):
            raise EvaluationError(f"{file}: is of {option} {own}, not {given}")
    features = describe(wanted.named(), learned.num_classes, learned.resolution)
    predictor = learned.predictor
    foretold = predictor.predict(list(features.values()))
    rows = list(zip(features, *map(list, foretold), strict=True))
    made = table(name_column("network"), *map(number_column, ("ms", "low", "high")))
    for name, *figures in sorted(rows, key=lambda row: row[1]):
        add_row(made, (name, *(f"{ms:.3f}" for ms in figures)))
    console.print(made)
    console.print(
        f"foretold for {learned.runtime} from {plural(len(learned.networks), 'network')} measured "
        f"there,\nwith a median error of {100 * predictor.error:.1f} %; low to high hold of "
        f"{100 * predictor.coverage:.0f} % of networks like those",
        style="dim",
        markup=False,
    )
    if as_json:
        plain = [dict(zip(("network", "ms", "low", "high"), row, strict=True)) for row in rows]
        write_result(as_json, json.dumps({"error": predictor.error, "networks": plain}) + "\n")
    return 0
