"""The reader: any frame at once, without a copy, for training and for search."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import corpora
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from siglip_perception import features
from siglip_perception.commands.main import main
from siglip_perception.config import ModelSelection
from siglip_perception.errors import DatasetError
from siglip_perception.features.pictures import corpus_map
from siglip_perception.features.reader import FeatureFolder
from siglip_perception.features.request import Request
from siglip_perception.features.run import Run, look
from siglip_perception.features.search import FrameFinder, project, search, unique_rows
from siglip_perception.pipeline import Pipeline
from siglip_perception.types import UInt8Array

EPISODES = [corpora.images(4), corpora.images(3)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, model: Path, pipeline: Pipeline) -> Path:
    """Two episodes of two cameras: 14 rows in shards of 4."""
    tmp = tmp_path_factory.mktemp("features")
    source = corpora.write_lerobot(
        tmp / "data", EPISODES, as_video=False, cameras=("front", "wrist"), tasks=("push", "pull")
    )
    wish = Request(
        (str(source),),
        tmp / "out",
        ModelSelection(str(model), "tabletop"),
        ("tokens", "pooled"),
        "bf16",
        batch=4,
        shard_frames=4,
    )
    Run(wish, *look(wish), pipeline).encode(lambda *step: None)
    return tmp / "out"


@pytest.fixture
def folder(written: Path) -> FeatureFolder:
    return features.open(written)


def test_every_frame_is_found_by_episode_frame_and_camera(folder: FeatureFolder) -> None:
    assert len(folder) == 14
    assert folder.cameras == ("front", "wrist")
    row = folder[1, 2, "wrist"]
    assert (row.episode, row.frame, row.camera, row.text) == (1, 2, "wrist", "pull")
    assert row.timestamp == pytest.approx(0.2)
    place = folder.keys().index((1, 2, "wrist"))
    assert folder[place].key == row.key
    assert folder[place - len(folder)].key == row.key
    views = folder.views(1, 2)
    assert [view.camera for view in views.values()] == ["front", "wrist"]
    with pytest.raises(DatasetError, match="name the camera, as in"):
        folder[1, 2]
    with pytest.raises(DatasetError, match="no camera 'top': it has 'front', 'wrist'"):
        folder[1, 2, "top"]
    with pytest.raises(DatasetError, match="no frame 3 of episode 1 of front"):
        folder[1, 3, "front"]
    with pytest.raises(IndexError):
        folder[14]


def test_tokens_are_the_files_own_memory(folder: FeatureFolder) -> None:
    first, again = folder[5].stored, folder[5].stored
    assert first is not None
    assert again is not None
    assert first.dtype == torch.bfloat16
    assert list(first.shape) == [324, 384]
    assert first.data_ptr() == again.data_ptr()
    neighbor = folder[4].stored
    assert neighbor is not None
    assert first.data_ptr() - neighbor.data_ptr() == 324 * 384 * 2


def test_writing_to_tokens_does_not_change_the_file(written: Path) -> None:
    row = features.open(written)[0].tokens
    assert row is not None
    row.zero_()
    fresh = features.open(written)[0].tokens
    assert fresh is not None
    assert fresh.float().abs().sum() > 0


def test_a_loader_takes_it_with_workers_and_an_order_by_shards(folder: FeatureFolder) -> None:
    assert pickle.loads(pickle.dumps(folder)).keys() == folder.keys()
    dataset = folder.dataset()
    loader = DataLoader(dataset, batch_size=5, sampler=folder.sampler(seed=1), num_workers=1)
    batches = list(loader)
    assert [list(batch["tokens"].shape) for batch in batches] == [[5, 324, 384]] * 2 + [
        [4, 324, 384]
    ]
    seen = [
        (int(e), int(f), camera)
        for batch in batches
        for e, f, camera in zip(
            batch["episode_index"], batch["frame_index"], batch["camera"], strict=True
        )
    ]
    assert sorted(seen) == sorted(folder.keys())
    order = list(folder.sampler(seed=1))
    # Rows of a shard follow each other.
    assert len({place // 4 for place in order[:4]}) <= 2
    assert order != list(range(14))
    sampler = folder.sampler(seed=1)
    sampler.set_epoch(1)
    assert list(sampler) != order
    assert len(folder.dataset(("pooled",), ("wrist",))) == 7
    assert set(folder.dataset(("pooled",), ("wrist",))[0]) == {
        "episode_index",
        "frame_index",
        "camera",
        "text",
        "pooled",
    }


def test_what_a_folder_does_not_have_is_told(folder: FeatureFolder, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no objects for training: it has tokens, pooled"):
        folder.dataset(("objects",))
    with pytest.raises(DatasetError, match="There is no folder of features"):
        features.open(tmp_path / "none")
    with pytest.raises(DatasetError, match=r"there is no features\.json in it"):
        features.open(tmp_path)
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(DatasetError, match="is damaged, or of another version"):
        features.open(tmp_path)


def test_a_damaged_shard_says_which_and_what_to_do(written: Path, tmp_path: Path) -> None:
    for name in ("tokens/part-000000.safetensors", "rows/part-000000.parquet"):
        copy = tmp_path / name.partition("/")[0]
        shutil.copytree(written, copy)
        (copy / name).write_bytes(b"short")
        with pytest.raises(DatasetError, match=r"part-000000\.\w+ cannot be read .* replaces it"):
            _ = features.open(copy)[0]


def test_search_is_the_order_of_all_cosines(folder: FeatureFolder) -> None:
    vectors = folder.pooled()
    query = vectors[6]
    hits = search(folder, query, 5)
    cosines = vectors @ query
    assert [hit.cosine for hit in hits] == pytest.approx(np.sort(cosines)[::-1][:5])
    # Both cameras show the same picture: of equal ones the first comes first.
    assert hits[0].place == int(np.flatnonzero(np.isclose(cosines, cosines.max()))[0])


def test_hits_that_are_nearly_equal_are_one(folder: FeatureFolder) -> None:
    vectors = folder.pooled()
    hits = search(folder, vectors[6], 20, alike=0.999999)
    keys = [folder[hit.place].camera for hit in hits]
    # 4 pictures; each is there in both cameras, and 3 of them in both episodes.
    assert len(hits) == 4
    assert sum(hit.alike for hit in hits) == 14 - 4
    assert set(keys) == {"front"}
    kept = unique_rows(folder, 0.999999)
    assert sorted(hit.place for hit in kept) == [0, 1, 2, 3]
    assert sorted(hit.alike for hit in kept) == [1, 3, 3, 3]


def test_a_map_spreads_what_differs_and_is_the_same_each_time() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    vectors[:, 0] *= 10
    points = project(vectors)
    assert points.shape == (200, 2)
    assert points.min() == 0
    assert points.max() == 1
    assert abs(np.corrcoef(points[:, 0], vectors[:, 0])[0, 1]) > 0.95
    assert np.array_equal(points, project(vectors.copy()))
    assert project(vectors[:1]).shape == (1, 2)


def test_a_map_leaves_cells_beside_a_thumbnail_to_its_dots() -> None:
    """Cells are 98 x 76 pixels, below a head of 44: points in columns 1, 2 and 4 of row 2."""
    places = np.array([[147, 234], [245, 234], [441, 234]])
    points = ((places - (60, 104)) / (1280, 836)).astype(np.float32)
    chosen: list[int] = []

    def images(rows: Sequence[int]) -> Iterator[UInt8Array | None]:
        chosen.extend(rows)
        return iter([np.zeros((4, 4, 3), np.uint8)] * len(rows))

    picture = corpus_map("three", points, ["a"] * 3, images)
    assert chosen == [1, 2]
    assert picture[234, 147].tolist() != [250, 250, 248], "a dot without a thumbnail over it"


def test_pictures_come_back_from_their_sources(folder: FeatureFolder) -> None:
    finder = FrameFinder(folder)
    places = [folder.keys().index((1, 2, "wrist")), 0]
    grays = [None if image is None else int(image.mean()) for image in finder.images(places)]
    assert grays == [40, 20]


def test_the_command_lists_draws_and_writes(
    written: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, overview, table = (tmp_path / name for name in ("sheet.png", "map.png", "list.csv"))
    arguments = ["search", str(written), "빨간 컵", "-n", "3", "--json", "--dedup", "0.999"]
    outputs = ["--sheet", str(sheet), "--map", str(overview), "--list", str(table)]
    assert main([*arguments, *outputs]) == 0
    out = capsys.readouterr().out
    rows = json.loads(out[: out.index("\n}") + 2])["frames"]
    assert 1 <= len(rows) <= 3
    assert rows == sorted(rows, key=lambda row: -row["cosine"])
    assert {"episode", "episode_name", "frame", "camera", "text", "source"} <= set(rows[0])
    assert Image.open(sheet).width >= 480
    assert Image.open(overview).size == (1400, 1000)
    assert len(table.read_text().splitlines()) == 1 + len(rows)


def test_the_vectors_of_another_model_are_not_searched(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from models import write_random_model

    write_random_model(tmp_path / "other", seed=1)
    assert main(["search", str(written), "cup", "--model", str(tmp_path / "other")]) == 2
    assert "are of another SigLIP" in capsys.readouterr().err


def test_an_index_finds_what_the_product_finds(folder: FeatureFolder) -> None:
    """The extra `search` brings faiss."""
    pytest.importorskip("faiss", reason="faiss is not installed: pip install '.[search]'")
    query = folder.pooled()[6]
    for _ in range(2):  # made, then read
        hits = search(folder, query, 5, index="faiss")
        exact = search(folder, query, 5)
        assert [hit.cosine for hit in hits] == pytest.approx([hit.cosine for hit in exact])


def test_without_faiss_the_command_says_what_to_install(
    written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from siglip_perception.util import requirements

    present: Callable[[str], bool] = requirements.is_there
    monkeypatch.setattr(requirements, "is_there", lambda name: name != "faiss" and present(name))
    assert main(["search", str(written), "cup", "--index", "faiss"]) == 2
    assert "--index faiss needs faiss, not installed here: pip install" in capsys.readouterr().err
