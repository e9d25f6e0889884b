"""A search finds the nearest vectors, with the same meaning of scores in every kind of index."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from mesh.errors import SetupError
from mesh.index.search import Vectors, empty_index, lists_for, probes_for

VECTORS = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
IDS = np.arange(400, dtype=np.int64) * 3 + 1


def saved(index, path) -> str:
    faiss.write_index(index, str(path))
    return path


def exact(query: np.ndarray, k: int) -> list[int]:
    return IDS[np.argsort(-(VECTORS @ query), kind="stable")[:k]].tolist()


@pytest.fixture(params=["flat", "ivf", "l2"])
def opened(request, tmp_path):
    if request.param == "l2":
        index = faiss.index_factory(16, "IDMap2,Flat", faiss.METRIC_L2)
    else:
        index = empty_index(16, 400, nlist=8 if request.param == "ivf" else 0)
        if not index.is_trained:
            index.train(VECTORS)
    index.add_with_ids(VECTORS, IDS)
    return Vectors(saved(index, tmp_path / "vectors.faiss"), nprobe=8)


def test_every_kind_finds_the_nearest_with_their_similarity(opened):
    assert (opened.dim, opened.count) == (16, 400)
    for query, hits in zip(VECTORS[:5], opened.search(VECTORS[:5], 4), strict=True):
        assert [id_ for id_, _ in hits] == exact(query, 4)
        assert hits[0][1] == pytest.approx(1.0, abs=1e-5)
        expected = np.sort(VECTORS @ query)[::-1][:4]
        np.testing.assert_allclose([score for _, score in hits], expected, atol=1e-5)


def test_a_search_for_more_than_there_is_finds_all(opened):
    (hits,) = opened.search(VECTORS[:1], 1000)
    assert sorted(id_ for id_, _ in hits) == IDS.tolist()


def test_ties_go_to_the_lower_id(tmp_path):
    index = empty_index(4, 3)
    index.add_with_ids(np.ones((3, 4), np.float32), np.array([9, 2, 5]))
    vectors = Vectors(saved(index, tmp_path / "vectors.faiss"))
    assert [id_ for id_, _ in vectors.search(np.ones((1, 4), np.float32), 3)[0]] == [2, 5, 9]


def test_a_flat_index_knows_the_similarity_of_any_id(tmp_path):
    index = empty_index(16, 400)
    index.add_with_ids(VECTORS, IDS)
    vectors = Vectors(saved(index, tmp_path / "vectors.faiss"))
    assert vectors.similarity(VECTORS[1], 4) == pytest.approx(1.0, abs=1e-5)
    assert vectors.similarity(VECTORS[1], 5) is None


@pytest.mark.parametrize("content", [None, b"", b"IxF no index"])
def test_a_missing_or_broken_file_names_the_command(tmp_path, content):
    path = tmp_path / "vectors.faiss"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match=r"python -m tools\.corpus"):
        Vectors(path)


@pytest.mark.parametrize(
    ("count", "nlist", "nprobe"), [(1, 4, 1), (60_000, 976, 61), (4_500_000, 4096, 256)]
)
def test_lists_grow_with_the_root_and_a_sixteenth_is_probed(count, nlist, nprobe):
    assert lists_for(count) == nlist
    assert probes_for(nlist) == nprobe
