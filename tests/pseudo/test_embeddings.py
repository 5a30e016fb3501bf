"""Embeddings on disk: computed once, never another image's, and no need of a disk."""

import logging

import pytest
import torch

from sfseg.pseudo import embeddings
from sfseg.pseudo.embeddings import Embeddings

CPU = torch.device("cpu")


class Counted:
    """Another embedding at each call."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return torch.full((1, 2, 3, 3), self.calls + 0.1), torch.arange(4.0)[None] * self.calls


@pytest.fixture
def compute():
    return Counted()


def equal(mine, theirs):
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_an_embedding_is_computed_once_and_comes_back_to_the_bit(tmp_path, compute):
    first = Embeddings(tmp_path).get(b"image", "net", compute, CPU)
    again = Embeddings(tmp_path).get(b"image", "net", compute, CPU)
    assert compute.calls == 1 and equal(first, again)
    assert not list(tmp_path.rglob("*.partial"))


def test_another_image_or_network_has_another(tmp_path, compute):
    store = Embeddings(tmp_path)
    for content, network in ((b"a", "net"), (b"b", "net"), (b"a", "other"), (b"a", "net")):
        store.get(content, network, compute, CPU)
    assert compute.calls == 3


def test_a_damaged_file_is_made_anew(tmp_path, compute):
    store = Embeddings(tmp_path)
    store.get(b"image", "net", compute, CPU)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    store.get(b"image", "net", compute, CPU)
    kept = store.get(b"image", "net", compute, CPU)
    assert compute.calls == 2 and float(kept[0][0, 0, 0, 0]) == pytest.approx(2.1)


def test_a_full_disk_costs_the_speed_alone(tmp_path, compute, monkeypatch, caplog):
    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embeddings, "write_whole", full)
    store = Embeddings(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = store.get(b"image", "net", compute, CPU)
    assert compute.calls == 2 and float(found[0][0, 0, 0, 0]) == pytest.approx(2.1)
    assert [record.message.count("No space left") for record in caplog.records] == [1]
