"""Building from a configuration changes no byte of it."""

import pytest
from conftest import SMALL
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import CONF, build, detached, quoted

METHODS = sorted(path.stem for path in (CONF / "method").glob("[!_]*.yaml"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=[*SMALL, "output_dir=run", "run_name=run", *overrides])


@pytest.mark.parametrize("method", METHODS)
def test_building_all_of_a_run_changes_no_byte_of_its_configuration(method: str) -> None:
    cfg = composed(f"method={method}", "trainer.precision=32-true")
    before = OmegaConf.to_yaml(cfg)
    labels = build(cfg.data.module).labels
    build(cfg.backbone.network, num_classes=labels.num_classes)
    for node in (cfg.method, cfg.trainer, cfg.evaluation, *cfg.callbacks.values()):
        build(node)
    assert OmegaConf.to_yaml(cfg) == before
    assert "${data.size}" in before


def test_nodes_that_links_lead_to_stay_as_they_are() -> None:
    cfg = OmegaConf.create(
        {"size": 3, "view": {"crop": "${size}"}, "made": {"_target_": "x", "view": "${view}"}}
    )
    copy = detached(cfg.made)
    assert OmegaConf.to_container(copy) == {"_target_": "x", "view": {"crop": 3}}
    assert OmegaConf.to_container(cfg, resolve=False)["view"] == {"crop": "${size}"}  # type: ignore[index]
    copy.view.crop = 4
    assert cfg.view.crop == 3


@pytest.mark.parametrize("text", ["${x}", r"\${x}", r"a\\${x} ${y}", "plain", r"back\slash", "$5"])
def test_text_that_looks_like_a_link_stays_text(text: str) -> None:
    """A value that resolves to such a string, as a file name or a regular expression may."""
    OmegaConf.register_new_resolver("as_it_is", lambda: text, replace=True)
    try:
        cfg = OmegaConf.create({"name": "${as_it_is:}", "names": ["${as_it_is:}"]})
        copy = OmegaConf.to_container(detached(cfg), resolve=True)
        assert copy == {"name": text, "names": [text]}
    finally:
        OmegaConf.clear_resolver("as_it_is")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.root=2024_05", "2024_05"),
        ("data.source_root=007", "007"),
        ("++data.target_list=1e3", "1e3"),
        ("data.source_list={split}.txt", "{split}.txt"),
        ("data.classes=20.5", "20.5"),
        ("data.mask_suffix=-1", "-1"),
        ("+data.scenes.source_train.root=+1", "+1"),
        ("data.cache_dir=5", "5"),
        ("source_checkpoint=2024", "2024"),
        ("ckpt_path=3.ckpt", "3.ckpt"),
        ("data.source_list=null", None),
        ("data.root=a/2024", "a/2024"),
        ("data.batch_size=5", 5),
        ("images=4", 4),
        ("template=a {cls} of {identifier}", "a {cls} of {identifier}"),
    ],
)
def test_names_that_look_like_numbers_are_names(word: str, value: object) -> None:
    (parsed,) = OverridesParser.create().parse_overrides(quoted([word]))
    found = OmegaConf.create({"name": parsed.value()}).name
    assert found == value and type(found) is type(value)
