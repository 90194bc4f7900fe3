"""`nasattn recommend`: a network to begin with, and a study file to go on with."""

import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import optuna
import yaml
from rich.console import Console
from rich.table import Table

from nasattn.baselines.baseline import Pictures
from nasattn.cli.data import load_with_progress
from nasattn.cli.folders import check_target, write_result
from nasattn.cli.front import lines
from nasattn.cli.options import DEFAULT_STORAGE, amount
from nasattn.cli.tables import add_row, number_column, table
from nasattn.data import ImageData
from nasattn.errors import StudyError, UnknownNameError, shown
from nasattn.files import slug
from nasattn.library import shipped
from nasattn.objectives import Constraint, get_objective
from nasattn.recommend import (
    DEFAULT_SPACE,
    MEASURED,
    PRIORITIES,
    PUBLISHED,
    Known,
    Pick,
    Wish,
    pick,
    published_figure,
    published_top1,
    space_of,
    study_fields,
)
from nasattn.report.charts.search_charts import is_ablation
from nasattn.report.front import FrontRow, read_front
from nasattn.search.storage import open_storage
from nasattn.words import plural
from nasattn.zoo import ZOO

LATENCY = re.compile(r"((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?) ?(?:ms)?(@\S+)?")
WHERE = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}  # known data -> where figures are printed
USUAL = "ImageNet"
MOST_SHOWN = 12


def recommend_command(
    priority: str,
    *,
    max_params: str | None,
    max_macs: str | None,
    max_latency: str | None,
    min_top1: str | None,
    data: str,
    resolution: int | None,
    storage: str,
    out: Path,
    cache_dir: Path,
) -> None:
    """Show the trade-offs and the pick, write the study file."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    wish = read_wish(priority, max_params, max_macs, max_latency, min_top1)
    check_target(out)
    if out.exists():
        raise StudyError(f"{out}: is there already; -o takes another file")
    if not out.absolute().parent.is_dir():
        raise StudyError(f"{out}: must be a file in a folder that exists")
    found_data = load_with_progress(console, data, resolution, cache_dir)
    where = WHERE.get(data, USUAL)
    networks = known_networks(found_data, storage, where)
    found = pick(networks, wish, where, same=data in WHERE)
    fields = study_fields(found, wish, data, resolution, slug(found_data.name))
    side, n = found_data.resolution, len(found_data.classes)
    console.print(f"{found_data.name}: pictures of {side}x{side}, {n} classes")
    console.print(pick_table(found, wish), soft_wrap=False)
    console.print(lines(pick_words(found, wish, where)))
    write_result(out, yaml.safe_dump(fields, sort_keys=False))
    console.print(f"\nwritten: {out}\nnext: nasattn search --study {shlex.quote(str(out))}")


# ---- What is wished ----


def read_wish(
    priority: str,
    max_params: str | None,
    max_macs: str | None,
    max_latency: str | None,
    min_top1: str | None,
) -> Wish:
    """The options as limits. Raises StudyError or UnknownNameError in one line."""
    if priority not in PRIORITIES:
        raise UnknownNameError("priority", priority, known=PRIORITIES)
    limits = []
    for name, text in (("params", max_params), ("macs", max_macs)):
        if (most := amount(f"--max-{name}", text)) is not None:
            limits.append(Constraint(get_objective(name), True, most))
    latency = "latency_ms"
    if max_latency is not None:
        match = LATENCY.fullmatch(max_latency.strip())
        bound = float(match[1]) if match else math.nan
        if not match or not 0 < bound < math.inf:
            raise StudyError(
                f"--max-latency: must be like 8ms or 8ms@onnxruntime, is {shown(max_latency)}"
            )
        latency = get_objective(f"latency_ms{match[2] or ''}").name
        limits.append(Constraint(get_objective(latency), True, bound))
    if min_top1 is not None:
        limits.append(Constraint(get_objective("top1"), False, fraction("--min-top1", min_top1)))
    return Wish(priority, tuple(limits), latency)


def fraction(option: str, text: str) -> float:
    """.9 as a number above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise StudyError(
            f"{option}: must be a fraction above 0 and at most 1 like 0.9, is {shown(text)}"
        )
    return value


# ---- What is known ----


def known_networks(data: ImageData, storage: str, where: str) -> list[Known]:
    """Those whose top-1 a stored study measured on the same pictures, or else a paper printed."""
    pictures = Pictures(data.resolution, len(data.classes))
    measured = dict(measured_networks(data, storage))
    found = []
    for network in ZOO.values():
        top1 = published_top1(network, where)
        if network.name in measured or top1 is None:
            continue
        try:
            cost = network.count(pictures)
        except (RuntimeError, ValueError):  # no map is left of so small pictures
            continue
        ms = published_figure(network, "latency_ms")
        found.append(
            Known(
                network.name,
                space_of(network.family),
                cost.params,
                cost.macs,
                top1,
                PUBLISHED,
                printed_ms=ms[1] if ms else "",
            )
        )
    return [*measured.values(), *found]


def measured_networks(data: ImageData, storage: str) -> Iterator[tuple[str, Known]]:
    """Each study's front and baselines, by name; of a network in several, the last study's."""
    try:
        backend = open_storage(storage)
    except StudyError:
        if storage != DEFAULT_STORAGE:
            raise
        return  # nothing was searched yet
    for summary in backend.get_all_studies():
        study = optuna.load_study(study_name=summary.study_name, storage=backend)
        settings = study.user_attrs.get("settings")
        if not isinstance(settings, dict) or settings.get("data_hash") != data.content_hash:
            continue
        if is_ablation(study):
            continue
        space = settings.get("space", {}).get("name")
        space = space if space in shipped("search_spaces") else DEFAULT_SPACE
        for row in read_front(study).rows:
            if row.state == "complete" and row.top1 is not None:
                yield row.network, from_row(row, space)


def from_row(row: FrontRow, space: str) -> Known:
    """A network that a study trained."""
    latencies = {k: v for k, v in row.values.items() if k.startswith("latency_ms")}
    params, macs = int(row.values["params"]), int(row.values["macs"])
    assert row.top1 is not None
    return Known(row.network, space, params, macs, row.top1, MEASURED, latencies)


# ---- What is shown ----


def pick_table(found: Pick, wish: Wish) -> Table:
    """The networks that the pick was made from, in its order; published figures are marked."""
    latency = get_objective(wish.latency)
    made = table("network", *map(number_column, ("params M", "macs M", "ms", "top1 %")))
    shown_ones = found.shown[:MOST_SHOWN]
    for one in shown_ones:
        ms = latency.show(one.latencies[wish.latency]) if wish.latency in one.latencies else ""
        ms = ms or (f"{one.printed_ms.split()[0]} p" if one.printed_ms else "-")
        mark = "" if one.basis == MEASURED else " p"
        name = f"{'> ' if one is found.network else '  '}{one.name}"
        sizes = (f"{one.params / 1e6:.2f}", f"{one.macs / 1e6:.2f}")
        add_row(made, (name, *sizes, ms, f"{100 * one.top1:.1f}{mark}"))
    return made


def pick_words(found: Pick, wish: Wish, where: str) -> list[str]:
    """The reason, then what the marks mean and what is not known."""
    one = found.network
    words = [f"> {found.reason}"]
    if one.basis == PUBLISHED:
        devices = ", latency on the device of its paper" * any(x.printed_ms for x in found.shown)
        words.append(
            f"p: only published, top-1 on {where}{devices}; not measured here. params and macs are "
            "counted for these pictures"
        )
    else:
        words.append("top1: measured on these pictures by stored studies, by their recipes")
    if any(wish.latency in x.latencies for x in found.shown):
        words.append(f"ms: {wish.latency}, measured by the studies")
    if wish.row.note:
        words.append(wish.row.note)
    if found.open:
        words.append(
            f"not known of {one.name}: {', '.join(found.open)}; the search holds its networks to it"
        )
    if found.n_out:
        words.append(f"left out: {plural(found.n_out, 'network')} beyond a limit")
    if found.n_other:
        words.append(
            f"left out: {plural(found.n_other, 'network')} within the limits whose top-1 is only "
            "published"
        )
    if len(found.shown) > MOST_SHOWN:
        words.append(f"shown are {MOST_SHOWN} of {len(found.shown)}")
    return words
