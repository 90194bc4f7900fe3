"""What a study stands on, in rows: its settings, the machine, its cost, how to do it again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from nasattn.data.openings import Opening
from nasattn.report.document import Bullets, Commands, Facts, Part, Section, Words, section
from nasattn.search.selection import RUNS
from nasattn.words import duration, plural

SPACE = "space"  # of the settings, the one that is too long to be shown as it is


def ground_sections(
    study: optuna.Study, openings: Sequence[Opening] | None = (), commands: Sequence[str] = ()
) -> tuple[Section, ...]:
    """How a study came about, what it cost, and how to make it again.

    `openings` of the test split of its pictures that are noted on this machine; None: not known.
    """
    attributes = study.user_attrs
    settings, machine = attributes.get("settings", {}), attributes.get("environment", {})
    return (
        *section("How it was done", _facts(setting_rows(settings, attributes))),
        *section("Where it ran", _facts([(k, str(v)) for k, v in machine.items()])),
        *section("What it cost", *cost_parts(study, openings)),
        *section("How to do it again", *again_parts(study, commands)),
    )


def _facts(rows: Sequence[tuple[str, str]]) -> Facts | None:
    return Facts(tuple(rows)) if rows else None


def setting_rows(
    settings: Mapping[str, Any], attributes: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Every setting by its name, nested ones by their path; the space by its name."""
    rows = []
    space = settings.get(SPACE)
    if isinstance(space, Mapping):
        n = len(space.get("parameters", {}))
        limits = ", ".join(space.get("constraints", ())) or "none"
        rows.append(("space", f"{space.get('name', '?')}, {plural(n, 'parameter')}"))
        rows.append(("the space's limits", limits))
    rest = {k: v for k, v in settings.items() if not (k == SPACE and isinstance(v, Mapping))}
    rows += _flat(rest)
    names = {
        "n_classes": "classes",
        "n_val": "val-search pictures",
        "n_select": "val-select pictures",
    }
    rows += [(words, f"{attributes[k]:,}") for k, words in names.items() if k in attributes]
    return rows


def _flat(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{path}{name}.")
        else:
            rows.append((f"{path}{name}", _say(value)))
    return rows


def _say(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_say, value)) or "none"
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def cost_parts(study: optuna.Study, openings: Sequence[Opening] | None) -> list[Part]:
    """Hours of trials and of the selection; how often the test split was looked at."""
    trials = study.get_trials(deepcopy=False)
    own = [t.user_attrs for t in trials if "seconds" in t.user_attrs and not _is_copy(t.user_attrs)]
    searched = sum(float(a["seconds"]) * _cores(a) for a in own)
    runs = [run for by in study.user_attrs.get(RUNS, {}).values() for run in by.values()]
    threads = _cores(own[0]) if own else 1
    again = sum(float(run.get("seconds", 0)) * threads for run in runs)
    lost = [(one, _cores(t.user_attrs)) for t in trials for one in t.user_attrs.get("attempts", ())]
    rows = [("trials", f"{core_hours(searched)}, {plural(len(own), 'network')}")]
    if runs:
        rows.append(("the best again", f"{core_hours(again)}, {plural(len(runs), 'training')}"))
    redone = sum(float(one.get("seconds", 0) or 0) * cores for one, cores in lost)
    if lost:
        rows.append(("lost attempts", f"{core_hours(redone)}, {plural(len(lost), 'attempt')}"))
    rows.append(("together", core_hours(searched + again + redone)))
    return [
        Facts(tuple(rows)),
        Words("Hours of processor time: the seconds of each trial times its threads."),
        *_opened(study, openings),
    ]


def _opened(study: optuna.Study, openings: Sequence[Opening] | None) -> list[Part]:
    """How often the test split was looked at, as far as this machine knows."""
    if "data_hash" not in study.user_attrs.get("settings", {}):
        return []  # a table has none
    if openings is None:
        return [Words("How often the sealed test split was opened cannot be read.")]
    n = plural(len(openings), "opening") if openings else "No opening"
    verb = "is" if len(openings) < 2 else "are"
    said = Words(f"{n} of the sealed test split of these pictures {verb} noted on this machine.")
    lines = tuple(f"{one.when}: {one.command}" for one in openings)
    return [said, *([Bullets(lines)] if lines else [])]


def _is_copy(attributes: Mapping[str, Any]) -> bool:
    return "duplicate_of" in attributes


def _cores(attributes: Mapping[str, Any]) -> int:
    return int(attributes.get("threads", 1))


def core_hours(seconds: float) -> str:
    """`0.07 h (4 min)`."""
    return f"{seconds / 3600:.2f} h ({duration(seconds)})"


def again_parts(study: optuna.Study, commands: Sequence[str]) -> list[Part]:
    """The commands that made the study, and what must be equal for the same to come out."""
    attributes = study.user_attrs
    own = attributes.get("run", {}).get("command") or attributes.get("command")
    lines = tuple(dict.fromkeys([*([own] if own else []), *commands]))
    if not lines:
        return []
    return [
        Commands(lines),
        Words(
            "The same seed, versions and kind of processor give the same networks; latencies "
            "differ with the machine."
        ),
    ]
