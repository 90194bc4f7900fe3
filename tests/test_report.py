"""Reports: as values, as HTML, as Markdown; two studies side by side; what the dashboard gets."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna_dashboard import get_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

from nasattn.cli.dashboard import update
from nasattn.data.openings import Opening
from nasattn.errors import StudyError
from nasattn.report.cells import Group, Line, Table
from nasattn.report.charts.chart import Axis, Chart, Points
from nasattn.report.comparison import compare, comparison_report
from nasattn.report.dashboard import MOST_NOTES, catch_up, is_up_to_date
from nasattn.report.document import (
    Bullets,
    Commands,
    Document,
    Facts,
    Folded,
    Picture,
    Plot,
    Section,
    Words,
)
from nasattn.report.drawings.curve_drawing import draw_curve
from nasattn.report.front import read_front
from nasattn.report.front_table import front_table, thinned
from nasattn.report.html import WRITERS, to_html
from nasattn.report.markdown import WRITERS as MARKDOWN_WRITERS
from nasattn.report.markdown import images, to_markdown
from nasattn.report.review import Review
from nasattn.report.search_report import search_report
from nasattn.search.storage import artifact_dir, open_storage, read_study, write_study
from nasattn.search.trials import counts
from tests.command import assert_refused, nasattn
from tests.test_cli import TINY, TINY_SPACE

EVIL = "<script>alert(1)</script>"
NAME = ("--name", EVIL, "--seeds", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a search, its control and another one have been run, some beyond a limit."""
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NASATTN_CACHE", str(folder / "cache"))
        Path("tiny.yaml").write_text(TINY_SPACE + "baselines: []\n", encoding="utf-8")
        goals = ("--objective", "top1", "--objective", "macs")
        limit = ("--constraint", "macs<=40e3", "--constraint", "top1>=0.1")
        assert nasattn(patch, *TINY, *goals, "--trials", "6", "--control", *limit, *NAME) == 0
        more = ("--trials", "3", "--name", "other", "--seed", "1")
        assert nasattn(patch, *TINY, *goals, *more) == 0
        again = ("--trials", "1", "--name", "other-2", "--seeds", "0")
        assert nasattn(patch, *TINY, *goals, *again) == 0
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NASATTN_CACHE", str(folder / "cache"))
    return folder


def study(name: str = EVIL) -> optuna.Study:
    return read_study("sqlite:///nasattn.db", name)


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text that is seen."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.hidden = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self.hidden else data


# ---- Documents ----

CHART = Chart(
    f"{EVIL} $x$", "n = 2", Axis("x", "ms"), Axis("y", "%"), (Points(EVIL, (1, 2), (3, 4)),)
)
TABLE = Table(EVIL, ("name", "value"), (Group(EVIL, (Line((EVIL, "1.5"), EVIL),)),))
DOCUMENT = Document(
    EVIL,
    (EVIL,),
    (
        Section(
            EVIL,
            (
                Words(EVIL),
                Bullets((EVIL,)),
                Facts(((EVIL, EVIL),)),
                Commands((EVIL,)),
                TABLE,
                Plot("a-plot", CHART),
                Picture(EVIL, "<svg xmlns='http://www.w3.org/2000/svg'/>", EVIL),
                Folded(EVIL, (Words("inside"),), key="trial-1", is_open=True),
            ),
        ),
    ),
)


def test_every_part_can_be_written_in_every_form() -> None:
    assert WRITERS.keys() == MARKDOWN_WRITERS.keys()
    assert {type(part) for part in DOCUMENT.parts} == set(WRITERS)


def test_html_shows_hostile_text_as_text() -> None:
    page = Page(to_html(DOCUMENT))
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len(scripts) == 3  # the chart's data, Plotly, our own code
    # once each place: the head, seven parts of which facts have two and the table four
    assert page.text.count(EVIL) == 15
    assert "inside" in page.text
    (details,) = (attributes for tag, attributes in page.tags if tag == "details")
    assert details == {"id": "trial-1", "open": None}
    assert sum(tag == "img" for tag, _ in page.tags) == 1


def test_html_loads_nothing() -> None:
    page = Page(to_html(DOCUMENT))
    sources = [a[k] or "" for _, a in page.tags for k in ("src", "href") if k in a]
    assert all(source.startswith(("data:", "#")) for source in sources)
    policies = [a.get("content") or "" for tag, a in page.tags if tag == "meta"]
    assert any(policy.startswith("default-src 'none'") for policy in policies)


def test_html_without_a_chart_has_no_script() -> None:
    text = to_html(Document("t", (), (Section("s", (Words("w"),)),)))
    assert "<script" not in text
    assert len(text) < 10_000


def test_a_charts_data_cannot_end_its_script() -> None:
    text = to_html(DOCUMENT)
    data = re.search(r'id="chart-a-plot">(.*?)</script>', text, re.DOTALL)
    assert data
    assert "<" not in data[1]
    assert json.loads(data[1])["data"][0]["y"] == [3, 4]


def test_equal_documents_give_equal_bytes() -> None:
    assert to_html(DOCUMENT) == to_html(DOCUMENT)


def test_markdown_shows_hostile_text_as_text() -> None:
    text = to_markdown(DOCUMENT, "files")
    outside = [line for line in text.splitlines() if not line.startswith("    ")]  # but commands
    assert "<script>" not in "\n".join(outside)
    assert "![&lt;script&gt;alert(1)&lt;/script&gt; \\$x\\$](files/a-plot.svg)" in text
    names = dict(images(DOCUMENT))
    assert names.keys() == {"a-plot.svg", "a-plot.png", "_script_alert_1_script_.svg"}
    assert names["a-plot.png"].startswith(b"\x89PNG")


# ---- A search ----


@pytest.mark.usefixtures("here")
def test_a_search_report_has_all_that_it_should() -> None:
    opening = Opening("0" * 12, "2026-11-22", "nasattn evaluate x --split test")
    found = search_report(study(), openings=[opening], commands=["nasattn report x"])
    headings = [section.heading for section in found.sections]
    if "What its networks are like" in headings:  # where the front has more than one
        headings.remove("What its networks are like")
    assert headings == [
        "The front",
        "Its networks, drawn",
        "How far the search came",
        "What the objectives hang on",
        "What became of the trials",
        "How it was done",
        "Where it ran",
        "What it cost",
        "How to do it again",
    ]
    front = read_front(study())
    drawn = [part.name for part in found.parts if isinstance(part, Picture)]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {row.network for row in front.rows if row.on_front or row.selected}
    facts = dict(row for part in found.parts if isinstance(part, Facts) for row in part.rows)
    assert facts["data"] == "digits"
    assert facts["data_hash"] == study().user_attrs["settings"]["data_hash"]
    assert facts["seed"] == "0"
    assert facts["torch"]
    assert facts["trials"].startswith("0.00 h (")
    bullets = [line for part in found.parts if isinstance(part, Bullets) for line in part.lines]
    assert f"{opening.when}: {opening.command}" in bullets
    words = [part.text for part in found.parts if isinstance(part, Words)]
    assert any(text.startswith("1 opening of the sealed test split") for text in words)
    (commands,) = (part.lines for part in found.parts if isinstance(part, Commands))
    assert commands[-1] == "nasattn report x"
    assert "--constraint" in commands[0]


@pytest.mark.usefixtures("here")
def test_no_network_beyond_a_limit_is_on_the_front_of_a_report() -> None:
    broken = {
        t.user_attrs["arch_id"]
        for t in study().get_trials()
        if any(value > 0 for value in t.constraints.values())
    }
    table = front_table(read_front(study()))
    assert not broken & {line.cells[0] for line in table.groups[0].lines}


@pytest.mark.usefixtures("here")
def test_a_study_without_a_trial_has_a_report() -> None:
    empty = optuna.create_study(study_name="empty")
    assert "No network has been finished" in to_html(search_report(empty))


@pytest.mark.usefixtures("here")
def test_a_long_front_is_thinned_evenly() -> None:
    row = read_front(study()).rows[0]
    rows = [row] * 101
    assert thinned(rows, 11) == [row] * 11
    assert thinned(rows, None) == rows
    assert thinned(rows[:5], 11) == rows[:5]


# ---- The commands ----


@pytest.mark.parametrize("ending", ["html", "md"])
@pytest.mark.usefixtures("here")
def test_report_writes_one_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    path = Path(f"out/r.{ending}")
    assert nasattn(monkeypatch, "report", EVIL, "-o", str(path), "--plots", "plots") == 0
    text = path.read_text(encoding="utf-8")
    assert EVIL not in re.sub(r"(?m)^    .*$|<pre>.*?</pre>", "", text)
    assert path.stat().st_size < 5e6
    assert f"written: {path}, and " in capsys.readouterr().out
    assert Path("plots/progress.svg").is_file()
    assert Path("plots/progress.png").is_file()
    if ending == "md":
        shown = re.findall(r"!\[.*\]\((.*)\)", text)
        assert shown
        assert all((path.parent / name).is_file() for name in shown)


@pytest.mark.usefixtures("here")
def test_compare_shows_two_searches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nasattn(monkeypatch, "compare", EVIL, "other", "-o", "both.html") == 0
    out = capsys.readouterr().out
    assert "hypervolume" in out
    assert "constraints" in out  # in which they differ
    assert "They spent different budgets: 6 and 3 trials." in out
    table, _, written = out.partition("written: ")
    assert written
    assert max(map(len, table.splitlines())) <= 80
    assert EVIL not in Path("both.html").read_text(encoding="utf-8")
    assert nasattn(monkeypatch, "compare", EVIL, "other", "--json") == 0
    sides = json.loads(capsys.readouterr().out)["sides"]
    assert [side["study"] for side in sides] == [EVIL, "other"]
    assert all(0 <= side["beaten"] <= 1 for side in sides)


@pytest.mark.usefixtures("here")
def test_a_study_compared_with_itself_is_equal() -> None:
    same = compare(study(), study())
    assert same.hypervolumes[0] == same.hypervolumes[1] > 0
    assert same.beaten(0) == same.beaten(1) == 0
    assert "Nothing: settings, versions and machine are the same." in to_html(
        comparison_report(same)
    )


@pytest.mark.usefixtures("here")
def test_what_has_nothing_in_common_is_not_compared() -> None:
    other = optuna.create_study(study_name="foreign")
    with pytest.raises(StudyError, match="no objective in common"):
        compare(study(), other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--storage", "sqlite:///none.db"], "there is no file none.db"),
        (["dashboard", "sqlite:///none.db"], "there is no file none.db"),
        (["report", "nobody"], "unknown study 'nobody'"),
        (["report"], "name one of "),
        (["report", "other", "-o", "r.pdf"], "unknown form of a report '.pdf'"),
        (["report", "other", "-o", "tiny.yaml/r.html"], "cannot be written"),
        (["compare", "other", "nobody"], "unknown study 'nobody'"),
        (["compare", "other", "other", "-o", "r"], "unknown form of a report ''"),
    ],
)
@pytest.mark.usefixtures("here")
def test_report_refuses(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert_refused(monkeypatch, capsys, arguments, message)


@pytest.mark.parametrize(
    "arguments",
    [
        ("spaces", "--json"),
        ("zoo", "--family", "alexnet", "--json"),
        ("plugin", "list", "--json"),
        ("status", "--json"),
        ("compare", "other", "other", "--json"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_prints_a_table_prints_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert nasattn(monkeypatch, *arguments) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("here")
def test_a_search_prints_its_front_as_json_and_all_else_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    goals = ("--objective", "top1", "--objective", "macs", "--seeds", "0")
    more = ("--trials", "1", "--name", "as-json", "--json")
    assert nasattn(monkeypatch, *TINY, *goals, *more) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["study"] == "as-json"
    assert "the Pareto front" in captured.err


# ---- The dashboard ----


def note(of: optuna.Study, trial_id: int) -> str:
    return str(get_note(SimpleNamespace(storage=of._storage, study=of, _trial_id=trial_id)))


@pytest.mark.usefixtures("here")
def test_catch_up_writes_what_the_dashboard_reads_and_only_once() -> None:
    url = "sqlite:///nasattn.db"
    with write_study(url, EVIL) as found:
        assert catch_up(found, artifact_dir(url))
        assert not catch_up(found, artifact_dir(url))
        assert is_up_to_date(found)
        for trial in found.get_trials():
            text = note(found, trial._trial_id)
            assert "![the network](/artifacts/" in text
            assert "| part | map | width | depth | attention | other |" in text
            for limit in trial.constraints:
                assert limit.replace("<", "&lt;").replace(">", "&gt;").replace("_", "\\_") in text
            if counts(trial) and trial.user_attrs["curve"]:
                assert "![where it looks](/artifacts/" in text
                assert "![its learning curve](/artifacts/" in text
            for artifact in re.findall(r"/artifacts/\d+/\d+/([0-9a-f-]+)", text):
                assert (artifact_dir(url) / artifact).is_file()
        assert "the Pareto front" in get_note(found)
        assert EVIL not in get_note(found)
        charts = get_plotly_graph_objects(found._storage.get_study_system_attrs(found._study_id))
        assert {"progress", "outcomes", "front-top1-macs"} <= charts.keys()
        assert all(json.loads(chart)["data"] is not None for chart in charts.values())
        assert EVIL not in "".join(charts.values())


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_catch_up_leaves_a_note_that_somebody_has_edited() -> None:
    url = "sqlite:///nasattn.db"
    from optuna_dashboard import save_note

    with write_study(url, "other") as found:
        catch_up(found, artifact_dir(url))
        first = found.get_trials()[0]
        place = SimpleNamespace(storage=found._storage, study=found, _trial_id=first._trial_id)
        save_note(place, "mine")
        save_note(found, "mine, too")
        catch_up(found, artifact_dir(url))
        assert note(found, first._trial_id) == "mine"
        assert get_note(found) == "mine, too"


@pytest.mark.usefixtures("here")
def test_a_review_takes_a_share_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("nasattn.report.review.time.monotonic", lambda: now[0])
    written: list[int] = []

    def note(self: object, number: int) -> dict[str, str]:
        written.append(number)
        now[0] += 1.0
        return {}

    monkeypatch.setattr("nasattn.report.dashboard.Notes.note", note)
    found = optuna.load_study(study_name="other", storage="sqlite:///nasattn.db")
    review = Review(found, Path("nowhere"), began=0.0)
    for trial in found.get_trials():
        review.told(trial)  # no time has passed
    assert written == []
    now[0] = 21.0  # 5 % of it is room for one that takes a second, and for one begun in the rest
    review.told(found.get_trials()[0])
    assert review.failure is None
    assert len(written) == 2
    assert review.spent == 2.0
    now[0] = 40.0  # 2.0 seconds were due, and are spent
    review.told(found.get_trials()[0])
    assert len(written) == 2


@pytest.mark.usefixtures("here")
def test_what_goes_wrong_in_a_review_ends_the_review_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("nasattn.report.dashboard.Notes.note", broken)
    found = study("other")
    review = Review(found, Path("nowhere"), began=-1e6)
    review.told(found.get_trials()[0])
    assert isinstance(review.failure, KeyError)
    review.finish()


@pytest.mark.usefixtures("here")
def test_a_first_note_of_the_users_own_stays() -> None:
    """Optuna Dashboard gives it the same version as a first one of ours."""
    from optuna_dashboard import save_note

    made = optuna.create_study(directions=study("other").directions, study_name="own")
    made.add_trials([t for t in study("other").get_trials() if counts(t)])
    first = made.get_trials()[0]
    place = SimpleNamespace(storage=made._storage, study=made, _trial_id=first._trial_id)
    save_note(place, "my own words")
    save_note(made, "of the study, too")
    catch_up(made, Path("own"))
    assert note(made, first._trial_id) == "my own words"
    assert get_note(made) == "of the study, too"
    assert "the network" in note(made, made.get_trials()[1]._trial_id)


@pytest.mark.usefixtures("here")
def test_a_dashboard_writes_with_the_lock_for_moments_only() -> None:
    taken: list[int] = []

    @contextmanager
    def writing() -> Iterator[optuna.Study]:
        taken.append(1)
        yield made

    source = study("other")
    made = optuna.create_study(directions=source.directions, study_name="moments")
    made.add_trials([t for t in source.get_trials() if counts(t)][:1] * 45)
    assert catch_up(made, Path("moments"), writing)
    assert len(taken) == 3 + 1 + 1  # notes in batches of 20, charts, the study's own note
    assert not catch_up(made, Path("moments"), writing)
    assert len(taken) == 5


@pytest.mark.usefixtures("here")
def test_the_dashboard_leaves_studies_of_others_alone() -> None:
    url = "sqlite:///others.db"
    made = optuna.create_study(study_name="plain", storage=url)
    made.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    before = made._storage.get_study_system_attrs(made._study_id)
    update(url, open_storage(url), "plain")
    assert made._storage.get_study_system_attrs(made._study_id) == before


@pytest.mark.usefixtures("here")
def test_the_dashboard_brings_a_finished_study_up_to_date() -> None:
    url = "sqlite:///nasattn.db"
    update(url, open_storage(url), "other-2")
    assert is_up_to_date(study("other-2"))


@pytest.mark.usefixtures("here")
def test_a_study_of_others_has_no_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna.create_study(study_name="plain", storage="sqlite:///foreign.db")
    arguments = ["report", "plain", "--storage", "sqlite:///foreign.db"]
    assert_refused(monkeypatch, capsys, arguments, "was not made by nasattn")


def test_objectives_of_two_directions_are_not_compared() -> None:
    first, second = (
        optuna.create_study(study_name=way, direction=way) for way in ("minimize", "maximize")
    )
    with pytest.raises(StudyError, match="no objective in common"):
        compare(first, second)


def test_the_number_of_notes_is_bounded(
    here: Path, monkeypatch: pytest.MonkeyPatch, make_many: Callable[[int], optuna.Study]
) -> None:
    monkeypatch.setattr("nasattn.report.dashboard.MOST_NOTES", 3)
    found = make_many(8)
    catch_up(found, here / "many")
    keys = found._storage.get_study_system_attrs(found._study_id)
    noted = [key for key in keys if re.fullmatch(r"dashboard:\d+:note_ver", key)]
    assert len(noted) == 3
    assert MOST_NOTES == 1000


@pytest.fixture
def make_many(here: Path) -> Callable[[int], optuna.Study]:
    """Studies in memory with copies of a real trial."""

    def make(n: int) -> optuna.Study:
        source = study("other")
        made = optuna.create_study(directions=source.directions, study_name="many")
        made.add_trials([t for t in source.get_trials() if counts(t)][:1] * n)
        return made

    return make


def test_a_curve_is_drawn_a_column_an_epoch() -> None:
    curve = [(2.0, 0.25), (1.0, 0.5), (0.5, 1.0)]
    drawing = draw_curve(curve, 145)
    heights = [column.height for column in drawing.rectangles]
    assert heights == pytest.approx([heights[-1] / 4, heights[-1] / 2, heights[-1]])
    assert "145 pictures" in drawing.svg()
    assert drawing.png(scale=1).startswith(b"\x89PNG")
    assert len(draw_curve(curve * 20).rectangles) == 60
