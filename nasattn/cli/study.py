"""What a command writes down of a study before its first trial."""

import optuna
from rich.console import Console

from nasattn.evaluate import Setting
from nasattn.search.environment import environment
from nasattn.spec import differences


def prepare(console: Console, study: optuna.Study, setting: Setting) -> float | None:
    """Write down once what this study ran on; returns its reference latency, where it has one."""
    if "environment" not in study.user_attrs:
        if any(row.name == "latency_ms" for row in setting.needed()):
            latency = setting.meter.measure(setting.meter.reference)
            study.set_user_attr("reference_ms", latency.reference_ms)
        study.set_user_attr("n_val", len(setting.data.val_search))
        study.set_user_attr("n_select", len(setting.data.val_select))
        study.set_user_attr("n_classes", len(setting.data.classes))
    note_environment(console, study)
    reference: float | None = study.user_attrs.get("reference_ms")
    return reference


def note_environment(console: Console, study: optuna.Study) -> None:
    """Write down once what this study ran on, and say what is different now."""
    if "environment" not in study.user_attrs:
        study.set_user_attr("environment", environment())
    for name, then, now in differences(study.user_attrs["environment"], environment()):
        console.print(
            f"note: this study began with {name} {then}, goes on with {now}", markup=False
        )
