"""`nasattn run`: the whole road of one file, each part by the command that is made for it."""

import json
from pathlib import Path

from rich.console import Console

from nasattn.cli.explain_pictures import list_pictures
from nasattn.cli.final import RESULT, Ask, final_command
from nasattn.cli.folders import check_folder
from nasattn.cli.optimize import REPORT, check_steps, check_teachers, optimize_command
from nasattn.cli.optimize import Ask as OptimizeAsk
from nasattn.cli.predict import predict_command
from nasattn.cli.search import search_by
from nasattn.cli.teacher import Lesson
from nasattn.road import Road


def run_command(road: Road, *, storage: str, out: Path | None, cache_dir: Path) -> int:
    """Go the road from where it was left; returns the exit status."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    study = road.search
    folder = out or Path("runs") / study.folder_name
    check_folder(folder)
    check_steps(road.optimize)
    check_teachers(road.final.teacher)
    if road.predict:
        list_pictures(road.predict.pictures)
    parts = ["search", "final", *(["optimize"] if road.optimize else [])]
    parts += ["predict"] if road.predict else []

    def announce(part: str) -> None:
        words = f" {parts.index(part) + 1} of {len(parts)}: {part} "
        console.print(f"\n{words:─^80}", style="bold")

    announce("search")
    status = search_by(study, {}, storage=storage, out=folder / "search", cache_dir=cache_dir)
    if status:
        return status
    announce("final")
    final = road.final
    status = final_command(
        study.study_name,
        Ask(
            final.top,
            final.networks,
            final.seeds,
            final.recipe,
            final.epochs,
            study.data,
            study.device,
            study.threads,
        ),
        Lesson(final.teacher, final.temperature, final.weight, features=final.features),
        storage=storage,
        out=folder / "final",
        overwrite=False,
        cache_dir=cache_dir,
    )
    if status:
        return status
    model = best_weights(folder / "final")
    if road.optimize:
        announce("optimize")
        ask = OptimizeAsk(data=study.data, device=study.device, threads=study.threads)
        status = optimize_command(
            str(model), road.optimize, ask, out=folder / "optimize", cache_dir=cache_dir
        )
        if status == 130:
            return status
        model = best_model(folder / "optimize")
    if road.predict:
        announce("predict")
        predict_command(
            str(model), road.predict.pictures, top=road.predict.top, as_json=False, threads=1
        )
    return status


def best_weights(folder: Path) -> Path:
    """Of the first network of a final, the training that val-select liked best."""
    final = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    seeds = final["networks"][0]["seeds"]
    return folder / str(max(seeds, key=lambda seed: seed["val_select"])["weights"])


def best_model(folder: Path) -> Path:
    """What the last step left that is good."""
    rows = json.loads((folder / REPORT).read_text(encoding="utf-8"))["rows"]
    good = [row for row in rows if row["verdict"] != "bad"]
    return Path(good[-1]["path"])
