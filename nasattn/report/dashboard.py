"""What Optuna Dashboard shows of a study beside Optuna's own: a note for each trial and the study,
pictures, and charts. All of it lies in the study's attributes and in its artifacts' folder, so any
dashboard on that storage shows it.

Attributes are written as the dashboard's own functions would; those read the whole study for each.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from nasattn.arch import Architecture
from nasattn.errors import ArchitectureError, NasattnError, StudyError
from nasattn.files import write_bytes
from nasattn.report.charts.plotly_chart import plotly_figure
from nasattn.report.charts.search_charts import is_ablation, search_charts
from nasattn.report.charts.search_record import read_record
from nasattn.report.drawings.architecture_drawing import draw_architecture
from nasattn.report.drawings.curve_drawing import draw_curve
from nasattn.report.front import read_front
from nasattn.report.front_table import front_table, front_words
from nasattn.report.markup import markdown_table
from nasattn.report.trial_note import safe, trial_note
from nasattn.search.control import SUFFIX
from nasattn.search.history import GIVEN_UP
from nasattn.search.outcomes import count_finished
from nasattn.search.quick import QuickStorage
from nasattn.search.selection import Selected, read_selection
from nasattn.search.trials import finished_networks, network_of

# The dashboard reads all notes of a study for each of its trials: with more of them it would crawl.
MOST_NOTES = 1000
MOST_ROWS = 60  # networks of a front in the study's note
CHUNK = 10_000  # characters of an attribute; MySQL holds 65,535 bytes, six a character at most
LETTERS, HEIGHT = 96, 470  # of a chart, of which the dashboard shows two side by side; pixels
BATCH = 20  # notes that are written at once
FRESH = 1.0  # seconds for which what was read of a study's attributes will do

# The dashboard's names of attributes of a study.
ARTIFACT = "dashboard:artifacts:{trial}:{artifact}"
TRIAL_NOTE, STUDY_NOTE = "dashboard:{trial}:note_", "dashboard:note_"
PLOT = "dashboard:plot_data:{name}:"
# Ours: what a note was when we wrote it, and what there was at the last look.
WRITTEN = "nasattn:written:"
STATE = "nasattn:reviewed"

Writing = Callable[[], AbstractContextManager[optuna.Study]]  # gives the study, to be written


def catch_up(study: optuna.Study, folder: Path, writing: Writing | None = None) -> bool:
    """Write every note, picture and chart that is missing or old; returns whether there were any.

    What somebody else has written stays. `writing` gives the right to write, a moment at a time;
    None: it is had. Raises StudyError where the folder cannot be written.
    """
    writing = writing or (lambda: nullcontext(study))
    notes = Notes(study, folder)
    state = _state(study)  # of before: what is finished meanwhile is for the next time
    changed = False
    wanted = notes.wanted()
    for start in range(0, len(wanted), BATCH):
        new: dict[str, Any] = {}
        for number in wanted[start : start + BATCH]:
            new |= notes.note(number)
        changed |= notes.write(new, writing)
    changed |= notes.write(chart_attributes(study, notes.stored()), writing)
    own = _note(STUDY_NOTE, _study_words(study), notes.stored())
    return notes.write(own | {STATE: state}, writing) or changed


def is_up_to_date(study: optuna.Study) -> bool:
    """Whether nothing has been finished since the last `catch_up`."""
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return attributes.get(STATE) == _state(study)


def _state(study: optuna.Study) -> list[Any]:
    """How many trials of it and of its control are finished, and trainings with fresh seeds."""
    names = study.study_name, f"{study.study_name}{SUFFIX}"
    storage = study._storage
    ids = [s._study_id for s in storage.get_all_studies() if s.study_name in names]
    runs = sum(len(by) for by in study.user_attrs.get("selection", {}).values())
    return [[count_finished(storage, i) for i in sorted(ids)], runs]


class Notes:
    """The notes of a study's trials, which are read once."""

    def __init__(self, study: optuna.Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self.trials = study.get_trials(deepcopy=False)
        self.selected: Mapping[str, Selected] = {}
        if not is_ablation(study):
            self.selected = read_selection(study, read_record(study).objectives).judge()
        settings = study.user_attrs.get("settings", {})
        self.resolution = settings.get("resolution") or 224
        self.n_classes = study.user_attrs.get("n_classes")
        self.n_val = int(study.user_attrs.get("n_val") or 0)
        self._stored: dict[str, Any] = {}
        self._read = -FRESH

    def stored(self) -> dict[str, Any]:
        """The study's attributes, as they are, or were a moment ago."""
        if time.monotonic() - self._read > FRESH:
            self._stored = self.study._storage.get_study_system_attrs(self.study._study_id)
            self._read = time.monotonic()
        return self._stored

    @property
    def n_noted(self) -> int:
        """How many trials have a note of ours."""
        return sum(key.startswith(f"{WRITTEN}dashboard:") for key in self.stored())

    def wanted(self) -> list[int]:
        """Trials in their order; of a long study the baselines, the best, and the latest."""
        done = [t for t in self.trials if t.state.is_finished() and GIVEN_UP not in t.user_attrs]
        if len(done) <= MOST_NOTES:
            return [t.number for t in done]
        first = [t.number for t in done if "baseline" in t.user_attrs]
        first += [t.number for t in done if t.user_attrs.get("arch_id") in self.selected]
        first += [row.trial for row in read_front(self.study).rows if row.on_front]
        noted = [t.number for t in done if WRITTEN + _prefix(t) in self.stored()]
        kept = dict.fromkeys([*first, *noted, *(t.number for t in reversed(done))])
        return sorted([*kept][:MOST_NOTES])

    def note(self, number: int) -> dict[str, Any]:
        """The attributes of one trial's note and pictures; the pictures' files are written."""
        trial = self.trials[number]
        arch = _network(trial)
        links = {name: self.link(trial, i) for name, i in self.artifacts(trial).items()}
        new: dict[str, Any] = {}
        for name, data in self.pictures(trial, arch, links).items():
            artifact = str(uuid.uuid4())
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_bytes(self.folder / artifact, data)
            except OSError as e:
                raise StudyError(f"{self.folder}: cannot be written ({e.strerror or e})") from e
            key = ARTIFACT.format(trial=trial._trial_id, artifact=artifact)
            kept: dict[str, Any] = {"artifact_id": artifact, "filename": name}
            kept |= {"mimetype": "image/png", "encoding": None}
            new[key] = json.dumps(kept)
            links[name] = self.link(trial, artifact)
        body = trial_note(
            trial,
            arch,
            resolution=self.resolution,
            selected=self.selected.get(trial.user_attrs.get("arch_id", "")),
            links=links,
        )
        return new | _note(_prefix(trial), body, self.stored())

    def write(self, new: Mapping[str, Any], writing: Writing) -> bool:
        """Write what has changed, with the right to do so for as long as that takes."""
        changed = {k: v for k, v in new.items() if self.stored().get(k) != v}
        if changed:
            with writing() as study:
                self.set(study, changed)
        return bool(changed)

    def set(self, study: optuna.Study, new: Mapping[str, Any]) -> None:
        """Write attributes, in one transaction where that can be."""
        changed = {k: v for k, v in new.items() if self.stored().get(k) != v}
        storage = getattr(study._storage, "_backend", study._storage)
        if isinstance(storage, QuickStorage):
            storage.set_study_system_attrs(study._study_id, changed)
        else:
            for key, value in changed.items():
                storage.set_study_system_attr(study._study_id, key, value)
        self._stored.update(changed)

    def link(self, trial: FrozenTrial, artifact: str) -> str:
        return f"/artifacts/{self.study._study_id}/{trial._trial_id}/{artifact}"

    def artifacts(self, trial: FrozenTrial) -> dict[str, str]:
        """Ids of a trial's files, by name."""
        own = ARTIFACT.format(trial=trial._trial_id, artifact="")
        entries = [v for k, v in trial.system_attrs.items() if k.startswith("artifacts:")]
        entries += [v for k, v in self.stored().items() if k.startswith(own)]
        found = [json.loads(entry) for entry in entries]
        return {one["filename"]: one["artifact_id"] for one in found if one}

    def pictures(
        self, trial: FrozenTrial, arch: Architecture | None, known: Iterable[str]
    ) -> dict[str, bytes]:
        """PNGs that are not there yet."""
        attributes, found = trial.user_attrs, {}  # as wide as a note is: it does not shrink them
        if arch and "architecture.png" not in known:
            title = attributes.get("baseline", attributes.get("arch_id", ""))
            try:
                drawing = draw_architecture(
                    arch, title=title, resolution=self.resolution, num_classes=self.n_classes
                )
                found["architecture.png"] = drawing.png(scale=1)
            except ArchitectureError:  # no map of it is left at that resolution
                pass
        if attributes.get("curve") and "curve.png" not in known:
            found["curve.png"] = draw_curve(attributes["curve"], self.n_val).png(scale=1)
        return found


def chart_attributes(study: optuna.Study, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a search's charts."""
    new: dict[str, Any] = {}
    for name, chart in search_charts(study).items():
        text = plotly_figure(chart, wrap=LETTERS, height=HEIGHT).to_json() or ""
        new |= _chunks(PLOT.format(name=name), text, stored)
    return new


def _study_words(study: optuna.Study) -> str:
    name = safe(study.study_name)
    if is_ablation(study):
        return f"An ablation: `nasattn report` writes what {name} shows, with its statistics.\n"
    if not finished_networks(study):
        return "No network is finished yet that keeps to the limits.\n"
    front = read_front(study)
    words = "\n".join(f"- {safe(line)}" for line in front_words(front))
    return f"{markdown_table(front_table(front, MOST_ROWS), level=3)}\n\n{words}\n"


def _prefix(trial: FrozenTrial) -> str:
    return TRIAL_NOTE.format(trial=trial._trial_id)


def _network(trial: FrozenTrial) -> Architecture | None:
    """A trial's network; None where it has none, or one of a plug-in that is not here."""
    try:
        return network_of(trial)
    except (KeyError, ValueError, NasattnError):
        return None


def _note(prefix: str, body: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """A note's attributes; none where the one that is there was written by somebody else."""
    pieces = (stored.get(f"{prefix}str:{i}", "") for i in range(len(stored)))
    present = "".join(takewhile(bool, pieces))
    if present and stored.get(WRITTEN + prefix) != _digest(present):
        return {}
    version = stored.get(f"{prefix}ver", 1)
    own = {f"{prefix}ver": version, WRITTEN + prefix: _digest(body)}
    return own | _chunks(f"{prefix}str:", body, stored)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _chunks(prefix: str, text: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """A text in pieces, and nothing in those that an earlier one had more."""
    n = -(-len(text) // CHUNK)
    new: dict[str, Any] = {f"{prefix}{i}": text[i * CHUNK : (i + 1) * CHUNK] for i in range(n)}
    old = takewhile(lambda i: f"{prefix}{i}" in stored, count(n))
    return new | {f"{prefix}{i}": "" for i in old}
