"""The report of a long search: how long it takes to write, how large it is, how it opens.

    python -m benchmarks.report [--trials 5000] [--folder FOLDER]

The study is that of `benchmarks.stored_trials`: params, networks and attributes are those of a
search, the figures are random. `nasattn report` runs in a process of its own, imports included; the
page is opened in headless chromium by playwright, and scrolled from top to bottom.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.stored_trials import STUDY, make_study
from nasattn.runtimes.facts import processor

STEP = 600  # pixels of the page at a time
LONG_TASKS = """
window.long = [];
new PerformanceObserver((list) => list.getEntries().forEach((e) => window.long.push(e.duration)))
  .observe({ entryTypes: ["longtask"] });
"""


def write_report(url: str, path: Path) -> float:
    """Seconds of `nasattn report`."""
    code = "from nasattn.cli import main; main()"
    command = [sys.executable, "-c", code, "report", STUDY, "--storage", url, "-o", str(path)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def open_report(path: Path) -> dict[str, Any]:
    """Seconds to the page and its first chart; the longest tasks while all of it is scrolled."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.add_init_script(LONG_TASKS)
        start = time.perf_counter()
        page.goto(path.as_uri())
        loaded = time.perf_counter() - start
        page.wait_for_selector(".plot .main-svg")
        first = time.perf_counter() - start
        height = page.evaluate("document.body.scrollHeight")
        for y in range(0, height, STEP):
            page.evaluate("y => window.scrollTo(0, y)", y)
            page.wait_for_timeout(150)
        page.wait_for_timeout(1000)
        tasks = sorted(page.evaluate("window.long"), reverse=True)
        n_charts = page.locator(".plot[data-drawn]").count()
        browser.close()
    return {
        "loaded_s": round(loaded, 2),
        "first_chart_s": round(first, 2),
        "charts": n_charts,
        "long_tasks_ms": [round(task) for task in tasks[:5]],
        "errors": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    file = folder / f"many-{options.trials}.db"
    if not file.exists():
        make_study(f"sqlite:///{file}", options.trials)
    path = folder / "report.html"
    seconds = [write_report(f"sqlite:///{file}", path) for _ in range(3)]
    found = {
        "trials": options.trials,
        "report_s": [round(s, 1) for s in seconds],
        "bytes": path.stat().st_size,
        **open_report(path),
        "load": [round(x, 1) for x in os.getloadavg()],
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("nasattn", "optuna", "plotly")},
        "python": platform.python_version(),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
