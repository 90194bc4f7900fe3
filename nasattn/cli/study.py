"""What a command writes down of a study before its first trial."""

import optuna
from rich.console import Console

from nasattn.evaluate import Setting
from nasattn.objectives import Cost
from nasattn.search.environment import environment
from nasattn.spec import differences


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
    """Write down once what this study ran on, and say what is different now."""
    if "environment" not in study.user_attrs:
        study.set_user_attr("environment", environment())
    for name, then, now in differences(study.user_attrs["environment"], environment()):
        console.print(
            f"note: this study began with {name} {then}, goes on with {now}", markup=False
        )
