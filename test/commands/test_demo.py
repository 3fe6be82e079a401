"""The demo's sample bag, and what its report makes of a player's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import Reader

from siglip_perception.bags.replay import typestore
from siglip_perception.commands.demo import recording
from siglip_perception.commands.demo.report import Results, table
from siglip_perception.commands.main import main
from siglip_perception.language.instruction import parse
from siglip_perception.types import Box, Role


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "SCENE_S", 1)


@pytest.mark.parametrize("seed", range(6))
def test_instructions_name_two_objects_of_the_scene(seed: int) -> None:
    for part in recording.parts(seed):
        names = {item.phrase(language) for item in part.scene.objects for language in ("en", "ko")}
        assert len(part.instructions) == 2
        for text in part.instructions:
            instruction = parse(text)
            assert set(instruction.phrases) <= names
            assert instruction.roles == (Role.TARGET, Role.PLACE)


def test_a_bag_has_compressed_images_at_20_hz_and_instructions(
    short: None, tmp_path: Path
) -> None:
    recorded_bag = recording.write_recording(tmp_path / "bag", seed=3)
    store = typestore()
    stamps, sentences = [], []
    with Reader(tmp_path / "bag") as reader:
        for connection, stamp, data in reader.messages():
            message: Any = store.deserialize_cdr(data, connection.msgtype)
            if connection.topic == "/image/compressed":
                assert bytes(message.data[:3]) == b"\xff\xd8\xff"
                stamps.append(stamp)
            else:
                assert connection.topic == "/instruction"
                sentences.append((stamp, message.data))
    assert len(stamps) == recorded_bag.frames == 2 * recording.RATE_HZ
    assert stamps[recording.RATE_HZ] - stamps[0] == 10**9
    assert [text for _, text in sentences] == [
        text for part in recording.parts(3) for text in part.instructions
    ]
    assert sentences[0][0] < stamps[0]
    faster = recording.write_recording(tmp_path / "faster", seed=3, rate_hz=30)
    assert faster.frames == 60


def test_the_truth_has_each_object_in_both_languages(short: None, tmp_path: Path) -> None:
    truth = recording.write_recording(tmp_path / "bag", seed=3).truth[0]
    for item in recording.parts(3)[0].scene.objects:
        assert truth[item.phrase("en")] == truth[item.phrase("ko")]


def grounding(frame: int, x: int) -> dict[str, Any]:
    hit = {"phrase": "컵", "score": 0.5 + frame / 4, "box": [x, 10, 20, 20]}
    phrases = ["컵", "plate"]
    presence = [0.9, 0.1]
    return {
        "frame": frame,
        "instruction": "컵",
        "phrases": phrases,
        "presence": presence,
        "objects": [hit],
    }


def results(**changes: Any) -> Results:
    """Two frames; the cup is found in both, in the second one beside where it is."""
    tokens = {
        "frame": 0,
        "received_s": 0.0,
        "sent_s": -0.02,
        "shape": [324, 384],
        "dtype": "float32",
        "contract": "tabletop",
        "fingerprint": "0123456789abcdef",
        "finite": True,
    }

    raw = {
        "played": 4,
        "instructions": ["컵"],
        "tokens": [tokens, {**tokens, "sent_s": 0.04, "received_s": 0.1}],
        "groundings": [grounding(0, 10), grounding(1, 100)],
        "pictures": [0, 1],
        "unmatched": 0,
        "processor_s": {"node": 0.2, "policy": 0.004, "player": 0.02},
        "camera": {
            "received": "3",
            "published": "2",
            "dropped.superseded": "1",
            "in_flight": "0",
            "latency_p50_ms": "20.00",
            "latency_p99_ms": "30.00",
        },
    }
    return Results({**raw, **changes}, [{"컵": Box(10, 10, 20, 20)}] * 2)


def test_the_report_counts_what_was_found_and_where() -> None:
    cup, plate = results().phrase_results()
    assert (cup.frames, cup.hits, cup.right_hits, cup.score, cup.box) == (
        2,
        2,
        1,
        0.75,
        (100, 10, 20, 20),
    )
    assert (plate.frames, plate.hits, plate.box) == (2, 0, ())


def test_the_table_shows_every_figure() -> None:
    text = "\n".join(table(results()))
    for figure in (
        "4 played, 1 lost by the middleware, 3 received",
        "2 published, 1 dropped (superseded 1)",
        "10.0 Hz",
        "p50 20.00 ms, p99 30.00 ms",
        "node 50.0, policy 1.0, player 5.0: ms a frame",
        "100, 10, 20, 20",
    ):
        assert figure in text


def test_how_long_tokens_took_is_told_without_the_start() -> None:
    assert results().waits_ms() == []
    first = results().raw["tokens"][0]
    later = [{**first, "sent_s": at, "received_s": at + 0.01 * at} for at in (0.0, 2.1, 3.0, 4.0)]
    text = results(tokens=[*later, {**later[-1], "sent_s": None}])
    assert text.waits_ms() == pytest.approx([21.0, 30.0, 40.0])
    assert "p50 30.0 ms, p99 40.0 ms, from sending" in "\n".join(table(text))


def test_a_rate_that_no_camera_has_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--rate", "0"]) == 2
    assert "--rate is 1 to 60" in capsys.readouterr().err


def test_a_good_run_has_no_problems() -> None:
    assert results().problems() == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tokens": []}, "No tokens arrived"),
        ({"camera": {"received": "3", "published": "1"}}, "does not account for 2 of 3"),
        ({"played": 2}, "received 1 frames more than were played"),
        ({"unmatched": 1}, "have the stamp of no frame played"),
        ({"instructions": ["컵", "책"]}, 'Nothing was published for the instruction "책"'),
        ({"groundings": []}, "Nothing was found for the instruction"),
        ({"groundings": [grounding(0, 100), grounding(1, 100)]}, "only 0 of 2 frames"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], sentence: str) -> None:
    assert any(sentence in problem for problem in results(**changes).problems())


def test_a_folder_that_no_demo_wrote_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_file = tmp_path / "bag" / "mine.mcap"
    own_file.parent.mkdir()
    own_file.write_bytes(b"a day's recording")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "no demo wrote" in capsys.readouterr().err
    assert own_file.exists()
