import io
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from sfseg.errors import ConfigError
from sfseg.networks.weights.checkpoint import load_strictly, load_tensors
from sfseg.networks.weights.weight_files import (
    local_file,
    require_intact,
    require_stored,
    require_usable,
)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_that_are_not_finite_are_named(value: float, kind: torch.dtype) -> None:
    tensors = {f"layers.{k}.weight": torch.ones(3, 2) for k in range(3)}
    tensors["layers.1.weight"][2, 1] = value
    tensors = {name: tensor.to(kind) for name, tensor in tensors.items()}
    if not tensors["layers.1.weight"].float().isfinite().all():  # float8 has no infinity
        with pytest.raises(ConfigError, match=r"a\.pth with NaN .* 1 of 3 tensors: layers\.1\.wei"):
            require_usable(tensors, source="a.pth")
    del tensors["layers.1.weight"]
    require_usable(tensors, source="a.pth")


def test_a_network_keeps_its_weights_if_others_are_refused() -> None:
    network = nn.Linear(2, 3)
    before = network.weight.clone()
    bad = {"weight": torch.zeros(3, 2), "bias": torch.full((3,), torch.nan)}
    with pytest.raises(ConfigError, match="bias"):
        load_strictly(network, bad, source="a.pth")
    assert torch.equal(network.weight, before)


def test_counts_and_shapes_without_numbers_pass() -> None:
    tensors = {"steps": torch.tensor(3), "flags": torch.tensor([True])}
    require_usable(tensors | {"weight": torch.empty(3, device="meta")}, source="a.pth")


@pytest.mark.parametrize(
    "tensor", [torch.eye(3).to_sparse(), torch.zeros(2, dtype=torch.complex64)]
)
def test_tensors_of_other_kinds_are_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"dense real numbers, got a\.pth with odd"):
        require_usable({"odd": tensor}, source="a.pth")


@pytest.mark.parametrize("address", ["http://a/b.pth", "https://a/b.pth", "s3://a/b", "file:/a"])
def test_addresses_are_refused(address: str) -> None:
    for given in (address, Path(address)):  # a Path has lost one of the slashes
        with pytest.raises(ConfigError, match=r"ckpt_path must be a file on this machine, got"):
            local_file(given, "ckpt_path")


@pytest.mark.parametrize("name", ["a:b.pth", "C", "x=1.pth"])
def test_odd_names_are_no_addresses(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    assert local_file(name, "weights") == Path(name)


def test_names_that_no_system_takes_are_refused() -> None:
    for name in ("a\0b", "n" * 5000):
        with pytest.raises(ConfigError, match="weights"):
            local_file(name, "weights")


def test_every_changed_byte_of_the_weights_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.arange(50.0)}, path)
    require_intact(path)
    data = path.read_bytes()
    start = data.index(torch.arange(50.0).numpy().tobytes())
    for place in range(start, start + 200, 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(ValueError, match="checksum"):
            require_intact(path)
        with pytest.raises(ConfigError, match=r"a\.pth, which is damaged"):
            load_tensors(path)


def test_archives_that_are_larger_than_they_look_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1000))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="compressed"):
        require_stored(path)
    path.write_bytes(b"no archive")
    require_stored(path)
