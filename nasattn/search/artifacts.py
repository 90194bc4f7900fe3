"""Files that ride along with a trial, where Optuna Dashboard finds them."""

import csv
import io
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nasattn.errors import StudyError
from nasattn.train.loop import Epoch

if TYPE_CHECKING:
    from optuna.trial import Trial


def attach(trial: "Trial", files: Mapping[str, str | bytes], folder: Path) -> None:
    """Keep files as artifacts under their names (once, however often a trial is redone).

    Raises StudyError where the folder cannot be written.
    """
    # Slow to import, and `nasattn train` writes curves without it.
    from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

    missing = files.keys() - {meta.filename for meta in get_all_artifact_meta(trial)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store = FileSystemArtifactStore(folder)
        with tempfile.TemporaryDirectory() as scratch:
            for name in sorted(missing):
                path = Path(scratch) / name
                content = files[name]
                data = content.encode() if isinstance(content, str) else content
                path.write_bytes(data)
                upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)
    except OSError as e:
        raise StudyError(f"{folder}: cannot be written ({e.strerror or e})") from e


def curve_csv(curve: Iterable[Epoch]) -> str:
    """A learning curve as CSV: epoch, loss, top1, seconds."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("epoch", "loss", "top1", "seconds"))
    rows.writerows((e.number, f"{e.loss:.6g}", f"{e.top1:.6g}", f"{e.seconds:.3f}") for e in curve)
    return text.getvalue()
