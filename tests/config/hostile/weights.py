"""Checkpoints and weights that are damaged, diverged, or carry code."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from payload import TOUCH, Payload, flipped, truncated
from safetensors.torch import save
from torch import Tensor, nn

from sfseg.config.composition import CONF, build, plain
from sfseg.labels import CITYSCAPES
from sfseg.networks import build as build_module
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.weights.checkpoint import load_backbone, load_segmenter
from sfseg.runs.checkpoints import check_resumable, restore, stored_labels

ADDRESSES = (
    "http://127.0.0.1:9/a.ckpt", "https://localhost/a.pth", "ftp://localhost/a.ckpt",
    "s3://bucket/a.ckpt", "file:///etc/passwd", "hf://a/b.safetensors",
)  # fmt: skip
Change = Callable[[dict[str, Any]], None]


@cache
def run() -> tuple[nn.Module, dict[str, Any]]:
    """A small network and the checkpoint of its run."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = ["backbone=tiny", "backbone.head.channels=8", "run_name=a", "output_dir=."]
        cfg = compose("train", overrides=words)
    # As small as it gets: each case writes and reads it.
    build_module.TinyTransformer = partial(  # type: ignore[misc, assignment]
        TinyTransformer, channels=(32, 32, 32, 32), depths=(1, 1, 1, 1)
    )
    network = build(cfg.backbone.network, num_classes=19)
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    record = {"version": "0", "config": plain(cfg, resolve=False), "labels": CITYSCAPES.to_dict()}
    return network, {"state_dict": tensors, "sfseg": record, "global_step": 3}


class Resumed(nn.Module):
    """What a run that goes on with the checkpoint looks like to it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = run()[0]


def saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def changed(change: Change) -> bytes:
    """The checkpoint after a change of its content."""
    content = deepcopy(run()[1])
    change(content)
    return saved(content)


def same(network: nn.Module) -> bool:
    """Whether a network has the weights that were saved."""
    tensors = run()[0].state_dict()
    return all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())


def restored(data: bytes, suffix: str = ".ckpt") -> str:
    """Evaluate and continue a file; it must be what was saved."""
    path = Path(f"file{suffix}")
    path.write_bytes(data)
    stored_labels(path)
    found = restore(path)
    assert same(found.network) and found.labels == CITYSCAPES
    check_resumable(path, Resumed())  # type: ignore[arg-type]
    return "harmless"


def filled(data: bytes, suffix: str, load: Callable[..., None], is_changed: bool) -> str:
    """Read weights into a network, which keeps its own if they are refused."""
    path = Path(f"file{suffix}")
    path.write_bytes(data)
    stored_labels(path)
    network = deepcopy(run()[0])
    target = network if load is load_segmenter else network.backbone
    try:
        load(target, path)
    except BaseException:
        assert same(network)
        raise
    assert same(network) or is_changed
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
    return "harmless"


def addressed(address: str, load: Callable[..., object]) -> str:
    load(address)
    raise AssertionError(f"{address} was read")


def put(*keys: Any, value: object) -> Change:
    """Another value somewhere in the checkpoint."""

    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def diverged() -> Iterator[tuple[str, Change]]:
    """Weights that are no numbers, or no weights."""

    def spoil(value: float, place: int) -> Change:
        def change(content: dict[str, Any]) -> None:
            tensors = [t for t in content["state_dict"].values() if t.is_floating_point()]
            tensors[place].view(-1)[-1] = value

        return change

    for value in (float("nan"), float("inf"), float("-inf")):
        for place in (0, -1):
            yield f"weight {place} has {value}", spoil(value, place)
    first = next(iter(run()[1]["state_dict"]))
    yield "sparse weight", put("state_dict", first, value=torch.eye(3).to_sparse())
    yield "complex weight", put("state_dict", first, value=torch.zeros(3, dtype=torch.complex64))
    yield "number for a weight", put("state_dict", first, value=3)
    yield "weight without name", put("state_dict", None, value=torch.zeros(3))


def records() -> Iterator[tuple[str, Change]]:
    """Records of a run that are none."""
    for value in (None, [], 3, "x", {}, {"a": [Tensor()]}):
        yield f"state_dict={value!r:.20}", put("state_dict", value=value)
        yield f"config={value!r:.20}", put("sfseg", "config", value=value)
        yield f"labels={value!r:.20}", put("sfseg", "labels", value=value)
    laughs: list[Any] = ["ha"] * 10
    for _ in range(9):
        laughs = [laughs] * 10
    itself: list[Any] = []
    itself.append(itself)
    for name, value in {"laughs": laughs, "itself": itself}.items():
        yield f"{name} in the configuration", put("sfseg", "config", "tags", value=value)
        yield f"{name} in the labels", put("sfseg", "labels", "classes", value=value)
    for key in ("backbone", "data", "method"):
        yield f"no {key}", put("sfseg", "config", key, value=None)


def orders() -> Iterator[tuple[str, Change]]:
    """Configurations in a checkpoint that would execute something."""
    evil = {"_target_": "os.system", "command": TOUCH}
    load = {"_target_": "torch.load", "f": "evil.pt", "weights_only": False}
    for target in (evil, load, {**evil, "_target_": "sfseg.config.composition.os.system"}):
        for keys in (
            ("backbone", "network"), ("backbone", "network", "name"), ("data", "module"),
            ("method", "adapter"), ("callbacks",), ("new",),
        ):  # fmt: skip
            name = f"{target['_target_']} in {'.'.join(keys)}"
            yield name, put("sfseg", "config", *keys, value=target)

    def trusted(content: dict[str, Any]) -> None:
        config = content["sfseg"]["config"]
        config |= {"trust": ["os"], "hydra": {"overrides": {"task": ["trust=[os]"]}}}
        config["backbone"]["network"] = evil

    yield "trust that the file itself gives", trusted
    node = f"${{oc.create:'{{_target_: os.system, command: {TOUCH}}}'}}"
    yield "target by interpolation", put("sfseg", "config", "method", "adapter", value=node)
    node = "${oc.decode:'${oc.env:HOME}'}"
    yield "broken interpolation", put("sfseg", "config", "backbone", "network", value=node)


def payloads() -> Iterator[tuple[str, bytes]]:
    """Files that would execute something if they were unpickled."""
    content = deepcopy(run()[1])
    yield "payload alone", saved(Payload())
    yield "payload for the weights", saved({**content, "state_dict": Payload()})
    yield "payload beside the weights", saved({**content, "extra": Payload()})
    yield "payload in the record", saved({**content, "sfseg": {"config": Payload()}})
    yield "payload as a key", saved({**content, Payload(): 1})
    old = {"_use_new_zipfile_serialization": False}
    yield "payload in torch's old format", saved({**content, "extra": Payload()}, **old)
    yield "payload in a plain pickle", pickle.dumps({**content, "extra": Payload()})
    yield "payload in pickle's first protocol", pickle.dumps(Payload(), 0)
    buffer = io.BytesIO(saved(content))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload()))
    yield "payload as a second data.pkl", buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(60 << 20))
        archive.writestr("archive/version", "3")
    yield "60 MB of zeros in a small archive", buffer.getvalue()
    archive_of_code = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Identity()), archive_of_code)
    yield "torchscript", archive_of_code.getvalue()


def safetensors() -> Iterator[tuple[str, bytes, bool]]:
    """Damaged .safetensors; the last says whether the weights themselves were changed."""
    tensors = {name: tensor.clone() for name, tensor in run()[0].state_dict().items()}
    data = save(tensors)
    start = 8 + struct.unpack("<Q", data[:8])[0]
    for what, cut in truncated(data, 8):
        yield what, cut, False
    for what, header in flipped(data[:start], 10):
        yield what, header + data[start:], True
    for what, body in flipped(data[start:], 4):
        yield f"weights, {what}", data[:start] + body, True
    for length in (0, 1, start, 2**31, 2**63 - 1, 2**64 - 1):
        yield f"header of {length} bytes", struct.pack("<Q", length) + data[8:], False
    for text in ("{", "[]", '{"a": 1}', '{"__metadata__": {"a": "b"}}', "[" * 9000):
        head = text.encode()
        yield f"header {text:.20}", struct.pack("<Q", len(head)) + head, False
    header = json.loads(data[8:start])
    name = next(iter(header))
    for offsets in ([0, 2**62], [-4, 0], [8, 4], [0, 0]):
        damaged = json.dumps({**header, name: {**header[name], "data_offsets": offsets}}).encode()
        yield f"offsets {offsets}", struct.pack("<Q", len(damaged)) + damaged + data[start:], False
    tensors[next(iter(tensors))].view(-1)[0] = torch.nan
    yield "NaN", save(tensors), False


def checkpoints() -> Iterator[tuple[str, Callable[[], str]]]:
    good = saved(run()[1])
    for what, data in (*truncated(good, 14), *flipped(good, 20)):
        yield f"ckpt {what}", partial(restored, data)
    for what, change in (*diverged(), *records(), *orders()):
        yield f"ckpt: {what}", partial(restored, changed(change))
    for what, data in payloads():
        yield f"ckpt: {what}", partial(restored, data)
        yield f"pth: {what}", partial(restored, data, ".pth")
        yield f"weights: {what}", partial(filled, data, ".pth", load_backbone, False)


def files() -> Iterator[tuple[str, Callable[[], str]]]:
    weights = {"state_dict": run()[0].state_dict(), "meta": {"epoch": 3}}
    new, old = saved(weights), saved(weights, _use_new_zipfile_serialization=False)
    for what, data in (*truncated(new, 6), *flipped(new, 8)):
        yield f"pth {what}", partial(filled, data, ".pth", load_segmenter, False)
    for what, data in (*truncated(old, 8), *flipped(old, 12)):
        # This format has no checksums.
        yield f"old pth {what}", partial(filled, data, ".pth", load_segmenter, True)
    for what, data, is_changed in safetensors():
        attempt = partial(filled, data, ".safetensors", load_segmenter, is_changed)
        yield f"safetensors {what}", attempt
    for content in (None, [], 3, "x", {"state_dict": {"a": 1}}, {"model": {}}, [torch.zeros(2)]):
        yield f"pth {content!r}", partial(filled, saved(content), ".pth", load_segmenter, False)


def addresses() -> Iterator[tuple[str, Callable[[], str]]]:
    loads: dict[str, Callable[[str], object]] = {
        "evaluation": restore,
        "resuming": lambda address: check_resumable(address, Resumed()),  # type: ignore[arg-type]
        "a source model": partial(load_segmenter, run()[0]),
        "a backbone": partial(load_backbone, run()[0]),
    }
    for address in ADDRESSES:
        for what, load in loads.items():
            yield f"{what} of {address}", partial(addressed, address, load)


def cases() -> Iterator[tuple[str, Callable[[], str]]]:
    for part in (checkpoints, files, addresses):
        yield from part()
