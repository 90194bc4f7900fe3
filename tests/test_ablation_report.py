import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasattn.ablation.arms import Contrast, build_design, swap
from nasattn.ablation.results import Runs, read_runs_csv
from nasattn.ablation.run import Run, run_ablation
from nasattn.arch import Architecture
from nasattn.baselines import BASELINES
from nasattn.errors import AblationError, NasattnError, StudyError
from nasattn.evaluate import Evaluation
from nasattn.report.ablation import (
    AblationResult,
    from_runs,
    read_ablation,
    response_curves,
    top1_of,
)
from nasattn.report.ablation_report import ablation_report
from nasattn.report.canvas import BLUE, image
from nasattn.report.cells import (
    DESIGNS,
    HEADER,
    LADDER_WARNING,
    effect_words,
    millions,
    notes,
    one_line,
    p_words,
    price_table,
    price_words,
    published_words,
    table_cells,
)
from nasattn.report.document import Bullets, Commands, Picture
from nasattn.report.forest import CUT, forest_plot
from nasattn.report.formats import KEYS, runs_csv, to_csv, to_json, to_rows, write_ablation
from nasattn.report.html import to_html
from nasattn.report.markup import latex, to_latex, to_markdown, wrapped
from nasattn.report.plots import curves_plot, figures, interactions_plot, response_plot, seed_words
from nasattn.train.loop import Epoch

LAM = BASELINES["lam"].architecture
SGE = BASELINES["resnet18_sge_cifar"].architecture
Tops = Mapping[str, Sequence[float | str]]  # arm -> top-1 by seed, or why the run failed

BASE_TOPS = (0.90, 0.91, 0.92, 0.90, 0.91, 0.92)
# -1.00 points on average: standard deviation 0.2, Student's t of 5 degrees 2.570582 at 97.5 %
CUT_TOPS = (0.888, 0.898, 0.908, 0.892, 0.902, 0.912)
HALF = 2.570582 * math.sqrt(6 * 0.2**2 / 5) / math.sqrt(6)  # in points


def study_of(
    tops: Tops,
    contrasts: Sequence[tuple[str, str, str]],
    *,
    levels: Mapping[str, Mapping[str, str]] | None = None,
    networks: Mapping[str, Architecture] | None = None,
    costs: Mapping[str, Mapping[str, float]] | None = None,
    recipes: Mapping[tuple[str, int], str] | None = None,
    data: str = "cifar10",
    margin: float | None = None,
) -> optuna.Study:
    """A study as `nasattn ablate` leaves it."""
    drawn = {name: LAM for name in tops} | dict(networks or {})
    ids = {
        n: {"arch_id": a.at_resolution(32).arch_id, "drawn_id": a.arch_id} for n, a in drawn.items()
    }
    study = optuna.create_study(direction="maximize", study_name="ablate-lam-cifar10")
    record: dict[str, Any] = {"base": "lam", "arms": ids, "contrasts": [list(c) for c in contrasts]}
    record |= {"levels": levels or {}, "notes": ["no control arm: too small"], "margin": margin}
    facts = {"ablation": record, "settings": {"data": data}, "environment": {"torch": "2.14"}}
    for name, value in (facts | {"n_val": 5000, "n_classes": 10}).items():
        study.set_user_attr(name, value)
    distributions = {"arm": CategoricalDistribution(list(tops)), "seed": IntDistribution(0, 99)}
    for arm, found in tops.items():
        for seed, top1 in enumerate(found):
            failed = isinstance(top1, str)
            values = {"macs": 2e6, "params": 1e6} | dict((costs or {}).get(arm, {}))
            values |= {"latency_ms": 4.0 if arm == "base" else 3.0} if seed == 0 else {}
            curve = [] if failed else [[2.0, 0.5], [1.0, 0.8], [0.5, top1]]
            study.add_trial(
                create_trial(
                    params={"arm": arm, "seed": seed},
                    distributions=distributions,
                    value=None if isinstance(top1, str) else top1,
                    state=TrialState.FAIL if failed else TrialState.COMPLETE,
                    user_attrs={
                        "arch_id": ids[arm]["arch_id"],
                        "architecture": drawn[arm].at_resolution(32).to_json(),
                        "values": values if failed else values | {"top1": top1},
                        "reason": top1 if failed else "",
                        "curve": curve,
                        "recipe_id": (recipes or {}).get((arm, seed), "abc"),
                        "seed": seed,
                    },
                )
            )
    return study


def result_of(tops: Tops, *contrasts: tuple[str, str, str], **more: Any) -> AblationResult:
    contrasts = contrasts or tuple((a, "base", "leave one out") for a in tops if a != "base")
    return read_ablation(study_of(tops, contrasts, **more))


SIMPLE: Tops = {"base": BASE_TOPS, "-eca": CUT_TOPS}


# ---- reading ----


def test_read_ablation_pairs_the_seeds() -> None:
    result = result_of(SIMPLE)
    (row,) = result.rows
    assert row.contrast == Contrast("-eca", "base", "leave one out")
    assert row.comparison is not None
    assert row.comparison.effect == pytest.approx(-0.01)
    assert row.comparison.mean == pytest.approx(np.mean(CUT_TOPS))
    ends = [100 * x for x in (row.comparison.low, row.comparison.high) if x is not None]
    assert ends == pytest.approx([-1 - HALF, -1 + HALF], abs=1e-5)
    # six seeds that all agree: the smallest p of sign flips, 2 / 2^6
    assert row.comparison.p_adjusted == pytest.approx(2 / 64)
    assert row.verdict == "lowers top-1 by 1.00 points (0.77 to 1.23)"
    assert (result.n_val, result.recipe_id, result.seeds) == (5000, "abc", (0, 1, 2, 3, 4, 5))
    assert (result.base, result.network) == ("base", "lam")


class Silent:
    """Watches and says nothing."""

    def started(self, run: Run, done: int) -> None: ...
    def epoch(self, epoch: Epoch) -> None: ...
    def finished(self, trial: FrozenTrial, done: int) -> None: ...


def test_read_ablation_reads_what_run_ablation_writes(tmp_path: Path) -> None:
    design = build_design(SGE, {})
    swap(design, "stages.*.attention.groups", [32], "sweep")

    def evaluate(arch: Architecture, seed: int, show: object) -> Evaluation:
        top1 = (0.9 if arch == SGE else 0.88) + seed / 1000
        return Evaluation("complete", {"params": 5.0, "top1": top1})

    study = optuna.create_study(direction="maximize")
    ids = {name: {"arch_id": a.arch_id, "drawn_id": a.arch_id} for name, a in design.arms.items()}
    record: dict[str, Any] = {
        "base": "sge",
        "arms": ids,
        "levels": design.levels,
        "notes": [],
        "margin": None,
    }
    contrasts = [[c.arm, c.reference, c.design] for c in design.contrasts]
    study.set_user_attr("ablation", record | {"contrasts": contrasts})
    facts = {"recipe_id": "abc"}
    run_ablation(study, design, (0, 1), evaluate, facts=facts, artifacts=tmp_path, watcher=Silent())
    result = read_ablation(study)
    assert result.arms["base"].values == {0: 0.9, 1: 0.901}
    assert result.arms["attention.groups=32"].costs == {"params": 5.0}
    assert [row.comparison and row.comparison.effect for row in result.rows] == [
        pytest.approx(-0.02)
    ]
    assert list(response_curves(result)["attention.groups"]) == [32, 64]


def test_read_ablation_keeps_values_curves_and_costs_of_an_arm() -> None:
    arm = result_of(SIMPLE, costs={"-eca": {"params": 7.0}}).arms["-eca"]
    assert arm.values == dict(enumerate(CUT_TOPS))
    assert arm.curves[1] == ((2.0, 0.5), (1.0, 0.8), (0.5, CUT_TOPS[1]))
    assert arm.costs == {"params": 7.0, "macs": 2e6, "latency_ms": 3.0}  # of the first seed
    assert arm.architecture == LAM.at_resolution(32)


def test_read_ablation_works_before_all_seeds_are_there() -> None:
    tops = {"base": BASE_TOPS[:3], "-eca": CUT_TOPS[:3], "-lsa": ()}
    cut, not_yet = result_of(tops).rows
    assert cut.verdict == "not testable: 3 seeds, 6 are needed"
    assert cut.comparison is not None
    assert cut.comparison.p_adjusted is None
    assert (not_yet.comparison, not_yet.verdict) == (None, "-lsa not run yet")


def test_read_ablation_of_no_run_at_all_has_no_comparison() -> None:
    result = result_of({"base": (), "-eca": ()})
    assert [row.verdict for row in result.rows] == ["-eca and base not run yet"]
    assert (result.seeds, result.recipe_id) == ((), "")
    assert "-eca and base not run yet" in wrapped(result)


def test_read_ablation_reports_a_failed_arm_with_its_reason() -> None:
    tops: Tops = {
        "base": BASE_TOPS,
        "-eca": (*CUT_TOPS[:5], "out of memory"),
        "+lsa": ("loss is nan",) * 6,
        "+lsa+aff": CUT_TOPS,
    }
    some, none, above = result_of(
        tops,
        ("-eca", "base", "leave one out"),
        ("+lsa", "base", "ladder"),
        ("+lsa+aff", "+lsa", "ladder"),
    ).rows
    assert some.comparison is not None
    assert some.comparison.n == 5
    assert some.verdict.endswith("6 are needed; failed: out of memory (seed 5)")
    assert none.verdict == "failed: loss is nan (seeds 0, 1, 2, 3, 4, 5)"
    assert above.verdict.startswith("nothing to compare with: +lsa failed: loss is nan")


def test_read_ablation_names_arms_that_share_no_seed() -> None:
    tops: Tops = {"base": (0.9, "x"), "-eca": ("y", 0.9)}
    (row,) = result_of(tops).rows
    assert row.verdict == "failed: y (seed 0)"
    assert result_of(tops).arms["base"].failed == "failed: x (seed 1)"


def test_read_ablation_refuses_mixed_recipes() -> None:
    with pytest.raises(
        AblationError, match=r"mixes the recipes abc \(arm 'base', seed 0\) and xyz"
    ):
        result_of(SIMPLE, recipes={("-eca", 2): "xyz"})


def test_read_ablation_refuses_what_is_no_ablation() -> None:
    with pytest.raises(StudyError, match="study 's': is no ablation"):
        read_ablation(optuna.create_study(study_name="s"))
    with pytest.raises(NasattnError, match="contrasts: unknown arm '-ecb'; did you mean '-eca'"):
        result_of(SIMPLE, ("-ecb", "base", "leave one out"))
    study = study_of(SIMPLE, [])
    record = study.user_attrs["ablation"]
    study.set_user_attr("ablation", record | {"arms": {"base": record["arms"]["base"]}})
    with pytest.raises(NasattnError, match="trial 6: unknown arm '-eca'"):
        read_ablation(study)


PUBLISHED = [
    ("lam", "cifar10", "93.5"),  # paper 000, Table 2
    ("lam", "cifar100", "-"),  # nothing was published there
    ("lam", "digits", "-"),
    ("lam_ladder_eca", "cifar10", "91.8"),  # Table 3
    ("resnet18_lgam_cifar", "cifar10", "94.84"),  # paper 002: an error of 5.16 %
    ("resnet18_lgam_cifar", "cifar100", "77.06"),  # 22.94 %
    ("mobilenet_v3_large", "cifar10", "-"),
]


@pytest.mark.parametrize(
    ("name", "data", "shown"), [row for row in PUBLISHED if row[0] in BASELINES]
)
def test_published_is_that_of_the_network_as_drawn_and_of_the_data(
    name: str, data: str, shown: str
) -> None:
    networks = {"-eca": BASELINES[name].architecture, "base": SGE}
    result = result_of(SIMPLE, networks=networks, data=data)
    assert published_words(result, "-eca") == shown
    (row,) = to_rows(result)
    expected = None if shown == "-" else pytest.approx(float(shown) / 100)
    assert row["published_top1"] == expected
    assert row["mean"] == pytest.approx(np.mean(CUT_TOPS))  # ours stays ours


def test_top1_of_an_error_is_the_rest() -> None:
    figures_ = BASELINES["resnet18_lgam_cifar"].published
    assert [top1_of(f) for f in figures_ if f.metric == "top1_error"] == pytest.approx(
        [0.9484, 0.7706]
    )


# ---- prices ----


def test_price_is_change_of_cost_for_a_point() -> None:
    costs = {"base": {"params": 2.0e6}, "-eca": {"params": 1.5e6}}
    result = result_of(SIMPLE, costs=costs)
    (row,) = to_rows(result)
    # half a million parameters less, one point less
    assert row["params_change"] == -5e5
    assert row["params_per_point"] == pytest.approx(5e5)
    assert row["params_per_point_low"] == pytest.approx(5e5 / (1 + HALF), rel=1e-5)
    assert row["latency_ms_per_point"] == pytest.approx(1.0)  # 4 ms against 3 ms
    (line,) = price_table(result).lines
    assert line.cells[:3] == ("-eca", "base", "0.5 (0.41 to 0.65)")


def test_price_is_none_where_the_interval_covers_0() -> None:
    result = result_of({"base": BASE_TOPS, "-eca": BASE_TOPS[::-1]})
    assert price_table(result).lines == []
    assert to_rows(result)[0]["params_per_point"] is None
    assert any(note.startswith("price of a point: none where") for note in notes(result))


# ---- factorial ----

FACTORIAL_LEVELS = {
    "base": {"a": "on", "b": "on"},
    "-b": {"a": "on", "b": "off"},
    "-a": {"a": "off", "b": "on"},
    "plain": {"a": "off", "b": "off"},
}
FACTORIAL_MEANS = {"base": 0.90, "-b": 0.88, "-a": 0.89, "plain": 0.81}
NOISE = (0.001, -0.001, 0.002, -0.002, 0.0, 0.003)


def factorial_runs() -> Runs:
    rng = np.random.default_rng(0)
    values = {
        arm: {seed: mean + x + float(rng.normal(0, 1e-4)) for seed, x in enumerate(NOISE)}
        for arm, mean in FACTORIAL_MEANS.items()
    }
    return Runs(values, "base", FACTORIAL_LEVELS, "fraction")


def test_from_runs_finds_the_effects_of_the_factors() -> None:
    result = from_runs(factorial_runs(), name="mine")
    assert (result.study, result.recipe_id, result.n_val) == ("mine", "", 0)
    assert [row.contrast.arm for row in result.rows] == ["-b", "-a", "plain"]
    assert result.factorial is not None
    found = {effect.term: 100 * effect.effect for effect in result.factorial.effects}
    # a off: ((89 - 90) + (81 - 88)) / 2; b off: ((88 - 90) + (81 - 89)) / 2; both beyond the sum
    assert found == pytest.approx({"a": -4, "b": -5, "a:b": -6}, abs=0.05)
    shares = {share.factor: 100 * share.effect for share in result.factorial.shapley}
    assert shares == pytest.approx({"a": -4, "b": -5}, abs=0.05)
    assert "a:b" in wrapped(result)
    assert "Shapley" in to_markdown(result)


def test_a_factorial_without_whole_seeds_says_so() -> None:
    tops: Tops = {"base": BASE_TOPS, "-a": CUT_TOPS, "-b": CUT_TOPS, "plain": ("broken",) * 6}
    contrasts = [(arm, "base", "factorial") for arm in ("-a", "-b", "plain")]
    result = result_of(tops, *contrasts, levels=FACTORIAL_LEVELS)
    assert result.factorial is None
    assert any("no seed was run in every arm of the factorial" in note for note in result.notes)
    assert "interactions" not in figures(result)


def test_a_factor_of_three_levels_keeps_the_comparisons() -> None:
    levels = {"base": {"a": "x"}, "m": {"a": "y"}, "n": {"a": "z"}}
    values = {arm: {0: 0.5, 1: 0.6} for arm in levels}
    result = from_runs(Runs(values, "base", levels, "fraction"))
    assert len(result.rows) == 2
    assert result.notes == ("no factorial effects: factor 'a' has 3 levels (x, y, z); needs two",)


def test_runs_csv_is_read_back_alike(tmp_path: Path) -> None:
    result = from_runs(factorial_runs())
    file = tmp_path / "runs.csv"
    file.write_text(runs_csv(result), encoding="utf-8")
    again = from_runs(read_runs_csv(file))
    assert again.rows == result.rows
    assert again.factorial == result.factorial


def test_runs_csv_leaves_out_levels_that_some_arm_lacks() -> None:
    tops: Tops = {"base": BASE_TOPS, "-a": CUT_TOPS, "control": CUT_TOPS}
    levels = {"base": {"a": "on"}, "-a": {"a": "off"}}
    assert runs_csv(result_of(tops, levels=levels)).startswith("arm,seed,value\nbase,0,0.9\n")


# ---- rows, CSV, JSON ----


def test_to_rows_begins_with_the_promised_keys() -> None:
    result = result_of({"base": BASE_TOPS, "-eca": CUT_TOPS, "-lsa": ("broken",)}, margin=0.005)
    rows = to_rows(result)
    assert [list(row)[: len(KEYS)] for row in rows] == [list(KEYS)] * 2
    assert rows[0].keys() == rows[1].keys()
    assert [row["significant"] for row in rows] == [True, False]
    assert (rows[1]["n"], rows[1]["effect"]) == (0, None)
    assert rows[1]["verdict"] == "failed: broken (seed 0)"


def test_to_csv_holds_the_rows() -> None:
    result = result_of(SIMPLE)
    (row,) = csv.DictReader(to_csv(result).splitlines())
    assert float(row["effect"]) == pytest.approx(-0.01)
    assert row["verdict"] == "lowers top-1 by 1.00 points (0.77 to 1.23)"
    assert to_csv(result_of({"base": BASE_TOPS})) == ",".join(KEYS) + "\n"


def test_to_json_stands_for_itself() -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    tops: Tops = {"base": BASE_TOPS, "-eca": (0.9,) * 5 + ("nan",)}
    data = json.loads(to_json(result_of(tops)), parse_constant=refuse)
    assert data["settings"] == {"data": "cifar10"}
    assert data["environment"] == {"torch": "2.14"}
    assert (data["n_val"], data["recipe_id"], data["seeds"]) == (5000, "abc", [0, 1, 2, 3, 4, 5])
    base, cut = data["arms"]
    assert list(base["values"].values()) == list(BASE_TOPS)
    assert cut["failures"] == {"5": "nan"}
    assert base["curves"]["0"] == [[2.0, 0.5], [1.0, 0.8], [0.5, 0.9]]
    assert base["published"][0]["printed"] == "2.2 M"
    assert data["rows"] == to_rows(result_of(tops))


# ---- words ----

WORDS = [
    (effect_words(-0.012, -0.019, -0.005), "-1.20 (-1.90 to -0.50)"),
    (effect_words(0.012, None, None), "+1.20"),
    (p_words(None), "-"),
    (p_words(0.03125), "0.031"),
    (p_words(0.0004), "<0.001"),
    (millions(2_236_682), "2.24"),
    (millions(53_412), "0.0534"),
    (millions(None), "-"),
    (one_line("a\n b\x1b[31m"), "a b?[31m"),
    (price_words(None, 1.0), "-"),
    (latex("a_b & 50 % \\x ---[1]"), r"a\_b \& 50 \% \textbackslash{}x -{}-{}-{[}1{]}"),
]


@pytest.mark.parametrize(("found", "expected"), WORDS)
def test_words_of_numbers_and_names(found: str, expected: str) -> None:
    assert found == expected


def test_table_cells_show_percent_millions_and_points() -> None:
    costs = {"base": {"params": 2_236_682.0}, "-eca": {"params": 53_412.0}}
    header, base, cut = table_cells(result_of(SIMPLE, costs=costs))
    assert tuple(header) == (*HEADER, "verdict")
    assert base == ["base", "-", "91.00", "-", "6", "-", "2.24", "2.00", "4.00", "93.5", "-"]
    effect = f"-1.00 ({-1 - HALF:+.2f} to {-1 + HALF:+.2f})"
    assert cut[:6] == ["-eca", "base", "90.00", effect, "6", "0.031"]
    assert cut[6:9] == ["0.0534", "2.00", "3.00"]
    assert cut[-1] == "lowers top-1 by 1.00 points (0.77 to 1.23)"


def test_notes_warn_of_a_ladder() -> None:
    rungs = result_of({"base": BASE_TOPS, "+eca": CUT_TOPS}, ("+eca", "base", "ladder"))
    assert LADDER_WARNING in notes(rungs)
    assert LADDER_WARNING not in notes(result_of(SIMPLE))
    for text in (wrapped(rungs), to_markdown(rungs), to_latex(rungs)):
        assert "hangs on the rungs below" in " ".join(text.split())
    assert "no control arm: too small" in wrapped(rungs)


NASTY = 'a|b\\_$x$ <i>&\n%#{}~^--\x1b[31m `q` _λ_"'


def nasty() -> AblationResult:
    values = {"base": BASE_TOPS, NASTY: CUT_TOPS, "_x$": CUT_TOPS[::-1]}
    by_seed = {arm: dict(enumerate(tops)) for arm, tops in values.items()}
    return from_runs(Runs(by_seed, "base", {}, "fraction"), name="100% _mine_")


def test_markdown_escapes_what_users_write() -> None:
    text = to_markdown(nasty())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {8}  # seven columns
    assert r"a\|b\\\_\$x\$ &lt;i&gt;&amp; %\#{}\~^--?\[31m \`q\` \_λ\_" in text
    assert "\x1b" not in text


def test_latex_escapes_what_users_write() -> None:
    text = to_latex(nasty())
    assert (
        r"a\textbar{}b\textbackslash{}\_\$x\$ \textless{}i\textgreater{}\& \%\#\{\}"
        r"\textasciitilde{}\textasciicircum{}-{}-?{[}31m" in text
    )
    bare = re.sub(r"\\[%&#_{}$\\]", "", text.partition("\n")[2])
    assert bare.count("{") == bare.count("}")
    rows = [line for line in bare.splitlines() if "&" in line]
    assert len({row.count("&") for row in rows}) == 1
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 1


def test_csv_keeps_what_users_write() -> None:
    rows = list(csv.DictReader(to_csv(nasty()).splitlines(keepends=True)))
    assert [row["arm"] for row in rows] == [NASTY, "_x$"]


def many(n: int) -> AblationResult:
    rng = np.random.default_rng(n)
    tops = {"base": BASE_TOPS} | {
        f"+part{i}": tuple(0.9 + 0.004 * i / n + rng.normal(0, 0.002, 6)) for i in range(n)
    }
    designs = list(DESIGNS)
    contrasts = [
        (arm, "base", designs[3 * i // n]) for i, arm in enumerate(a for a in tops if a != "base")
    ]
    return result_of({k: [float(x) for x in v] for k, v in tops.items()}, *contrasts)


@pytest.mark.parametrize("width", [72, 80, 120])
@pytest.mark.parametrize("n", [3, 25])
def test_wrapped_fits_and_says_everything(n: int, width: int) -> None:
    result = many(n)
    text = wrapped(result, width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for row in result.rows:
        assert f"{row.contrast.arm} " in flat
        assert row.verdict in flat
    assert flat.count("(against base)") >= 3


def test_wrapped_gives_a_long_name_a_line_of_its_own() -> None:
    name = "+" + "x" * 60
    lines = wrapped(result_of({"base": BASE_TOPS, name: CUT_TOPS})).splitlines()
    place = lines.index(name)
    assert lines[place + 1].split()[:2] == ["90.00", "-1.00"]
    assert lines[place + 2] == "    lowers top-1 by 1.00 points (0.77 to 1.23)"


# ---- plots ----


def boxes(figure: Figure, texts: Sequence[Any]) -> list[Any]:
    return [t.get_window_extent() for t in texts if t.get_text() and t.get_visible()]


def check_texts(figure: Figure, texts: Sequence[Any]) -> None:
    """No text is cut by the figure's edge, nor covers another."""
    found = boxes(figure, texts)
    assert found
    whole = figure.bbox
    for box in found:
        assert box.x0 >= whole.x0 - 1
        assert box.x1 <= whole.x1 + 1
        assert box.y0 >= whole.y0 - 1
        assert box.y1 <= whole.y1 + 1
    for i, box in enumerate(found):
        assert not any(box.overlaps(other) for other in found[:i])


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()  # type: ignore[no-untyped-call]
    return figure


@pytest.mark.parametrize("n", [3, 25])
def test_forest_plot_has_a_line_for_every_contrast(n: int) -> None:
    result = many(n)
    figure = drawn(forest_plot(result))
    left, right = figure.axes
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert [x for x in labels if x.startswith("+")] == [row.contrast.arm for row in result.rows]
    assert labels[0] == "leave one out (against base)"
    dots = [line for line in left.lines if line.get_marker() == "o"]
    effects = [100 * row.comparison.effect for row in result.rows if row.comparison]
    assert [float(np.asarray(d.get_xdata())[0]) for d in dots] == pytest.approx(effects)
    filled = [to_hex(d.get_markerfacecolor()) == BLUE.lower() for d in dots]
    assert filled == [bool(row.comparison and row.comparison.significant) for row in result.rows]
    check_texts(figure, [*left.get_yticklabels(), *right.get_yticklabels(), left.xaxis.label])


def test_forest_plot_cuts_the_wide_intervals_of_few_seeds() -> None:
    # d = +1.0, -0.8 points: mean 0.1, t(1) = 12.706, half width 12.706 * 0.9 = 11.4 points
    result = result_of({"base": (0.9, 0.9), "-eca": (0.91, 0.892)}, margin=0.002)
    left = forest_plot(result).axes[0]
    low, high = left.get_xlim()
    assert high < 100 * CUT * 0.001 * 1.2
    assert low > -high * 1.01
    assert [line.get_marker() for line in left.lines][1:3] == ["<", ">"]
    assert left.get_xlabel() == "effect on top-1 (points), with 95 % interval"


def test_forest_plot_names_what_failed() -> None:
    tops: Tops = {"base": BASE_TOPS, "-eca": ("out of memory",)}
    right = forest_plot(result_of(tops)).axes[1]
    assert "failed: out of memory (seed 0)" in [t.get_text() for t in right.get_yticklabels()]


def test_curves_plot_shows_mean_and_range_over_seeds() -> None:
    figure = drawn(curves_plot(result_of(SIMPLE)))
    (axes,) = figure.axes
    base, cut = axes.lines  # the best comes first
    assert np.asarray(base.get_ydata()) == pytest.approx([50, 80, 100 * np.mean(BASE_TOPS)])
    assert np.asarray(cut.get_ydata()) == pytest.approx([50, 80, 100 * np.mean(CUT_TOPS)])
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((50, 92))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["base", "-eca"]
    check_texts(figure, [*figure.legends[0].get_texts(), axes.xaxis.label, axes.yaxis.label])


def test_curves_plot_of_many_arms_gives_each_its_own() -> None:
    figure = drawn(curves_plot(many(9)))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"+part{i}" for i in range(9)]
    assert all(len(axes.lines) == 2 for axes in shown)  # its own and the base
    check_texts(figure, [axes.title for axes in shown])


def test_interactions_plot_shows_the_means_of_every_cell() -> None:
    result = from_runs(factorial_runs())
    figure = drawn(interactions_plot(result))
    (axes,) = figure.axes
    means = {n: 100 * np.mean(list(arm.values.values())) for n, arm in result.arms.items()}
    b_on, b_off = axes.lines  # a on -> a off
    assert np.asarray(b_on.get_ydata()) == pytest.approx([means["base"], means["-a"]])
    assert np.asarray(b_off.get_ydata()) == pytest.approx([means["-b"], means["plain"]])
    name, words = axes.get_title().split("\n")
    assert name == "a:b"
    assert float(words.split()[0]) == pytest.approx(-6, abs=0.05)
    check_texts(figure, [axes.title, *axes.texts, *axes.get_xticklabels()])


def test_interactions_plot_keeps_the_names_of_near_lines_apart() -> None:
    values = {arm: dict(enumerate(BASE_TOPS)) for arm in FACTORIAL_LEVELS}
    result = from_runs(Runs(values, "base", FACTORIAL_LEVELS, "fraction"))
    figure = drawn(interactions_plot(result))
    check_texts(figure, figure.axes[0].texts)


def test_interactions_plot_has_every_pair_of_a_fraction() -> None:
    # 2^(4-1) with d = abc, so that ab = cd, ac = bd and ad = bc cannot be told apart
    levels, values = {}, {}
    for a, b, c in product((0, 1), repeat=3):
        row = (a, b, c, (a + b + c) % 2)
        name = "base" if not any(row) else "".join(map(str, row))
        levels[name] = {f: ("on", "off")[x] for f, x in zip("abcd", row, strict=True)}
        values[name] = {s: 0.9 - 0.01 * sum(row) + 0.001 * ((s * 7 + a) % 5) for s in range(6)}
    result = from_runs(Runs(values, "base", levels, "fraction"))
    titles = [axes.get_title() for axes in interactions_plot(result).axes]
    assert [title.split("\n")[0] for title in titles] == ["a:b", "a:c", "a:d", "b:c", "b:d", "c:d"]
    assert titles[-1] == "c:d\nnot told apart from a:b"
    assert "a:b = c:d" in wrapped(result)


def sweep_result(values: Sequence[Any]) -> AblationResult:
    design = build_design(SGE, {})
    swap(design, "stages.*.attention.groups", values, "sweep")
    tops = {arm: [0.9 - 0.01 * i, 0.92 - 0.01 * i] for i, arm in enumerate(design.arms)}
    contrasts = [(c.arm, c.reference, c.design) for c in design.contrasts]
    return result_of(tops, *contrasts, networks=design.arms)


def test_response_curves_put_the_base_at_its_own_value() -> None:
    curves = response_curves(sweep_result([32, 4, 64]))  # the base has 64 groups
    assert {x: arm.name for x, arm in curves["attention.groups"].items()} == {
        4: "attention.groups=4",
        32: "attention.groups=32",
        64: "base",
    }
    assert list(curves["attention.groups"]) == [4, 32, 64]


def test_response_plot_shows_the_mean_by_value() -> None:
    figure = drawn(response_plot(sweep_result([32, 4])))
    (axes,) = figure.axes
    line = axes.lines[0]
    # arms in their order: base 91, 32 groups 90, 4 groups 89
    assert np.asarray(line.get_xdata()).tolist() == [4, 32, 64]
    assert np.asarray(line.get_ydata()) == pytest.approx([89, 90, 91])
    assert (axes.get_xlabel(), axes.get_xscale()) == ("attention.groups", "log")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["4", "32", "64"]
    check_texts(figure, [*axes.get_xticklabels(), axes.xaxis.label])


def test_response_curves_leave_out_what_is_no_number() -> None:
    tops: Tops = {"base": (0.9, 0.9), "act=relu": (0.9, 0.8), "act=6": (0.9, 0.8)}
    contrasts = [(arm, "base", "sweep") for arm in tops if arm != "base"]
    result = result_of(tops, *contrasts)
    assert response_curves(result) == {}
    assert list(figures(result)) == ["forest", "curves"]


# ---- files ----

TEXTS = ["ablation.csv", "ablation.json", "ablation.md", "ablation.tex", "runs.csv"]


def test_write_ablation_writes_tables_and_plots(tmp_path: Path) -> None:
    paths = write_ablation(result_of(SIMPLE), tmp_path / "out")
    images = [f"{plot}.{kind}" for plot in ("forest", "curves") for kind in ("svg", "png")]
    assert [path.name for path in paths] == TEXTS + images
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())  # nothing else is left
    assert (tmp_path / "out" / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "out" / "forest.svg").read_bytes()


def test_write_ablation_removes_a_plot_that_is_none_now(tmp_path: Path) -> None:
    write_ablation(from_runs(factorial_runs()), tmp_path)
    assert (tmp_path / "interactions.svg").exists()
    (tmp_path / "mine.svg").write_text("")
    write_ablation(result_of(SIMPLE), tmp_path)
    assert not (tmp_path / "interactions.svg").exists()
    assert (tmp_path / "mine.svg").exists()


def test_write_ablation_takes_any_name(tmp_path: Path) -> None:
    paths = write_ablation(nasty(), tmp_path)
    assert [path.name for path in paths] == [*TEXTS, "forest.svg", "forest.png"]


def test_write_ablation_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"file: cannot be written .*--out takes another"):
        write_ablation(result_of(SIMPLE), tmp_path / "file")


def test_image_of_equal_figures_is_equal() -> None:
    first, second = (image(forest_plot(result_of(SIMPLE)), "svg") for _ in range(2))
    assert first == second


def test_nasty_names_stay_readable_in_plots() -> None:
    labels = [t.get_text() for t in forest_plot(nasty()).axes[0].get_yticklabels()]
    assert "_x\\$" in labels
    assert not any("\n" in label or "\x1b" in label for label in labels)


# ---- the report ----


def test_an_ablation_report_has_tables_plots_and_what_each_arm_changes() -> None:
    tops = {**SIMPLE, "lost": ["out of memory"] * 6}
    study = study_of(
        tops, [(a, "base", "leave one out") for a in tops if a != "base"], networks={"-eca": SGE}
    )
    study.set_user_attr("command", "nasattn ablate --base lam")
    found = ablation_report(study, commands=["nasattn report x"])
    headings = [section.heading for section in found.sections]
    assert headings[:4] == [
        "Which part earns its keep",
        "Plots",
        "The networks, drawn",
        "What failed",
    ]
    (row,) = (row for row in read_ablation(study).rows if row.contrast.arm == "-eca")
    assert found.summary[-1] == f"-eca: {row.verdict}."
    pictures = {part.name: part for part in found.parts if isinstance(part, Picture)}
    assert pictures.keys() == {"forest", "curves", "base", "-eca"}  # "lost" is the base's network
    assert all("<svg" in picture.svg for picture in pictures.values())
    bullets = [line for part in found.parts if isinstance(part, Bullets) for line in part.lines]
    assert any(line.startswith("lost failed: out of memory") for line in bullets)
    (commands,) = (part.lines for part in found.parts if isinstance(part, Commands))
    assert commands == ("nasattn ablate --base lam", "nasattn report x")
    text = to_html(found)
    assert "<script" not in text  # its plots are pictures
    assert len(text) < 1e6


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([6, 6], "n = 6 seeds"), ([6, 3, 4], "n = 3 to 6 seeds"), ([1], "n = 1 seed")],
)
def test_seed_words_say_n(numbers: list[int], words: str) -> None:
    assert seed_words(numbers) == words
