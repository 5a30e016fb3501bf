import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sfseg.errors import ConfigError
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.weights.checkpoint import load_strictly, load_tensors


class Payload:
    """Creates a file when it is unpickled: what a malicious checkpoint would do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def head(num_classes: int = 5) -> DAFormerHead:
    return DAFormerHead((8, 8), num_classes, channels=8, dilations=(1,))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_tensors_of_torch_files(tmp_path: Path, wrapper: str | None) -> None:
    tensors = head().state_dict()
    content = tensors if wrapper is None else {wrapper: tensors, "epoch": 3}
    torch.save(content, tmp_path / "weights.pth")
    torch.testing.assert_close(load_tensors(tmp_path / "weights.pth"), dict(tensors))


def test_tensors_of_safetensors_files(tmp_path: Path) -> None:
    tensors = head().state_dict()
    save_file(tensors, tmp_path / "weights.safetensors")
    torch.testing.assert_close(load_tensors(tmp_path / "weights.safetensors"), dict(tensors))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"absent\.pth does not exist, or is no file; check the path"
    ):
        load_tensors(tmp_path / "absent.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_truncated_file(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    tensors = {"weight": torch.rand(1000)}
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ConfigError, match=name) as raised:
        load_tensors(path)
    assert raised.value.__cause__ is not None


def test_text_is_no_weight_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_text("<html>404</html>")
    with pytest.raises(ConfigError, match=r"weights\.pth, which is damaged or no weight file"):
        load_tensors(path)


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_file_is_not_executed(tmp_path: Path, archive: bool) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "marker"
    content = {"state_dict": Payload(marker)}
    torch.save(content, path) if archive else path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ConfigError, match=r"weights\.pth.*nothing was executed"):
        load_tensors(path)
    assert not marker.exists()


def test_the_payload_is_armed(tmp_path: Path) -> None:
    """Guards the test above: an unsafe reader would indeed create the marker."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"weight": "text"}}])
def test_other_content(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r"must be named tensors, got .*weights\.pth"):
        load_tensors(tmp_path / "weights.pth")


def test_strict_loading_fills_everything() -> None:
    source, target = head(), head()
    load_strictly(target, source.state_dict(), source="here")
    torch.testing.assert_close(dict(target.state_dict()), dict(source.state_dict()))


def test_all_missing_and_unexpected_keys_are_named() -> None:
    tensors = {f"blocks.{i}.norm{j}.bias": torch.zeros(1) for i in range(12) for j in (1, 2)}
    tensors |= {"weight": torch.zeros(3, 2), "stem.weight": torch.zeros(1)}
    with pytest.raises(ConfigError, match=r"got old\.pth with ") as raised:
        load_strictly(nn.Linear(2, 3), tensors, source="old.pth")
    assert "1 keys missing: bias; 25 keys unexpected: blocks.#.norm#.bias (24), stem.weight; " in (
        str(raised.value)
    )


def test_foreign_names_are_not_listed_one_by_one() -> None:
    tensors: dict[str, Tensor] = {f"w{i}": torch.zeros(1) for i in range(7)}
    with pytest.raises(
        ConfigError,
        match=r"with none of its 2 tensors but names of another kind than sfseg, DAFormer, mmseg, "
        r"NVIDIA, timm \(w0, w1, w2, \.\.\.\)",
    ):
        load_strictly(nn.Linear(2, 3), tensors, source="old.pth")


def test_other_shapes_are_shown_with_both_sizes() -> None:
    small, large = (nn.Sequential(*(nn.Linear(n, n) for _ in range(12))) for n in (2, 4))
    with pytest.raises(
        ConfigError,
        match=r"24 keys of another shape: #\.weight \(12\), #\.bias \(12\), "
        r"e\.g\. 0\.weight \(4, 4\) instead of \(2, 2\)",
    ):
        load_strictly(small, large.state_dict(), source="old.pth")


def test_another_number_of_classes_is_said_in_words() -> None:
    target = head(19)
    before = target.classifier.weight.clone()
    with pytest.raises(ConfigError, match="checkpoint has 13 classes, the model 19"):
        load_strictly(target, head(13).state_dict(), source="old.pth")
    torch.testing.assert_close(target.classifier.weight, before)


def test_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="or is no file"):
        load_tensors(tmp_path)
