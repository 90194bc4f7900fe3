"""The dashboard and the report in a real browser, on a study that `nasattn search` has made."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import optuna
import pytest
from PIL import Image

from tests.command import nasattn

pytest.importorskip("playwright", reason="needs playwright: pip install playwright")
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EVIL = "<script>alert(1)</script>"
CLASSES = ("<img src=x onerror=alert(1)>", "[cat](javascript:alert(1))", "dog & co")
PATIENCE = 60_000  # milliseconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the mobile space was searched; MobileNetV2 is beyond a limit."""
    folder = tmp_path_factory.mktemp("studies")
    for i, name in enumerate(CLASSES):
        (folder / "pictures" / name).mkdir(parents=True)
        for j in range(24):
            colour = (80 * i + 3 * j, 200 - 60 * i, 9 * j)
            Image.new("RGB", (16, 16), colour).save(folder / "pictures" / name / f"{j}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NASATTN_CACHE", str(folder / "cache"))
        search = ["search", "--space", "mobile", "--data", "pictures", "--resolution", "16"]
        goals = ["--objective", "top1", "--objective", "macs", "--constraint", "macs<=60e6"]
        size = ["--epochs", "2", "--trials", "6", "--seeds", "2", "--control"]
        assert nasattn(patch, *search, *goals, *size, "--name", EVIL) == 0
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@dataclass
class Seen:
    """A page, and what it complained of, asked for, or popped up."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("dialog", self.close)

    def hear(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def close(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@pytest.fixture
def seen(browser: Browser) -> Iterator[Seen]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield Seen(page)
    page.close()


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=EVIL, storage=f"sqlite:///{folder}/nasattn.db")


def infeasible(folder: Path) -> list[int]:
    trials = study(folder).get_trials()
    return [t.number for t in trials if any(value > 0 for value in t.constraints.values())]


def test_the_report_shows_front_baselines_drawings_and_charts(
    folder: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NASATTN_CACHE", str(folder / "cache"))
    assert nasattn(monkeypatch, "report", EVIL, "-o", "report.html") == 0
    assert (folder / "report.html").stat().st_size < 5e6
    page = seen.page
    page.goto((folder / "report.html").as_uri())
    assert page.locator("h1").inner_text() == f"Search {EVIL}"
    plots = page.locator(".plot")
    for i in range(plots.count()):
        plots.nth(i).scroll_into_view_if_needed()
        plots.nth(i).locator(".main-svg").first.wait_for()
    charts = " ".join(page.locator(".plot .main-svg").all_text_contents())
    for words in ("top-1", "multiply-adds (M)", "lam", "baseline", "random search", "n = "):
        assert words in charts
    table = page.locator("table", has=page.locator("caption", has_text="the Pareto front"))
    assert "★ lam" in table.inner_text()
    drawings = page.locator("img.drawing")
    assert drawings.count() >= 3
    widths = drawings.evaluate_all("all => all.map(one => one.naturalWidth)")
    assert min(widths) > 500
    assert infeasible(folder)
    beyond = study(folder).trials[infeasible(folder)[0]].user_attrs["baseline"]
    on_front = table.locator("tbody").first.inner_text()
    assert beyond not in on_front
    assert not [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert (seen.errors, seen.dialogs) == ([], [])


def test_a_point_of_the_front_leads_to_its_drawing(
    folder: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert nasattn(monkeypatch, "report", EVIL, "-o", "points.html") == 0
    page = seen.page
    page.goto((folder / "points.html").as_uri())
    page.locator(".plot .main-svg").first.wait_for()
    shown = page.locator("details[id^=trial-]").first.get_attribute("id") or ""
    number = int(shown.removeprefix("trial-"))
    page.evaluate(
        "number => document.querySelector('.plot').emit('plotly_click',"
        " {points: [{customdata: number}]})",
        number,
    )
    page.locator(f"#{shown}.found[open] img.drawing").wait_for()
    assert (seen.errors, seen.dialogs) == ([], [])


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    """`nasattn dashboard` on the study; its address, once it has brought the notes up to date."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from nasattn.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, "dashboard", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < until:
            try:
                if "Pareto front" in detail(address, folder)["note"]["body"]:
                    break
            except OSError:
                pass
            time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=60)


def detail(address: str, folder: Path) -> dict[str, Any]:
    url = f"{address}/api/studies/{study(folder)._study_id}?after=0"
    with urlopen(url, timeout=20) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def test_the_dashboard_shows_notes_pictures_and_charts(
    folder: Path, served: str, seen: Seen
) -> None:
    page, number = seen.page, study(folder)._study_id
    page.goto(f"{served}/dashboard/studies/{number}")
    page.get_by_text("hypervolume over the trials").first.wait_for()
    page.get_by_text("top-1 against multiply-adds").first.wait_for()
    assert page.get_by_text(EVIL).count() > 0

    best = {trial["number"] for trial in detail(served, folder)["best_trials"]}
    assert best
    assert not best & set(infeasible(folder))

    lam = next(t for t in study(folder).trials if t.user_attrs.get("baseline") == "lam")
    page.goto(f"{served}/dashboard/studies/{number}/trials?numbers={lam.number}")
    page.get_by_text("★ lam: lam*6 aff").wait_for()
    for words in ("the network", "its learning curve", "where it looks"):
        picture = page.get_by_alt_text(words, exact=True).first
        picture.wait_for()
        page.wait_for_function("one => one.naturalWidth > 100", arg=picture.element_handle())
    page.get_by_text("000, Table 2").first.wait_for()  # its published figures
    page.get_by_role("link", name="architecture.json").first.wait_for()

    beyond = infeasible(folder)[0]
    page.goto(f"{served}/dashboard/studies/{number}/trials?numbers={beyond}")
    page.get_by_text("macs<=60000000").first.wait_for()
    page.get_by_text("broken", exact=True).first.wait_for()
    chips = page.locator("li", has_text=re.compile(rf"^Trial {beyond}\b"))
    assert "Best Trial" not in " ".join(chips.all_inner_texts())

    page.goto(f"{served}/dashboard/studies/{number}/note")
    page.get_by_text("the Pareto front").first.wait_for()
    assert (seen.errors, seen.dialogs) == ([], [])
