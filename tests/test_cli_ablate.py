"""`nasattn ablate`, as a user types it."""

import csv
import json
import re
from pathlib import Path

import optuna
import pytest
import yaml

from tests.command import assert_refused, nasattn, start, stop_in_mid_trial

TINY = {
    "stem": {"width": 8},
    "stages": [
        {"depth": 1, "width": 8, "attention": {"kind": "lam"}},
        {"depth": 1, "width": 16, "stride": 2, "attention": {"kind": "lam"}},
    ],
    "head": {"pooling": "gem"},
}
# Four arms of a small network on a handful of digits, one epoch each.
ABLATE = ["ablate", "--base", "tiny.json", "--resolution", "8", "--train-size", "40"]
ABLATE += ["--epochs", "1", "--seeds", "2", "--no-control"]
FILES = {"ablation.csv", "ablation.json", "ablation.md", "ablation.tex", "runs.csv"}


@pytest.fixture(autouse=True)
def _here(here: Path) -> None:
    """Every test works in a folder of its own."""
    Path("tiny.json").write_text(json.dumps(TINY), encoding="utf-8")


def test_ablate_runs_compares_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, *ABLATE, "--ladder", "eca,lsa,gem") == 0
    out = capsys.readouterr().out
    assert "4 arms of tiny.json, 2 seeds" in out
    assert "8/8" in out
    assert "not testable: 2 seeds, 6 are needed" in out
    assert max(map(len, out.split("\nwritten to")[0].splitlines())) <= 80
    folder = Path("runs/ablate-tiny-digits-ladder")
    assert {path.name for path in folder.iterdir()} >= FILES
    rows = list(csv.DictReader((folder / "runs.csv").read_text().splitlines()))
    assert len(rows) == 8

    assert nasattn(monkeypatch, *ABLATE, "--ladder", "eca,lsa,gem") == 0  # nothing is run twice
    again = capsys.readouterr().out
    assert "8/8" not in again
    table = out[out.index("ablate-tiny-digits-ladder: ablation of") :]
    assert again[again.index("ablate-tiny-digits-ladder: ablation of") :] == table


def test_plan_says_what_it_takes_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--plan", "--seeds", "6", "--spread", "0.01"]
    assert nasattn(monkeypatch, *ABLATE, *arguments) == 0
    out = capsys.readouterr().out
    assert "48 runs; about" in out  # base, three parts left out, plain, three parts added
    assert "spread between seeds 1.00 points (stated)" in out
    assert "with 5 % false alarms\n  in 7 tests" in out
    assert out.endswith("--no-control --seeds 6 --spread 0.01\n")
    assert {path.name for path in Path().iterdir()} == {"tiny.json"}


def test_plan_of_a_fraction_states_its_aliases(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {
        name: {"without": {path: value}}
        for name, path, value in (
            ("first", "stages.0.attention.kind", "none"),
            ("second", "stages.1.attention.kind", "none"),
            ("gem", "head.pooling", "avg"),
            ("wide", "stem.width", 4),
        )
    }
    Path("four.yaml").write_text(
        yaml.safe_dump({"base": "tiny.json", "parts": parts}, sort_keys=False)
    )
    arguments = ["ablate", "--study", "four.yaml", "--fraction", "8", "--plan", *ABLATE[3:-3]]
    assert nasattn(monkeypatch, *arguments, "--seeds", "6") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "ablation ablate-tiny-digits-fraction: 8 arms of tiny.json, 6 seeds" in out
    main, pair = (float(x) for x in re.findall(r"(?:effect|interaction) of ([.0-9]+) points", out))
    assert pair == pytest.approx(2 * main, abs=0.02)
    assert out.count("in 7 tests") == 2
    assert "8 of 16 combinations, resolution 4; cannot be told apart: first:second" in out


@pytest.mark.slow
def test_sequential_stops_a_comparison_and_goes_on_alike(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*ABLATE[:-3], "--seeds", "8", "--sequential", "--ladder", "eca,lsa,gem"]
    assert nasattn(monkeypatch, *arguments, "--plan") == 0
    assert "at most 32 runs" in capsys.readouterr().out
    assert nasattn(monkeypatch, *arguments) == 0
    out = capsys.readouterr().out
    stopped = [line for line in out.splitlines() if ", 6 seeds: stop: " in line]
    record = json.loads(Path("runs/ablate-tiny-digits-ladder-sequential/ablation.json").read_text())
    rows = {row["arm"]: row for row in record["rows"]}
    assert "sequential: looked at after 6, 8 seeds; significant where |t| came to " in out
    for row in rows.values():
        early = any(line.split()[0] == row["arm"] for line in stopped)
        assert ("stopped after 6 seeds: " in row["verdict"]) == early
        assert row["n"] == 8 or early
        assert row["p"] is None
    assert nasattn(monkeypatch, *arguments) == 0  # nothing is run twice, and the table is the same
    again = capsys.readouterr().out
    assert again[again.index("-ladder-sequential: ablation of") :] in out
    assert_refused(monkeypatch, capsys, [*arguments, "--seeds", "10"], "seeds: 8 then, 10 now")


@pytest.mark.slow
def test_other_networks_and_those_of_a_search_can_be_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other.json").write_text(json.dumps(TINY | {"head": {"pooling": "avg"}}))
    study = optuna.create_study(storage="sqlite:///nasattn.db", study_name="found")
    study.set_user_attr("settings", {"data": "digits", "resolution": 8, "recipe": {"epochs": 1}})
    trial = study.ask()
    trial.set_user_attr("architecture", json.dumps(TINY))
    study.tell(trial, 0.5)
    study.tell(study.ask(), 0.5)
    arguments = ["ablate", "--base", "trial:found/0", "--networks", "other.json"]
    arguments += ["--train-size", "40", "--seeds", "2"]
    assert nasattn(monkeypatch, *arguments) == 0
    out = capsys.readouterr().out
    assert "ablation ablate-found-0-digits-networks: 2 arms of trial:found/0, 2 seeds" in out
    assert "recipe quick, 1 epoch" in out
    assert "pictures of 8x8" in out
    assert "4/4   other.json" in out
    for base, message in (
        ("trial:found/7", "trial:found/7: the study has trials 0 to 1"),
        ("trial:found/1", "trial:found/1: that trial has no network"),
        ("trial:found", "trial:found: must be trial:STUDY/NUMBER"),
        ("trial:fund/0", "unknown study 'fund'; did you mean 'found'"),
    ):
        assert nasattn(monkeypatch, "ablate", "--base", base) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    study.set_user_attr("settings", {"data": "pictures", "resolution": 8})
    assert nasattn(monkeypatch, "ablate", "--base", "trial:found/0") == 2
    assert "was searched on the pictures 'pictures'; name them by --data" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stored_ablation_goes_on_in_any_order_but_not_with_other_comparisons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, pooling in (("a", "avg"), ("b", "grid")):
        Path(f"{name}.json").write_text(json.dumps(TINY | {"head": {"pooling": pooling}}))
    arguments = [*ABLATE, "--name", "n"]
    assert nasattn(monkeypatch, *arguments, "--networks", "a.json,b.json") == 0
    capsys.readouterr()
    more = ["--networks", "b.json,a.json", "--seeds", "3"]
    assert nasattn(monkeypatch, *arguments, *more) == 0
    assert "9/9" in capsys.readouterr().out
    networks = {"a.json": "base", "b.json": "a.json"}
    Path("other.yaml").write_text(yaml.safe_dump({"base": "tiny.json", "networks": networks}))
    assert nasattn(monkeypatch, *arguments, "--study", "other.yaml") == 2
    message = "settings differ: contrasts.b.json against a.json: not there then"
    assert message in " ".join(capsys.readouterr().err.split())


def test_swap_may_be_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    swaps = ["--swap", "attention=se", "--swap", "attention=eca"]
    assert nasattn(monkeypatch, *ABLATE, *swaps, "--plan") == 0
    assert "arms attention.kind=se, attention.kind=eca\n" in capsys.readouterr().out


def test_a_factorial_is_judged_by_its_effects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["arm,seed,value,se,gem"]
    for seed in range(8):
        for se, gem in ((0, 0), (0, 1), (1, 0), (1, 1)):
            value = 0.8 - 0.05 * se - 0.01 * gem + seed * (1 + se + gem) / 1000
            lines.append(f"{'base' if not se + gem else f's{se}g{gem}'},{seed},{value},{se},{gem}")
    Path("runs.csv").write_text("\n".join(lines) + "\n")
    assert nasattn(monkeypatch, "ablate", "--from-csv", "runs.csv", "--unit", "fraction") == 0
    out = capsys.readouterr().out
    assert "factorial: p adj. of an effect is corrected for 3 effects" in out
    assert "nasattn dashboard" not in out
    record = json.loads(Path("runs/ablate-runs/ablation.json").read_text())
    assert [row["p"] for row in record["rows"]] == [None] * 3
    assert [row["significant"] for row in record["rows"]] == [False] * 3
    assert record["factorial"]["effects"][0]["significant"]


def test_from_csv_compares_runs_made_anywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["arm,seed,value"]
    lines += [f"base,{seed},{0.90 + seed / 1000}" for seed in range(6)]
    lines += [f"-eca,{seed},{0.88 + seed / 1000 + seed % 2 / 5000}" for seed in range(6)]
    Path("runs.csv").write_text("\n".join(lines) + "\n")
    assert nasattn(monkeypatch, "ablate", "--from-csv", "runs.csv", "--json", "-o", "x") == 2
    capsys.readouterr()
    assert nasattn(monkeypatch, "ablate", "--from-csv", "runs.csv", "--json", "--out", "x") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    # differences -0.02 and -0.0198: 1 of 2 flips of all signs, of 64
    assert (row["arm"], row["n"], row["p"], row["significant"]) == ("-eca", 6, 2 / 64, True)
    assert row["effect"] == pytest.approx(-0.0199)
    assert "lowers top-1 by 1.99 points" in row["verdict"]


def without_latency(folder: Path) -> dict[str, object]:
    """What an ablation wrote, but for the one figure that a clock gives."""
    record = json.loads((folder / "ablation.json").read_text())
    for key in ("rows", "arms"):
        record[key] = [
            {k: v for k, v in row.items() if not k.startswith("latency_ms")} for row in record[key]
        ]
    return {name: record[name] for name in ("rows", "arms", "notes", "seeds", "settings")}


@pytest.mark.slow
def test_kill_9_twice_then_the_same_table_digit_for_digit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = [*ABLATE, "--train-size", "640", "--epochs", "2", "--seeds", "3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "tiny.json").write_text(json.dumps(TINY))
    monkeypatch.chdir(whole)
    assert nasattn(monkeypatch, *arguments) == 0
    monkeypatch.chdir(killed)
    for n in (2, 9):
        process = start(*arguments)
        stop_in_mid_trial("ablate-tiny-digits", n, process)
        process.kill()
        process.communicate()
    assert nasattn(monkeypatch, *arguments) == 0
    one, other = (folder / "runs/ablate-tiny-digits" for folder in (whole, killed))
    assert (one / "runs.csv").read_bytes() == (other / "runs.csv").read_bytes()
    assert without_latency(one) == without_latency(other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ablate"], "--base is missing"),
        (["ablate", "--base", "lamb"], "unknown network 'lamb'; did you mean 'lam'"),
        (["ablate", "--base", "vgg16"], "vgg16: is a reference"),
        (["ablate", "--base", "resnet18"], "resnet18: has no part to take out"),
        ([*ABLATE, "--ladder", "eca,tea"], "ladder: unknown part 'tea'"),
        ([*ABLATE, "--fraction", "16"], "no design of 16 runs for 3 factors; known: [8]"),
        ([*ABLATE, "--sequential"], "the first look is after 6 seeds, so it takes more"),
        ([*ABLATE, "--networks", "lamb"], "unknown network 'lamb'; did you mean 'lam'"),
        ([*ABLATE, "--networks", "tiny.json"], "arms 'base' and 'tiny.json' are the same network"),
        (["ablate", "--base", "trial:mobile-digits/3"], "there is no file nasattn.db"),
        ([*ABLATE, "--networks", "base"], "networks: 'base' is compared with itself"),
        ([*ABLATE, "--ladder", "eca,eca"], "ladder: 'eca' is on it twice"),
        ([*ABLATE, "--sweep", "head.gem_p=3,3.0"], "head.gem_p: the base has that value"),
        ([*ABLATE, "--name", "n\x1b[31m"], "must be 1 to 100 printable characters"),
        (["ablate", "--from-csv", "x", "--ladder", "a"], "the runs are made; leave out ladder"),
        (["ablate", "--from-csv", "tiny.json", "--unit", "%"], "unknown unit '%'"),
        ([*ABLATE, "--swap", "attention"], "--swap 'attention': must be FIELD=VALUE"),
        ([*ABLATE, "--swap", "attention=sse"], "unknown attention 'sse'; did you mean 'se'"),
        ([*ABLATE, "--sweep", "head.gem_q=1,2"], "'gem_q' is unknown; did you mean 'gem_p'"),
        ([*ABLATE, "--sweep", "fusion.terms=2"], "fusion.terms: means nothing"),
        ([*ABLATE, "--seeds", "1"], "seeds: must be greater than or equal to 2, is 1"),
        ([*ABLATE, "--margin", "few"], "--margin: 'few' is not a number"),
        ([*ABLATE, "--out", "tiny.json"], "tiny.json"),
        ([*ABLATE, "--data", "nowhere"], "unknown data 'nowhere'"),
        (["ablate", "--study", "mobile_quick"], "is a search; `nasattn search --study"),
        (["ablate", "--from-csv", "none.csv"], "none.csv: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert_refused(monkeypatch, capsys, arguments, message)
