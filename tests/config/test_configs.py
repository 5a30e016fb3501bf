"""Every configuration file composes and builds; every command of the pages is a valid one."""

import re
import shlex
from itertools import product, zip_longest
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from sfseg.config.bare_folders import as_list
from sfseg.config.composition import CONF, build
from sfseg.config.multirun import left_to_jobs

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def options(group: str) -> list[str]:
    files = sorted((CONF / group).glob("*.yaml"))
    return [file.stem for file in files if not file.stem.startswith("_")]


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=list(overrides), return_hydra_config=True)


def choices() -> list[tuple[str, str, str]]:
    """Every method, and every backbone and data set with a method of each kind."""
    usual = ("tiny", "toyscapes")
    beside = list(zip_longest(options("backbone"), options("data"), fillvalue=""))
    chosen = [(method, *usual) for method in options("method")]
    for method, (backbone, data) in product(("source_only", "uniuvpt"), beside):
        chosen.append((method, backbone or usual[0], data or usual[1]))
    return list(dict.fromkeys(chosen))


@pytest.mark.parametrize(("method", "backbone", "data"), choices())
def test_every_method_backbone_and_data_set_compose(method: str, backbone: str, data: str) -> None:
    root = {"folder": ["data.root=somewhere"], "gta5_to_folder": ["data.target_root=somewhere"]}
    cfg = composed(
        "train", f"method={method}", f"backbone={backbone}", f"data={data}", *root.get(data, [])
    )
    assert cfg.data.module.needs and cfg.trainer.max_steps > 0 and cfg.method.lr > 0
    assert OmegaConf.to_container(cfg.data, resolve=True, throw_on_missing=True)
    assert OmegaConf.to_container(cfg.method, resolve=True)


def test_sequences_are_names_not_numbers() -> None:
    # 0016E5 without quotes is 1.6 million to YAML.
    scenes = composed("train", "data=camvid_day_to_dusk").data.scenes
    assert scenes.source_train.sequences == ["0006R0", "0016E5"]
    assert scenes.source_eval.sequences == ["0016E5"]


LIKE_ANOTHER = {"convnext_base", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "swin_s", "resnet101"}
"""Backbones that differ from another one in numbers of layers and channels."""


@pytest.mark.parametrize(
    "backbone",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LIKE_ANOTHER))
     for name in options("backbone")],
)  # fmt: skip
def test_every_backbone_builds(backbone: str) -> None:
    cfg = composed("train", f"backbone={backbone}", "backbone.pretrained=false")
    with torch.device("meta"):
        network = build(cfg.backbone.network, num_classes=5)
        assert network(torch.zeros(2, 3, 65, 97)).shape == (2, 5, 65, 97)


GROUPS = [
    "trainer", "logger", "callbacks", "evaluation", "backbone/head", "method/adapter",
    "method/optimizer", "method/pseudo_label", "source_model", "recipe", "data/sampler",
    "data/translation",
]  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_a_group_composes(group: str) -> None:
    for option in options(group):
        choice = f"[{option}]" if group in {"callbacks", "logger"} else option
        # Of this one method alone.
        more = ["method=uplr"] if group == "method/pseudo_label" else []
        added = "+" if group == "method/adapter" else ""
        cfg = composed("train", *more, f"{added}{group}={choice}")
        assert cfg.task_name == "train"


@pytest.mark.parametrize("head", options("backbone/head"))
@pytest.mark.parametrize("backbone", ["tiny", "swin_t"])
def test_every_head_goes_with_the_backbones_it_is_for(backbone: str, head: str) -> None:
    vgg = ["backbone.network.name=vgg16", "backbone.network.drop_path_rate=0"]
    cfg = composed(
        "train", f"backbone={backbone}", f"backbone/head={head}", "backbone.pretrained=false",
        *(vgg if head in {"fcn8s", "segnet"} else []),
    )  # fmt: skip
    # Deformable attention asks for autocast, which that device has not.
    with torch.device("cpu" if head == "mask2former" else "meta"), torch.no_grad():
        network = build(cfg.backbone.network, num_classes=5)
        assert network(torch.zeros(2, 3, 65, 97)).shape == (2, 5, 65, 97)


def commands() -> list[str]:
    """All sfseg-* lines of the shell blocks of these pages."""
    text = "".join(page.read_text() for page in PAGES)
    blocks = re.findall(r"```bash\n(.*?)```", text.replace("\\\n", ""), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("sfseg-")]
    return list(dict.fromkeys(lines))


@pytest.mark.parametrize("line", commands())
def test_every_documented_command_composes(line: str, tmp_path: Path) -> None:
    program, *words = shlex.split(re.sub(r"<(\w+)>", r"\1", line), comments=True)
    # Of a sweep the first job.
    words = [re.sub(r"=choice\((.*)\)$", r"=\1", word) for word in left_to_jobs(words, CONF)]
    words = [re.sub(r"=(?:tag\(\w+,)?interval\(([^,]+),.*$", r"=\1", word) for word in words]
    words = [word for word in words if word not in {"-m", "--help", "--cfg", "job"}]
    if "--config-dir" in words:
        return
    if program == "sfseg-doctor":
        # Its settings are those of a run.
        program, words = "sfseg-train", [*words, "task_name=train"]
    name = {"sfseg-report": "run_report"}.get(program, program.removeprefix("sfseg-"))
    if name == "compare":
        words = as_list(words, "runs")
    if program in {"sfseg-data", "sfseg-generate"}:
        name = words.pop(0)
    overrides = [re.sub(r"=([^\[]*?),.*", r"=\1", word) for word in words]
    assert composed(name, *overrides).task_name == name


def test_pages_show_the_commands() -> None:
    assert len(commands()) >= 100
