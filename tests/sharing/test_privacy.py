"""What a shared configuration no longer says, and what it still does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli
from finished_run import make_run
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sfseg.config.composition import CONF, plain
from sfseg.runs.checkpoints import restore
from sfseg.sharing import privacy
from sfseg.sharing.privacy import cleaned
from sfseg.storage.manifest import KEY


def composed(*words: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose("train", overrides=list(words)), resolve=False)


@pytest.fixture(autouse=True)
def carol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privacy.getpass, "getuser", lambda: "carol")
    monkeypatch.setattr(privacy.platform, "node", lambda: "gpu7.secret.example")


def test_places_and_names_are_gone(cli: Cli, tmp_path: Path) -> None:
    words = [
        "data.cache_dir=/scratch/secret/cache", "data.generated=../secret", "tags=[secret]",
        "logger=wandb", "logger.wandb.entity=secret", "source_checkpoint=secret.ckpt",
        "pseudo_labels.start_from=secret", 'source_model.folder="~/secret"',
        "+note=secret", "pseudo_labels.sam.model=gpu7.secret.example:sam", "data.translated=secret",
    ]  # fmt: skip
    path = make_run(tmp_path / "run", *words)
    content = torch.load(path, weights_only=True)
    content[KEY]["config"]["backbone"]["weights"] = "/home/carol/w.pth"
    torch.save(content, path)
    done = cli("sfseg-push", f"ckpt_path={path}", "to=rain")
    assert done.code == 0, done.output
    text = "".join(p.read_text() for p in Path("rain").iterdir() if p.suffix != ".safetensors")
    for word in ("secret", "carol", "gpu7", "/home", "/scratch", str(tmp_path)):
        assert word not in text
    said = "taken out of the configuration: backbone.weights, checkpoint, data.cache_dir"
    assert said in done.output and "pseudo_labels.sam.model" in done.output
    assert restore("rain").config.seed == 0


@pytest.mark.parametrize(
    "words",
    [["data=gta5_to_cityscapes", "backbone=swin_b", "method=uniuvpt"],
     ["data=folder", "data.root=${oc.env:HOME}/x", "data.source_list='{split}.txt'"],
     ["method=clouds", "data=gta5_to_all", "backbone=clip_convnext_l"]],
)  # fmt: skip
def test_settings_without_places_stay_as_they_are(words: list[str]) -> None:
    config = composed(*words)
    kept, taken = cleaned(config)
    assert kept == {key: value for key, value in config.items() if key in privacy.KEPT}
    assert not any("." in name for name in taken)
    assert json.loads(json.dumps(kept)) == kept


def test_a_place_says_what_to_give_instead() -> None:
    config = composed("data=gta5_to_cityscapes", "data.root=/home/carol/data")
    kept = OmegaConf.create(cleaned(config).config)
    assert kept.data.scenes.target_eval.root == "<data.root>/cityscapes"
    assert config["data"]["root"] == "/home/carol/data"


@pytest.mark.parametrize(
    ("value", "is_private"),
    [("/a/b", True), ("~/a", True), ("~/.cache/sfseg", False), ("C:\\a", True), ("a/../b", True),
     ("s3://bucket/a", True), ("x: /mnt/a", True), ("facebook/sam-vit-huge", False), ("1/2", False),
     ("carol@gpu7", True), ("carol", False), ("carols/x", False), ("${data.root}/a", False),
     ("${oc.env:X,/mnt/a}", True), ("${oc.env:X,'~/.cache/sfseg'}", False), ("..", True),
     ("a..b", False)],
)  # fmt: skip
def test_which_texts_are_private(value: str, is_private: bool) -> None:
    taken = cleaned({"data": {"name": value}}).taken
    assert taken == (["data.name"] if is_private else [])
