"""LIBERO's task files, a worker in its place, and what a sentence has to lead to."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siglip_perception.datasets.skips import SkipReport
from siglip_perception.evaluation import libero
from siglip_perception.evaluation.libero import LiberoError, draw, find_tasks, parse_task
from siglip_perception.types import Box

TASK = """
; a comment (
(define (problem LIBERO_Kitchen_Tabletop_Manipulation)
  (:domain robosuite)
  (:language Pick the akita black bowl)
  (:fixtures kitchen_table - kitchen_table  white_cabinet_1 - white_cabinet)
  (:objects akita_black_bowl_1 akita_black_bowl_2 - akita_black_bowl  plate_1 - plate)
  (:init (On plate_1 kitchen_table_plate_region))
  (:goal (And (Close white_cabinet_1_bottom_region)
              (In akita_black_bowl_2 white_cabinet_1_bottom_region)))
)
"""
NAME = "KITCHEN_SCENE10_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it"


def write_task(root: Path, suite: str, name: str, text: str = TASK) -> Path:
    path = root / "bddl_files" / suite / f"{name}.bddl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_task_says_what_is_moved_and_where_to() -> None:
    task = parse_task(TASK, Path("libero_10", f"{NAME}.bddl"))
    assert task.sentence == ("put the black bowl in the bottom drawer of the cabinet and close it")
    assert task.things == {
        "kitchen_table": "kitchen_table",
        "white_cabinet_1": "white_cabinet",
        "akita_black_bowl_1": "akita_black_bowl",
        "akita_black_bowl_2": "akita_black_bowl",
        "plate_1": "plate",
    }
    assert task.targets == ("akita_black_bowl_2",)
    assert task.places == ("white_cabinet_1",)
    opened = TASK.replace("(In akita_black_bowl_2 white_cabinet_1_bottom_region)", "")
    assert parse_task(opened, Path("x.bddl")).targets == ("white_cabinet_1",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(define (:objects a - b)", "ends within a parenthesis"),
        (")", "closes a parenthesis"),
        ("(define (:objects a - b))", "no :goal"),
        ("", "it is no LIBERO task"),
    ],
)
def test_a_file_that_is_no_task_is_refused(text: str, words: str) -> None:
    with pytest.raises(LiberoError, match=words):
        parse_task(text, Path("x.bddl"))


@given(st.text(alphabet="()-;: \nabAnd_1", max_size=200))
def test_any_text_is_a_task_or_a_sentence_about_it(text: str) -> None:
    with suppress(LiberoError):
        assert parse_task(text, Path("x.bddl")).things


def test_tasks_are_taken_from_each_suite_in_turn(tmp_path: Path) -> None:
    root = tmp_path / "libero" / "libero"
    for name in ("a_b", "c_d"):
        write_task(root, "libero_goal", name)
    write_task(root, "libero_90", "e_f")
    write_task(root, "libero_goal_swap", "g_h")  # a variant, by others
    assert [t.sentence for t in find_tasks(tmp_path, 9)] == ["a b", "e f", "c d"]
    assert len(find_tasks(root, 1)) == 1
    with pytest.raises(LiberoError, match="has no folder bddl_files"):
        find_tasks(tmp_path / "libero" / "libero" / "bddl_files", 1)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker that draws a bowl, hidden but for a corner, and a plate, and fails on "c_d"."""
    path = tmp_path / "libero_worker.py"
    path.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "out, size, seed, *files = sys.argv[1:]\n"
        "for file in files:\n"
        "    path, fault = Path(file), ''\n"
        "    if path.stem == 'c_d':\n"
        "        fault = 'ValueError: no such mesh'\n"
        "    else:\n"
        "        ids = np.full((int(size), int(size)), -1, np.int16)\n"
        "        ids[100:200, 50:250], ids[0:2, 0:2], ids[300:, :] = 1, 0, 2\n"
        "        image = np.zeros((*ids.shape, 3), np.uint8)\n"
        "        names = ['akita_black_bowl_2', 'plate_1', 'Panda0']\n"
        "        np.savez(Path(out, f'{path.parent.name}--{path.stem}.npz'), image=image,"
        " instances=ids, names=names)\n"
        "    print(json.dumps({'task': file, 'error': fault}), flush=True)\n"
    )
    monkeypatch.setattr(libero, "__file__", str(tmp_path / "libero.py"))
    return path


def test_what_is_in_view_is_asked_for_and_what_is_not_there(tmp_path: Path, worker: Path) -> None:
    write_task(tmp_path, "libero_goal", "a_b")
    write_task(tmp_path, "libero_goal", "c_d")
    other = TASK.replace("plate_1 - plate", "ketchup_1 - ketchup")
    write_task(tmp_path, "libero_90", "e_f", other)
    report = SkipReport()
    tasks = find_tasks(tmp_path, 9)
    scenes = draw(tasks, tmp_path / "frames", Path(sys.executable), 1, report)
    assert [scene.task.sentence for scene in scenes] == ["a b", "e f"]
    assert "ValueError: no such mesh" in report.first()
    first = scenes[0]
    # The bowl's corner is too small to be asked for, and the robot has no name.
    assert first.boxes == {"plate_1": Box(50, 100, 200, 100)}
    questions = {q.phrase: len(q.truths) for q in first.sample.questions}
    assert questions == {"plate": 1, "ketchup": 0}
    assert first.sample.questions[0].truths[0].mask is not None
    worker.write_text("raise SystemExit('drawn again')\n")
    again = draw([first.task], tmp_path / "frames", Path(sys.executable), 1, report)
    assert np.array_equal(again[0].sample.image, first.sample.image)


def test_a_python_without_libero_is_told_with_its_last_words(tmp_path: Path, worker: Path) -> None:
    write_task(tmp_path, "libero_goal", "a_b")
    worker.write_text("import no_libero\n")
    with pytest.raises(LiberoError, match=r"No module named 'no_libero'\): name the Python"):
        draw(find_tasks(tmp_path, 1), tmp_path / "f", Path(sys.executable), 1, SkipReport())
