"""A pushed network is the same network, in a folder and on a stand-in for the hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, Cli
from finished_run import make_run
from hub_server import Hub, serving
from huggingface_hub import ModelCard, constants
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import save_file

import sfseg
from sfseg.config.composition import CONF
from sfseg.data.toyscapes.scenes import Toyscapes
from sfseg.errors import ConfigError
from sfseg.labels import CITYSCAPES
from sfseg.runs.checkpoints import read_checkpoint, restore, stored_labels
from sfseg.sharing.shared_model import write_shared
from sfseg.storage.manifest import KEY

SCENE = Toyscapes("city", "test", length=1, size=(64, 128)).image(0)
FILES = ["README.md", "model.safetensors", "sfseg.json"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving(monkeypatch, str(tmp_path / "hub cache")) as running:
        yield running


def predicted(place: object) -> tuple[np.ndarray, np.ndarray]:
    result = sfseg.load(str(place), device="cpu", precision="32-true").predict(SCENE)
    return result.label, result.confidence


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), id="plain"),
        pytest.param(("method=uniuvpt",), id="prompted"),
        pytest.param(("method=hrda",), id="two resolutions", marks=pytest.mark.slow),
    ],
)
def test_a_pushed_folder_predicts_the_same_bits(
    cli: Cli, tmp_path: Path, words: tuple[str, ...]
) -> None:
    path = make_run(tmp_path / "run", *words)
    done = cli("sfseg-push", f"ckpt_path={path}", "to=shared/rain")
    assert done.code == 0, done.output
    assert sorted(p.name for p in Path("shared/rain").iterdir()) == FILES
    assert [p.name for p in Path("shared").iterdir()] == ["rain"]
    own, there = restore(path), restore("shared/rain")
    assert own.labels == there.labels and own.selection == there.selection
    weights = there.network.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in own.network.state_dict().items())
    label, confidence = predicted(path)
    for place in ("shared/rain", "shared/rain/model.safetensors"):
        again = predicted(place)
        assert np.array_equal(again[0], label) and np.array_equal(again[1], confidence)
    assert stored_labels("shared/rain/model.safetensors") == CITYSCAPES
    # A shared model can be shared again.
    done = cli("sfseg-push", "ckpt_path=shared/rain", "to=again/rain")
    assert done.code == 0, done.output
    for name in FILES[1:]:
        assert Path("again/rain", name).read_bytes() == Path("shared/rain", name).read_bytes()


def test_the_commands_take_it(cli: Cli, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    assert cli("sfseg-push", f"ckpt_path={path}", "to=shared/rain").code == 0
    Image.fromarray(SCENE).save("a.png")
    for place in (path, "shared/rain"):
        done = cli(
            "sfseg-predict", f"ckpt_path={place}", "images=a.png", "device=cpu",
            f"output=of {Path(place).stem}", "precision=32-true",
        )  # fmt: skip
        assert done.code == 0, done.output
    assert Path("of last/labels/a.png").read_bytes() == Path("of rain/labels/a.png").read_bytes()
    refused = cli("sfseg-train", *SMALL, "trainer=debug", "ckpt_path=shared/rain")
    assert refused.code == 2
    assert "start from its weights with source_checkpoint=shared/rain" in refused.output
    done = cli("sfseg-eval", "ckpt_path=shared/rain", "trainer=debug", "with_source=false")
    assert done.code == 0, done.output


def test_numbers_without_an_end_come_back(cli: Cli, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", "data/sampler=rare_class", "data.sampler.temperature=inf")
    done = cli("sfseg-push", f"ckpt_path={path}", "to=rain")
    assert done.code == 0, done.output
    assert restore("rain").config.data.sampler.temperature == float("inf")


def test_adaptation_starts_from_it(cli: Cli, tmp_path: Path) -> None:
    from sfseg.runs import source_model

    path = make_run(tmp_path / "run")
    assert cli("sfseg-push", f"ckpt_path={path}", "to=shared/rain").code == 0
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[*SMALL, "method=tent", "source_checkpoint=shared/rain"])
    from sfseg.runs.preparation import network_of

    found = source_model.find(cfg)
    network = network_of(cfg, CITYSCAPES, found)
    own = restore(path).network.state_dict()
    assert all(torch.equal(own[k], v) for k, v in network.state_dict().items())
    others = CITYSCAPES.only("few", range(18))
    with pytest.raises(ConfigError, match="knows the 19 classes of cityscapes, the data 18"):
        network_of(cfg, others, found)


def test_the_card_is_read_back_by_the_hubs_library(cli: Cli, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", "method=uniuvpt")
    words = ["license=other", "license_name=mine", "license_link=https://a.b/c"]
    done = cli("sfseg-push", f"ckpt_path={path}", "to=rain", *words)
    assert done.code == 0, done.output
    card = ModelCard.load("rain/README.md")
    data = card.data.to_dict()
    assert data["library_name"] == "sfseg" and data["pipeline_tag"] == "image-segmentation"
    assert (data["license"], data["license_name"]) == ("other", "mine")
    assert {"uniuvpt", "tiny", "source-free-domain-adaptation"} <= set(data["tags"])
    values = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert values == {"mIoU": 0.5, "mIoU of the source model, before adaptation": 0.25}
    assert {result.dataset_type for result in card.data.eval_results} == {"toyscapes"}
    assert "NeurIPS" in card.text and "| bicycle | 90.00 | 90.00 | +0.00 |" in card.text
    assert "| train | - | 80.00 | - |" in card.text
    assert "mIoU 50.00, source-only 25.00" in card.text and "seed" in card.text.lower()
    assert (
        "Not evaluated" not in card.text and "Classes found worst on target: road 0.00" in card.text
    )


def other_weights(run: Path) -> None:
    content = json.loads((run / "results.json").read_text())
    content["target"]["selection"] = {"mode": "oracle", "step": 2}
    (run / "results.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda run: (run / "results.json").unlink(),
        lambda run: (run / "run.json").write_text("{}"),
        other_weights,
        lambda run: (run / "checkpoints/last.ckpt").rename(run / "checkpoints/previous.ckpt"),
    ],
    ids=["none", "unfinished", "selected", "previous"],
)
def test_scores_of_other_weights_are_no_scores(cli: Cli, tmp_path: Path, change) -> None:
    path = make_run(tmp_path / "run")
    change(tmp_path / "run")
    (path,) = path.parent.glob("*.ckpt")
    done = cli("sfseg-push", f"ckpt_path={path}", "to=rain")
    assert done.code == 0 and "the card says that it is not evaluated" in done.output, done.output
    card = ModelCard.load("rain/README.md")
    assert "Not evaluated" in card.text and "model-index" not in card.data.to_dict()


def test_what_cannot_be_is_refused_before_anything_is_written(cli: Cli, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")

    def refused(*words: str) -> str:
        given = {"ckpt_path": str(path), "to": "new"} | dict(w.split("=", 1) for w in words)
        done = cli("sfseg-push", *(f"{key}={value}" for key, value in given.items()))
        assert done.code == 2, done.output
        assert not Path("new").exists()
        return done.output

    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("kept")
    assert "holds other files, such as thesis.txt" in refused("to=mine", "overwrite=true")
    assert "thesis.txt is a file" in refused("to=mine/thesis.txt/a")
    for place in ("", ".", "..", "/"):
        assert "must be a folder with a name of its own" in refused(f"to={place}")
    assert "private must be true or false, got no" in refused("private=no")
    assert "is no address of the hub" in refused("to=hf://alice")
    assert "write to=hf://alice/rain" in refused("to=https://huggingface.co/alice/rain")
    assert "must name no revision" in refused("to=hf://alice/rain@v1")
    assert "sfseg guesses none" in refused("to=hf://alice/rain")
    assert "random weights of tiny" in refused("to=hf://alice/rain")
    assert "license must be an identifier" in refused("license=My Own")
    assert "belong together" in refused("license=other")
    assert "belong together" in refused("license_name=mine")
    assert "give checkpoints/last.ckpt in it" in refused(f"ckpt_path={tmp_path}/run")
    (tmp_path / "run/results.json").write_text("{")
    assert "results.json is damaged" in refused()
    (tmp_path / "run/results.json").write_text('{"target": {"protocol": "", "IoU": {}}}')
    assert "holds no scores of these 19 classes" in refused()


def test_an_older_folder_is_replaced_as_a_whole(cli: Cli, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    assert cli("sfseg-push", f"ckpt_path={path}", "to=rain").code == 0
    before = {name: Path("rain", name).read_bytes() for name in FILES}
    done = cli("sfseg-push", f"ckpt_path={path}", "to=rain")
    assert done.code == 2 and "set overwrite=true" in done.output
    path = make_run(tmp_path / "other", "method=uniuvpt")
    assert cli("sfseg-push", f"ckpt_path={path}", "to=rain", "overwrite=true").code == 0
    after = {name: Path("rain", name).read_bytes() for name in FILES}
    assert all(before[name] != after[name] for name in FILES)
    assert not list(tmp_path.glob(".*.partial"))

    def damaged(folder: Path) -> None:
        raise OSError("the disk lies")

    with pytest.raises(OSError, match="the disk lies"):
        write_shared(Path("rain"), {}, {}, "card", damaged)
    assert {name: Path("rain", name).read_bytes() for name in FILES} == after
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "sfseg.json is damaged, or no record of sfseg"),
        (b"{", "sfseg.json is damaged"),
        (b'{"format": "1"}', "sfseg.json is damaged"),
        (b'{"format": 1, "a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "sfseg.json is damaged"),
        (b'{"format": 1, "labels": [' + b"[" * 400 + b"]" * 400 + b"]}", "no usable record"),
        (b'{"format": 1, "labels": {}, "config": {}}', "no usable record"),
        (b" " * (9 << 20), "more than 8388608 bytes"),
    ],
    ids=["list", "half", "version", "deep", "nested", "empty", "large"],
)
def test_a_strangers_record_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "sfseg.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        restore(tmp_path)


def test_a_strangers_record_calls_and_opens_nothing(cli: Cli, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    assert cli("sfseg-push", f"ckpt_path={path}", "to=rain").code == 0
    file = Path("rain/sfseg.json")
    record = json.loads(file.read_text())
    record["config"]["backbone"]["network"] |= {"weights": "/nowhere.pth", "pretrained": True}
    file.write_text(json.dumps(record))
    assert restore("rain").labels == CITYSCAPES
    record["config"]["backbone"]["head"] = {"_target_": "os.system", "command": "touch called"}
    file.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"os\.system must not be called"):
        restore("rain")
    assert not Path("called").exists()


def test_a_model_goes_to_the_hub_and_comes_back(
    cli: Cli, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(tmp_path / "run")
    words = ["to=hf://alice/rain", "license=cc-by-nc-4.0", "private=true"]
    done = cli("sfseg-push", f"ckpt_path={path}", *words)
    assert done.code == 0 and "/alice/rain/commit/" in done.output, done.output
    assert hub.private == {"alice/rain"} and len(hub.repos["alice/rain"]) == 2
    assert sorted(hub.repos["alice/rain"][1]) == [".gitattributes", *FILES]
    label, confidence = predicted(path)
    for place in ("hf://alice/rain", "hf:/alice/rain"):  # the second is what pathlib makes of it
        again = predicted(place)
        assert np.array_equal(again[0], label) and np.array_equal(again[1], confidence)
    # Another push is another commit; a tag stays with the first.
    hub.tags["v1"] = 1
    other = make_run(tmp_path / "other", "method=uniuvpt")
    done = cli("sfseg-push", f"ckpt_path={other}", *words[:2], "message=prompted")
    assert done.code == 0 and len(hub.repos["alice/rain"]) == 3, done.output
    assert np.array_equal(predicted("hf://alice/rain@v1")[0], label)
    newest = restore("hf://alice/rain").network.state_dict()
    assert newest.keys() == restore(other).network.state_dict().keys()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert np.array_equal(predicted("hf://alice/rain@v1")[0], label)
    with pytest.raises(ConfigError, match=r"not in the cache.*ckpt_path=<folder>"):
        restore("hf://alice/sun")


def test_what_the_hub_does_not_have_is_explained(hub: Hub) -> None:
    hub.repos["bob/bert"] = [
        {"config.json": b"{}", "model.safetensors": b"", ".gitattributes": b""}
    ]
    hub.repos["bob/data"] = [{"a.txt": b""}]
    hub.repos["bob/gated"] = [{"sfseg.json": b"{}", "model.safetensors": b""}]
    hub.gated.add("bob/gated")
    for place, message in (
        ("hf://bob/none", "is not on huggingface.co, or private.*ckpt_path=<folder>"),
        ("hf://bob/data@v9", "has no revision v9"),
        (
            "hf://bob/data",
            "holds no shared model, which is model.safetensors and sfseg.json; it ha",
        ),
        ("hf://bob/bert", "config.json.*sfseg-convert reads"),
        ("hf://bob/gated", "is gated.*huggingface.co/bob/gated.*hf auth login.*ckpt_path=<folder>"),
        ("hf://bob", "is no address of the hub"),
        ("hf://bob/a/b", "is no address of the hub"),
        ("hf://bob/a@../../x", "is no address of the hub"),
        ("hf://bob/a@", "is no address of the hub"),
    ):
        with pytest.raises(ConfigError, match=message):
            restore(place)
    with pytest.raises(ConfigError, match="source_checkpoint=hf://bob/bert"):
        read_checkpoint("hf://bob/bert")


def test_what_the_hub_refuses_is_said_before_the_upload(
    cli: Cli, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(tmp_path / "run")

    def refused(to: str, *words: str) -> str:
        done = cli("sfseg-push", f"ckpt_path={path}", f"to=hf://{to}", "license=mit", *words)
        assert done.code == 2, done.output
        return done.output

    assert "you are logged in as alice, who may write to alice, lab" in refused("bob/rain")
    hub.repos["lab/bert"] = [{"config.json": b"{}", ".gitattributes": b""}]
    assert "holds something else (config.json)" in refused("lab/bert")
    assert "is a public repository, and private=true" in refused("lab/bert", "private=true")
    hub.role = "read"
    assert "may only read" in refused("alice/rain")
    hub.role = "write"
    assert not hub.asked
    hub.refusal = 403
    assert "may not be written with this token" in refused("alice/rain")
    assert hub.asked == ["/api/repos/create"] and "alice/rain" not in hub.repos
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "needs a login: call `hf auth login`" in refused("alice/rain")
    monkeypatch.setenv("HF_TOKEN", "hf_of_alice")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "huggingface.co cannot be reached" in refused("alice/rain")


def test_another_version_is_said(cli: Cli, tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    content = torch.load(path, weights_only=True)
    content[KEY]["version"] = "0.0.1"
    torch.save(content, path)
    done = cli("sfseg-push", f"ckpt_path={path}", "to=rain")
    assert done.code == 0 and "is of sfseg 0.0.1" in done.output
    record = json.loads(Path("rain/sfseg.json").read_text())
    Path("rain/sfseg.json").write_text(json.dumps({**record, "format": 2}))
    with pytest.raises(ConfigError, match=r"of format 2, this sfseg knows 1.*update sfseg"):
        restore("rain")
