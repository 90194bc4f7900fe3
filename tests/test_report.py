import csv
import json
from pathlib import Path

import optuna
import pytest

from nasattn.arch import parse_architecture
from nasattn.baselines import BASELINES
from nasattn.errors import StudyError
from nasattn.report import Front, FrontRow, read_front, write_front
from nasattn.report.front import describe

LAM = BASELINES["lam"].architecture


def study_of(rows: list[tuple[float, float, str, dict[str, float]]]) -> optuna.Study:
    """A study from (top1, macs, baseline or '', violations) a trial."""
    study = optuna.create_study(directions=["maximize", "minimize"], study_name="s")
    study._storage.set_study_system_attr(  # what set_metric_names writes, without its warning
        study._study_id, "study:metric_names", ["top1", "macs"]
    )
    study.set_user_attr("n_val", 100)
    for i, (top1, macs, baseline, violations) in enumerate(rows):
        trial = study.ask()
        trial.set_user_attr("arch_id", f"{i:012d}")
        trial.set_user_attr("architecture", LAM.to_json())
        trial.set_user_attr("values", {"top1": top1, "macs": macs})
        trial.set_user_attr("reason", "")
        if baseline:
            trial.set_user_attr("baseline", baseline)
        for name, value in violations.items():
            trial.set_constraint(name, value)
        study.tell(trial, [top1, macs])
    return study


def test_the_front_is_what_nothing_dominates_and_baselines_stay_beside_it() -> None:
    front = read_front(
        study_of(
            [
                (0.7, 10e6, "lam", {}),  # dominated by the next
                (0.8, 9e6, "", {}),
                (0.9, 20e6, "mobilenet_v2", {}),
                (0.6, 30e6, "", {}),  # dominated, no baseline: left out
                (0.5, 1e6, "", {}),
            ]
        )
    )
    assert [(row.network, row.on_front) for row in front.rows] == [
        ("mobilenet_v2", True),
        ("000000000001", True),
        ("lam", False),
        ("000000000004", True),
    ]


def test_a_network_that_breaks_a_limit_is_not_on_the_front() -> None:
    front = read_front(study_of([(0.9, 9e6, "", {"top1>=0.95": 0.05}), (0.8, 9e6, "", {})]))
    assert [row.network for row in front.rows] == ["000000000001"]


def test_a_duplicate_stands_on_the_front_once() -> None:
    study = study_of([(0.9, 9e6, "", {})])
    trial = study.ask()
    for name, value in study.trials[0].user_attrs.items():
        trial.set_user_attr(name, value)
    trial.set_user_attr("duplicate_of", 0)
    study.tell(trial, [0.9, 9e6])
    assert [row.trial for row in read_front(study).rows] == [0]


def test_an_empty_study_has_an_empty_front() -> None:
    assert read_front(study_of([])).rows == ()


def test_accuracy_margin_is_wilsons() -> None:
    front = read_front(study_of([(0.9, 1e6, "", {})]))
    # n = 100, p = 0.9: z sqrt(p q / n + z^2 / 4 n^2) / (1 + z^2 / n) = 1.96 * 0.031556 / 1.038416
    assert front.accuracy_margin() == pytest.approx(0.05956, abs=1e-4)


def test_written_files_hold_the_front(tmp_path: Path) -> None:
    front = read_front(study_of([(0.9, 9e6, "lam", {}), (0.8, 5e6, "", {})]))
    paths = write_front(front, tmp_path / "out")
    assert [path.name for path in paths] == ["front.csv", "front.json"]
    rows = list(csv.DictReader(paths[0].read_text().splitlines()))
    assert [(row["network"], row["top1"], row["on_front"]) for row in rows] == [
        ("lam", "0.9", "True"),
        ("000000000001", "0.8", "True"),
    ]
    stored = json.loads(paths[1].read_text())
    assert parse_architecture(stored["rows"][0]["architecture"]) == LAM
    lam = json.loads((tmp_path / "out" / "architectures" / "lam.json").read_text())
    assert parse_architecture(lam["architecture"]) == LAM
    assert not list((tmp_path / "out").glob(".*"))  # no temporary file is left


def test_a_network_that_left_the_front_leaves_the_folder(tmp_path: Path) -> None:
    write_front(read_front(study_of([(0.8, 5e6, "", {})])), tmp_path)
    (tmp_path / "architectures" / "mine.json").write_text("{}")
    (tmp_path / "architectures" / "0123456789ab.json").write_text("{}")
    write_front(read_front(study_of([(0.8, 5e6, "", {}), (0.9, 4e6, "lam", {})])), tmp_path)
    assert {path.name for path in (tmp_path / "architectures").iterdir()} == {
        "lam.json",
        "mine.json",
    }


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file: cannot be written .*--out takes another"):
        write_front(read_front(study_of([(0.8, 5e6, "", {})])), tmp_path / "file")


def test_describe_says_what_sets_a_network_apart() -> None:
    assert describe(LAM) == "lam*6 aff"
    assert describe(BASELINES["mobilenet_v2"].architecture) == "plain"
    tree = LAM.model_dump() | {"head": {"pooling": "gem", "gem_p": 4}}
    tree["stages"][0]["attention"] = {"kind": "se"}
    assert describe(parse_architecture(tree)) == "lam*5 se aff gem4"


def test_rows_are_values() -> None:
    front = read_front(study_of([(0.9, 9e6, "", {})]))
    assert isinstance(front, Front)
    assert isinstance(front.rows[0], FrontRow)
