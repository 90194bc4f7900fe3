"""What a command writes down of a study before its first trial."""

from collections.abc import Mapping

import optuna
from rich.console import Console

from nasattn.evaluate import Setting
from nasattn.objectives import Cost
from nasattn.search.environment import environment
from nasattn.search.storage import short
from nasattn.words import printable

LONG = 50  # characters


def prepare(console: Console, study: optuna.Study, setting: Setting) -> dict[str, float]:
    """Write down once what this study ran on; returns its reference latencies, by objective."""
    if "environment" not in study.user_attrs:
        measured = [row for row in setting.needed() if row.cost == Cost.MEASURED]
        found = {row.name: setting.meter(row).measure_reference() for row in measured}
        references = {name: latency.reference_ms for name, latency in found.items()}
        study.set_user_attr("reference_ms", references)
        study.set_user_attr("n_val", len(setting.data.val_search))
        study.set_user_attr("n_select", len(setting.data.val_select))
        study.set_user_attr("n_classes", len(setting.data.classes))
    note_environment(console, study)
    references = study.user_attrs.get("reference_ms", {})
    # Studies of version 0.1 and before have the one of `latency_ms`.
    return references if isinstance(references, dict) else {"latency_ms": references}


def note_environment(console: Console, study: optuna.Study) -> None:
    """Write down once what this study ran on, and say what is different now.

    What an older study did not write down is not compared.
    """
    if "environment" not in study.user_attrs:
        study.set_user_attr("environment", environment())
    note_differences(console, "study", study.user_attrs["environment"])


def note_differences(console: Console, what: str, stored: Mapping[str, object]) -> None:
    """Say what is different now from the environment that something began in."""
    now = environment()
    for name in stored:
        if stored[name] != now.get(name):
            words = differing_words(str(stored[name]), now.get(name, "none"))
            line = f"note: this {what} began with {name} {words[0]}, goes on with {words[1]}"
            console.print(printable(line), markup=False)


def differing_words(then: str, now: str) -> tuple[str, str]:
    """Two texts; of long ones only the words that the other one has not."""
    if max(len(then), len(now)) <= LONG:
        return then, now
    old, new = then.split(), now.split()
    lost, gained = ([w for w in a if w not in b] for a, b in ((old, new), (new, old)))
    return short(" ".join(lost) or "less"), short(" ".join(gained) or "less")
