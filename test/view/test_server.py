"""The page's server and engine, from the frames of a source to the messages of a page."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pages import Page, get, served
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus

from siglip_perception.bags.recorder import ReplayOptions
from siglip_perception.errors import CheckpointError
from siglip_perception.grounding.tracking import TrackingOptions
from siglip_perception.images.fingerprint import pixel_fingerprint
from siglip_perception.images.pixel_reference import PixelReference
from siglip_perception.perception import Perception
from siglip_perception.pipeline import Pipeline
from siglip_perception.view import server as view_server
from siglip_perception.view.engine import EngineOptions
from siglip_perception.view.open_source import open_source
from siglip_perception.view.server import ViewServerError, listen, page_address
from siglip_perception.view.source import LiveSource, RecordedSource
from siglip_perception.view.updates import Update

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "examples" / "tabletop.jpg"
PHRASES = ("red cup", "blue bottle", "plate")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Perception("tabletop", backend="torch", precision="fp32").pipeline


def picture() -> RecordedSource | LiveSource:
    return open_source(str(PICTURE), ReplayOptions(), 5)


@pytest.fixture
def port(pipeline: Pipeline) -> Iterator[int]:
    """A server that looks at the example picture for a red cup."""
    with served(picture(), lambda: pipeline, EngineOptions("red cup", PHRASES)) as number:
        yield number


@pytest.fixture
def clip(tmp_path: Path, pipeline: Pipeline) -> Iterator[int]:
    """A server that looks at twelve gray pictures, paused."""
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((24, 32, 3), 20 * number, np.uint8))
    (tmp_path / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    source = open_source(str(tmp_path), ReplayOptions(), 100)
    with served(source, lambda: pipeline, EngineOptions(play=False)) as number:
        yield number


def test_a_page_gets_the_picture_and_what_the_instruction_names(port: int) -> None:
    with Page(port) as page:
        (item,) = page.wait(lambda p: p.head.get("objects"))
        page.wait(lambda p: p.state.get("model") == "ready")
        head = page.head
        assert page.picture().shape == (head["height"], head["width"], 3)
        assert head["phrases"] == ["red cup"]
        assert item["text"] == "red cup"
        assert item["score"] > 0.5
        x, y, width, height = item["box"]
        outline = np.array(item["outline"][0]).reshape(-1, 2)
        assert (outline >= (x - 2, y - 2)).all()
        assert (outline <= (x + width + 2, y + height + 2)).all()
        facts = dict(page.state["facts"])
        assert facts["contract"] == "tabletop"
        assert re.fullmatch("[0-9a-f]{64}", facts["fingerprint"])


def test_an_instruction_changes_what_is_looked_for_and_says_what_is_wrong_with_it(
    port: int,
) -> None:
    with Page(port) as page:
        page.wait(lambda p: p.head.get("objects"))
        page.ask("instruct", text="빨간 컵을 집어라")
        page.wait(lambda p: p.head.get("phrases") == ["빨간 컵"] and p.head.get("objects"))
        page.ask("instruct", text="<script>alert(1)</script>")
        page.wait(
            lambda p: (
                p.head.get("phrases") == ["alert"] and "taken out" in p.state.get("detail", "")
            )
        )
        page.ask("instruct", text="pick up")
        page.wait(
            lambda p: "names no object" in p.state.get("detail", "") and not p.head.get("phrases")
        )
        page.ask("instruct", text="x" * 10_000)
        assert "longer than 1024 bytes" in page.wait(lambda p: p.error)
        page.ask("instruct", text="")
        page.wait(lambda p: p.state.get("instruction") == "" and not p.head.get("phrases"))


def test_panels_are_computed_for_pages_that_show_them(port: int) -> None:
    with Page(port) as page:
        page.wait(lambda p: p.head.get("objects"))
        assert set(page.blobs) == {"picture"}
        page.ask("show", panels=["heat", "tokens"])
        page.ask("threshold", value=0.4)
        page.wait(lambda p: {"heat", "tokens:fused", "tokens:siglip"} <= set(p.blobs))
        facts, levels = page.blobs["heat"]
        assert facts["phrases"] == ["red cup"]
        assert len(levels) == facts["rows"] * facts["cols"]
        low, high = facts["ranges"][0]
        assert -1 <= low < high <= 1
        # The most similar patch lies in the cup's box.
        row, col = divmod(int(np.frombuffer(levels, np.uint8).argmax()), facts["cols"])
        x, y, width, height = page.head["objects"][0]["box"]
        assert x <= (col + 0.5) / facts["cols"] * page.head["width"] <= x + width
        assert y <= (row + 0.5) / facts["rows"] * page.head["height"] <= y + height
        facts, colors = page.blobs["tokens:siglip"]
        assert len(colors) == 3 * facts["rows"] * facts["cols"]


def test_a_click_names_the_thing_and_the_patches_like_it(port: int) -> None:
    with Page(port) as page:
        (item,) = page.wait(lambda p: p.head.get("objects"))
        x, y, width, height = item["box"]
        at = (x + width / 2) / page.head["width"], (y + height / 2) / page.head["height"]
        page.ask("pin", x=at[0], y=at[1])
        facts, data = page.wait(lambda p: p.blobs.get("pin"))
        assert facts["nearest"][0][0] == "red cup"
        count = facts["rows"] * facts["cols"]
        alike = np.frombuffer(data[:count], np.uint8)
        thing = np.frombuffer(data[count:], np.bool_)
        assert alike[facts["patch"]] == 255
        assert thing[facts["patch"]]
        assert 1 <= thing.sum() < count / 3
        page.ask("unpin")
        page.wait(lambda p: p.state.get("pin") is None)


def test_a_recording_is_stepped_and_scrubbed_and_a_broken_picture_is_said(clip: int) -> None:
    with Page(clip) as page:
        page.wait(lambda p: p.state.get("model") == "ready")
        assert page.state["count"] == 12
        page.ask("seek", index=7)
        page.wait(lambda p: p.head.get("index") == 7)
        assert page.picture().mean() == pytest.approx(140, abs=3)
        page.ask("step", by=-1)
        page.wait(lambda p: p.head.get("index") == 6)
        page.ask("step", by=-1)
        assert "5.png" in page.wait(lambda p: p.state.get("trouble"))
        page.ask("step", by=1)
        page.wait(lambda p: not p.state.get("trouble"))
        page.ask("seek", index=10**9)
        page.wait(lambda p: p.head.get("index") == 11)
        page.ask("play", on=True)  # from its end: anew
        page.wait(lambda p: p.head.get("index", 11) < 11)
        page.wait(lambda p: not p.state.get("playing"))
        counts = dict(page.state["statuses"][0]["values"])
        assert int(counts["dropped.corrupt"]) >= 1
        assert int(counts["received"]) == int(counts["shown"]) + int(counts["dropped"])


def test_with_tracking_a_thing_keeps_its_number(pipeline: Pipeline, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(PICTURE.read_bytes())
    source = open_source(str(tmp_path), ReplayOptions(), 10)
    options = EngineOptions("red cup", play=False, tracking=TrackingOptions())
    with served(source, lambda: pipeline, options) as port, Page(port) as page:
        (first,) = page.wait(lambda p: p.head.get("objects"))
        page.ask("step", by=1)
        page.wait(lambda p: p.head["index"] == 1)
        (second,) = page.head["objects"]
        assert first["id"] == second["id"] == 1


def test_pixels_that_differ_from_the_training_sets_are_said(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        picture = rng.integers(0, 40, (48, 64, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    bright = [rng.integers(120, 256, (48, 64, 3), np.uint8) for _ in range(40)]
    reference = PixelReference.of(pixel_fingerprint(picture) for picture in bright)
    source = open_source(str(tmp_path), ReplayOptions(), 50)
    options = EngineOptions(pixel_reference=reference)
    with served(source, lambda: pipeline, options) as port, Page(port) as page:

        def pixels(page: Page) -> list[dict[str, Any]]:
            statuses = page.state.get("statuses", [])
            return [item for item in statuses if item["name"] == "pixels" and item["level"] == 1]

        (status,) = page.wait(pixels)
        assert "dark" in status["message"]


def test_a_model_that_cannot_be_loaded_is_said_and_the_picture_is_there() -> None:
    def load() -> Pipeline:
        raise CheckpointError("There is no model folder 'none': name one that is there.")

    with served(picture(), load, EngineOptions("red cup")) as port, Page(port) as page:
        page.wait(lambda p: p.state.get("model") == "failed")
        assert "no model folder" in page.state["model_text"]
        page.wait(lambda p: p.head)


def test_what_is_no_request_is_answered_and_the_page_goes_on(port: int) -> None:
    with Page(port) as page:
        page.send("{")
        assert page.wait(lambda p: p.error) == "The message is no JSON."
        page.wait(lambda p: p.head)


def test_a_page_that_is_closed_in_mid_frame_leaves_the_others_alone(port: int) -> None:
    with Page(port) as page:
        for _ in range(3):
            with Page(port):
                pass
        page.ask("threshold", value=0.3)
        page.wait(lambda p: p.state.get("threshold") == 0.3)


def test_one_page_too_many_is_told_and_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_server, "MAX_PAGES", 1)
    with Page(port) as first, Page(port) as second:
        assert "open already" in second.wait(lambda p: p.error)
        with pytest.raises(ConnectionClosed):
            second.wait(lambda p: False)
        first.wait(lambda p: p.head)


def test_what_is_seen_is_saved_by_the_browser(port: int) -> None:
    with Page(port) as page:
        page.wait(lambda p: p.head.get("objects"))
        status, headers, body = get(port, "/seen.png")
        assert (status, headers["content-type"]) == (200, "image/png")
        assert headers["content-disposition"] == 'attachment; filename="seen-000000.png"'
        size = Image.open(io.BytesIO(body)).size
        assert size == (page.head["width"], page.head["height"])
        status, _, body = get(port, "/seen.json")
        content = json.loads(body)
        assert content["seen"]["objects"][0]["phrase"] == "red cup"
        assert content["source"] == "tabletop.jpg"


def test_every_file_of_the_page_is_served_and_no_other(port: int) -> None:
    status, headers, body = get(port, "/")
    assert status == 200
    assert "script-src 'self'" in headers["content-security-policy"]
    names = {
        entry.name
        for entry in (resources.files("siglip_perception.view") / "static").iterdir()
        if entry.is_file()
    }
    text = body.decode()
    for name in names:
        status, headers, content = get(port, f"/static/{name}")
        assert status == 200, name
        assert headers["x-content-type-options"] == "nosniff"
        text += content.decode()
    # Nothing is fetched from anywhere else, and nothing can be put in as markup.
    outside = set(re.findall(r"https?://[^\s\"')]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside
    assert not re.search(r"innerHTML|outerHTML|document\.write|insertAdjacentHTML|eval\(", text)
    for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/static/none.js", "/none"):
        assert get(port, path)[0] == 404


def test_foreign_names_and_foreign_pages_are_refused(port: int) -> None:
    assert get(port, "/", Host="evil.example")[0] == 421
    assert get(port, "/seen.json", Origin="http://evil.example")[0] == 403
    assert get(port, "/", method="POST")[0] == 405
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}"):
        with pytest.raises(InvalidStatus, match="403"), Page(port, origin=origin):
            pass


def test_with_a_token_nothing_is_told_without_it(pipeline: Pipeline) -> None:
    with served(picture(), lambda: pipeline, EngineOptions(), "secret") as port:
        assert get(port, "/")[0] == 401
        assert get(port, "/seen.png", Cookie="siglip_perception_view=guess")[0] == 401
        with pytest.raises(InvalidStatus, match="403"), Page(port):
            pass
        status, headers, _ = get(port, "/?token=secret")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"].partition(";")[0]
        assert "HttpOnly" in headers["set-cookie"]
        assert "samesite=strict" in headers["set-cookie"].lower()
        assert get(port, "/", Cookie=cookie)[0] == 200
        with Page(port, cookie=cookie) as page:
            page.wait(lambda p: p.head)


def test_a_port_that_is_taken_and_an_address_that_is_none_are_said() -> None:
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(ViewServerError, match=f"Port {port} of 127.0.0.1 cannot be used"):
            listen("127.0.0.1", port)
        assert page_address(bound, "") == f"http://127.0.0.1:{port}/"
        assert page_address(bound, "abc") == f"http://127.0.0.1:{port}/?token=abc"
    with pytest.raises(ViewServerError, match="There is no address"):
        listen("nowhere.invalid", 0)


def test_a_page_gets_a_second_frame_while_it_draws_and_a_third_once_it_has_drawn() -> None:
    page = view_server.OpenPage()
    due = []
    for number in (1, 2, 3):
        page.waiting["frame"] = Update("frame", b"", number)
        update = page.due(now=0.0)
        due.append(None if update is None else update.frame)
        if update is not None:
            page.sent(update, now=0.0)
    assert due == [1, 2, None]
    page.drew(1)
    update = page.due(now=0.0)
    assert update is not None
    assert update.frame == 3
