"""The page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
from chromium import Tab, browser
from pages import served

from siglip_perception.bags.recorder import ReplayOptions
from siglip_perception.commands.demo.recording import write_recording
from siglip_perception.perception import Perception
from siglip_perception.pipeline import Pipeline
from siglip_perception.view.engine import EngineOptions
from siglip_perception.view.open_source import open_source

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium.executable() is None,
        reason="no Chromium is installed to show the page: apt-get install chromium",
    ),
]
PHRASES = "[...document.querySelectorAll('#presence .phrase')].map(e => e.textContent).join('|')"
NAMELESS = """
[...document.querySelectorAll('button, a, input, select, summary, [role=application], canvas')]
  .filter(e => e.checkVisibility() && e.tagName !== 'CANVAS')
  .filter(e => !(e.ariaLabel || e.labels?.length || e.textContent.trim()))
  .map(e => e.outerHTML).join()
"""


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Perception("tabletop", backend="torch", precision="fp32").pipeline


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bag") / "demo"
    write_recording(path, 7, 2)
    return path


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with browser(tmp_path) as page:
        yield page


def test_a_person_looks_asks_and_steps(tab: Tab, bag: Path, pipeline: Pipeline) -> None:
    source = open_source(str(bag), ReplayOptions(), 5)
    options = EngineOptions(phrases=("red cup", "plate"), play=False)
    with served(source, lambda: pipeline, options) as port:
        tab.open(f"http://127.0.0.1:{port}/", 1280, 860)
        # The bag's own first instruction.
        tab.wait("document.querySelectorAll('#presence li').length >= 2")
        first = tab.run(PHRASES)
        tab.wait("document.querySelectorAll('#tokens canvas').length === 3")
        tab.wait("document.getElementById('heat').width > 1")

        tab.type("#instruction", "빨간 컵을 집어라")
        tab.wait(f"{PHRASES} === '빨간 컵'")
        assert first != tab.run(PHRASES)
        tab.wait("!document.getElementById('follow').hidden")

        tab.type("#instruction", "x" * 10_000)
        tab.wait("document.getElementById('said').textContent.includes('longer than 1024 bytes')")
        tab.type("#instruction", "<img src=/x onerror='window.hacked=1'. cup")
        tab.wait(f"{PHRASES}.includes('cup')")
        assert not tab.run("window.hacked || document.querySelector('#presence img')")

        tab.click("#follow")
        tab.wait(f"{PHRASES} === {first!r}")
        before = tab.run("document.getElementById('place').textContent")
        assert before.startswith("1 / 32")
        tab.click("#on")
        tab.wait("document.getElementById('place').textContent.startsWith('2 / 32')")
        tab.run("document.activeElement.blur()")
        tab.key(".", 190, ".")
        tab.wait("document.getElementById('place').textContent.startsWith('3 / 32')")
        tab.click("#stage", 0.5, 0.5)
        tab.wait("document.querySelectorAll('#nearest li').length >= 2")
        tab.key("Escape", 27)
        tab.wait("document.getElementById('probe-panel').hidden")
        tab.click("#play")
        tab.wait("document.getElementById('place').textContent.match(/^[4-9] |^[123]. /)")

        assert tab.run(NAMELESS) == ""
        assert tab.complaints == []
        outside = [url for url in tab.requests if not url.startswith(f"http://127.0.0.1:{port}/")]
        assert [url for url in outside if not url.startswith("blob:")] == []
    tab.wait("!document.getElementById('lost').hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone(tab: Tab, pipeline: Pipeline, scheme: str) -> None:
    picture = Path(__file__).resolve().parents[2] / "examples" / "tabletop.jpg"
    source = open_source(str(picture), ReplayOptions(), 5)
    with served(source, lambda: pipeline, EngineOptions("red cup. " + "w" * 120)) as port:
        tab.open(f"http://127.0.0.1:{port}/", 360, 740, scheme)
        tab.wait("document.querySelectorAll('#presence li').length >= 2")
        assert tab.run("document.documentElement.scrollWidth") <= 360
        back = tab.run("getComputedStyle(document.body).backgroundColor")
        levels = [int(word) for word in back.strip("rgb()").split(",")]
        assert (sum(levels) < 200) == (scheme == "dark")
        assert tab.complaints == []
