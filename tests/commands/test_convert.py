import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import Cli
from finished_run import make_run
from foreign_networks import foreign, narrow, saved, stirred

from sfseg.conversion.folder import WRITTEN, write
from sfseg.conversion.preprocessing import Preprocessing
from sfseg.labels import CITYSCAPES
from sfseg.networks.backbones import mit
from sfseg.runs.checkpoints import restore


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        yield


def test_what_cannot_be_is_said_before_anything_is_written(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*settings: str) -> str:
        given = dict(word.split("=") for word in settings)
        usual = {"source": "theirs", "output": "new.ckpt"}
        done = cli("sfseg-convert", *(f"{key}={value}" for key, value in (usual | given).items()))
        assert done.code == 2, done.output
        assert not (done.folder / "new.ckpt").exists() and not list(done.folder.glob(".*.partial"))
        return done.output

    theirs = Path("theirs")
    theirs.mkdir()
    assert "source=theirs has no config.json" in refused()
    assert "neither a folder nor owner/name" in refused("source=nothing")
    Path("old.ckpt").write_text("kept")
    assert "output=old.ckpt exists; choose another" in refused("output=old.ckpt")
    assert "must be a file that ends in .ckpt for to=sfseg, got a.pth" in refused("output=a.pth")
    assert "output=old.ckpt exists" in refused("output=old.ckpt", "to=transformers")
    assert "old.ckpt is a file; choose" in refused("output=old.ckpt/a", "to=transformers")
    assert "to must be one of sfseg, transformers, mmseg, got onnx" in refused("to=onnx")
    assert "classes=cityscapes is for to=sfseg" in refused(
        "classes=cityscapes", "to=mmseg", "output=new.pth"
    )
    assert "overwrite must be true or false, got no" in refused("output=old.ckpt", "overwrite=no")
    assert "classes must be one of" in refused("classes=nothing")
    assert "has to become one first: to=sfseg" in refused("to=mmseg", "output=new.pth")
    config = {"architectures": ["BeitForSemanticSegmentation"], "model_type": "beit"}
    (theirs / "config.json").write_text(json.dumps(config))
    said = refused()
    assert "source=theirs is a BeitForSemanticSegmentation; those that can be converted" in said
    assert "SegformerForSemanticSegmentation, Mask2FormerForUniversalSegmentation" in said
    config["architectures"] = ["SegformerForSemanticSegmentation"]
    (theirs / "config.json").write_text(json.dumps(config))
    assert "has no weights: none of model.safetensors" in refused()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'sfseg[convert]'" in refused()


def test_folders_that_do_not_hold_what_they_say(cli: Cli) -> None:
    def refused(folder: str, *settings: str) -> str:
        done = cli("sfseg-convert", f"source={folder}", "output=new.ckpt", *settings)
        assert done.code == 2 and not Path("new.ckpt").exists(), done.output
        return done.output

    model = foreign("segformer")
    saved(model, Path("whole"))
    assert "has 4 classes, cityscapes 19" in refused("whole", "classes=cityscapes")
    config = json.loads(Path("whole/config.json").read_text())

    def changed(**values: object) -> None:
        Path("whole/config.json").write_text(json.dumps(config | values))

    changed(id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    assert "source=whole" in refused("whole")  # of another number of classes than the weights
    changed(depths=[1, 2, 1, 2])
    assert "lacks" in refused("whole")
    changed(hidden_act="relu")
    assert "hidden_act=relu in place of gelu" in refused("whole")
    changed(depths=[1, 1, 1, 1])
    assert "(1, 1, 1, 1)), which is none of" in refused("whole")
    changed()
    Path("whole/model.safetensors").unlink()

    class Opened:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (Path("executed"),)

    torch.save({"a": Opened()}, "whole/pytorch_model.bin")
    assert "cannot be loaded" in refused("whole") and not Path("executed").exists()


def test_weights_in_parts_or_of_the_older_kind_are_read(cli: Cli) -> None:
    model = foreign("segformer")
    model.save_pretrained("parts", max_shard_size="20KB")
    assert len(list(Path("parts").glob("model-*.safetensors"))) > 1
    done = cli("sfseg-convert", "source=parts", "output=parts.ckpt", "hydra.run.dir=a")
    assert done.code == 0 and "has no preprocessor_config.json" in done.output, done.output
    saved(model, Path("older"))
    from safetensors.torch import load_file

    torch.save(load_file("older/model.safetensors"), "older/pytorch_model.bin")
    Path("older/model.safetensors").unlink()
    done = cli("sfseg-convert", "source=older", "output=older.ckpt", "hydra.run.dir=b")
    assert done.code == 0, done.output
    one, other = (torch.load(f"{name}.ckpt", weights_only=True) for name in ("parts", "older"))
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert all(torch.equal(value, other["state_dict"][k]) for k, value in one["state_dict"].items())


def test_a_conversion_that_would_be_wrong_writes_nothing(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys in the place of values have the same shapes."""
    from dataclasses import replace

    from sfseg.conversion import folder
    from sfseg.conversion.segformer import RULES, SEGFORMER

    swapped = [(p, ".attention.self.{value,key}." if "kv" in p else r) for p, r in RULES]
    wrong = {SEGFORMER.name: replace(SEGFORMER, rules=tuple(swapped))}
    monkeypatch.setattr(folder, "ARCHITECTURES", wrong)
    saved(foreign("segformer"), Path("theirs"))
    done = cli("sfseg-convert", "source=theirs", "output=new.ckpt")
    assert done.code == 2 and "the converted network differs by" in done.output, done.output
    assert not Path("new.ckpt").exists()


def test_networks_without_a_class_there_are_refused() -> None:
    from sfseg.conversion.folder import architecture_of
    from sfseg.errors import ConfigError
    from sfseg.networks.build import build_segmenter
    from sfseg.networks.heads.daformer import DAFormerHead

    plain = build_segmenter(
        name="mit_b0", num_classes=3, head=lambda widths, k: DAFormerHead(widths, k, channels=8)
    )
    with pytest.raises(ConfigError, match=r"got MixTransformer with DAFormerHead; there is no"):
        architecture_of(plain)
    with pytest.raises(ConfigError, match=r"got a Linear, which is no network of transformers"):
        architecture_of(torch.nn.Linear(1, 1))


def test_a_folder_with_other_files_is_never_replaced(cli: Cli) -> None:
    words = ["source=nothing.ckpt", "to=transformers", "output=mine", "overwrite=true"]
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("kept")
    done = cli("sfseg-convert", *words)
    assert done.code == 2 and "output=mine holds other files, such as thesis.txt" in done.output
    assert Path("mine/thesis.txt").read_text() == "kept"
    for place in (".", ".."):
        words = ["source=nothing.ckpt", "to=transformers", f"output={place}", "overwrite=true"]
        done = cli("sfseg-convert", *words)
        assert done.code == 2 and "must be a folder with a name of its own" in done.output
    words = ["source=nothing", "output=new.ckpt", "overwrite=true"]
    Path("new.ckpt").mkdir()
    done = cli("sfseg-convert", *words)
    assert done.code == 2 and "to=sfseg writes a file where a folder is" in done.output


def test_a_shared_model_is_converted_like_a_checkpoint(cli: Cli, tmp_path: Path) -> None:
    settings = ["backbone=mit_b0", "backbone/head=segformer", "backbone.pretrained=false"]
    path = make_run(tmp_path / "run", *settings)
    assert cli("sfseg-push", f"ckpt_path={path}", "to=shared", "hydra.run.dir=a").code == 0
    for name, source in (("of run", path), ("of shared", "shared")):
        words = [f"source={source}", f"output={name}.pth", "to=mmseg", f"hydra.run.dir={name}"]
        done = cli("sfseg-convert", *words)
        assert done.code == 0, done.output
    own, shared = (torch.load(f"{name}.pth", weights_only=True) for name in ("of run", "of shared"))
    assert own["meta"] == shared["meta"] and own["state_dict"].keys() == shared["state_dict"].keys()
    assert all(torch.equal(v, shared["state_dict"][k]) for k, v in own["state_dict"].items())
    done = cli("sfseg-convert", "source=shared", "output=new.ckpt", "hydra.run.dir=b")
    assert done.code == 2 and "is a shared model of sfseg, which all commands read" in done.output


def test_a_place_that_takes_no_files_is_said(cli: Cli, tmp_path: Path) -> None:
    path = make_run(
        tmp_path / "run", "backbone=mit_b0", "backbone/head=segformer", "backbone.pretrained=false"
    )
    done = cli("sfseg-convert", f"source={path}", "output=/proc/a.pth", "to=mmseg")
    assert done.code == 5 and "/proc/a.pth cannot be written: " in done.output, done.output


def test_others_may_read_a_folder_that_is_written(tmp_path: Path) -> None:
    path = make_run(
        tmp_path / "run", "backbone=mit_b0", "backbone/head=segformer", "backbone.pretrained=false"
    )
    restored = restore(path)
    folder = tmp_path / "out"
    folder.mkdir()
    write(restored.network, restored.labels, Preprocessing.of(restored.network, None), folder)
    modes = {file.name: file.stat().st_mode for file in folder.iterdir()}
    assert sorted(modes) == sorted(WRITTEN)
    assert len(set(modes.values())) == 1, modes


def test_what_the_hub_does_not_give_is_explained(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    done = cli("sfseg-convert", "source=nvidia/segformer", "output=new.ckpt")
    assert done.code == 2 and "huggingface.co cannot be reached; go online once" in done.output


def test_cityscapes_is_known_by_its_names(cli: Cli) -> None:
    from sfseg.runs.checkpoints import restore

    names = dict(enumerate(CITYSCAPES.classes))
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 40, 64], depths=[1, 2, 1, 1], decoder_hidden_size=16, id2label=names,
        label2id={name: k for k, name in names.items()},
    )  # fmt: skip
    saved(transformers.SegformerForSemanticSegmentation(config), Path("theirs"))
    Path("old.ckpt").write_text("old")
    words = ["source=theirs", "output=old.ckpt", "overwrite=true"]
    assert cli("sfseg-convert", *words).code == 0
    restored = restore("old.ckpt")
    assert restored.labels == CITYSCAPES
    assert restored.config.data.classes == "cityscapes" and restored.config.data.eval_size is None


@pytest.mark.slow
def test_segformer_b0_in_its_real_size(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mit.VARIANTS, "mit_b0", (32, (2, 2, 2, 2)))
    transformers = pytest.importorskip("transformers")
    model = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(num_labels=150)
    )
    saved(stirred(model), Path("theirs"))
    assert cli("sfseg-convert", "source=theirs", "output=ours.ckpt", "hydra.run.dir=a").code == 0
    words = ["source=ours.ckpt", "output=back", "to=transformers", "hydra.run.dir=b"]
    assert cli("sfseg-convert", *words).code == 0
    back = transformers.SegformerForSemanticSegmentation.from_pretrained("back").state_dict()
    assert all(torch.equal(value, back[key]) for key, value in model.state_dict().items())
