"""A user's own method, outside the package, as docs/add_a_method.md says."""

import re
from pathlib import Path, PurePath

import pytest
from conftest import DEBUG, Cli
from omegaconf import OmegaConf
from zygote import Parent, Zygote

from sfseg.config.composition import CONF, build
from sfseg.config.trust import require_allowed, trusting
from sfseg.errors import ConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "add_a_method.md").read_text()


def block(language: str, first: str) -> str:
    """The page's code block that begins with a comment."""
    found = re.search(rf"```{language}\n(# {first}\n.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder with the page's files, and a module that nobody should import."""
    (tmp_path / "mymethod.py").write_text(block("python", "mymethod.py"))
    (tmp_path / "myconf" / "method").mkdir(parents=True)
    yaml = tmp_path / "myconf" / "method" / "entropy.yaml"
    yaml.write_text(block("yaml", "myconf/method/entropy.yaml"))
    (tmp_path / "evil.py").write_text("open('executed', 'w')\n\ndef run(**_): pass\n")
    return tmp_path


def test_the_pages_method_trains(cli: Cli, mine: Path, parent: Parent) -> None:
    line = re.search(r"^sfseg-train (--config-dir .*)$", PAGE, re.MULTILINE)
    assert line
    words = [*line[1].split(), *DEBUG, "hydra.run.dir=run"]
    user = Zygote(parent, mine)
    code, output = user.call("sfseg-train", *words)
    assert code == 0, output
    assert "target IoU" in output and "source IoU" not in output
    # The checkpoint names the method too, but cannot bring its trust with it.
    evaluate = [
        "ckpt_path=run/checkpoints/last.ckpt", "hydra.run.dir=eval", "trainer.precision=32-true",
    ]  # fmt: skip
    done = cli("sfseg-eval", *evaluate)
    assert done.code == 2 and "method._target_=mymethod.Entropy" in done.output, done.output
    assert "trust=[mymethod.Entropy]" in done.output
    code, output = user.call("sfseg-eval", *evaluate, "trust=mymethod")
    assert code == 0, output


def test_a_method_of_ones_own_must_be_trusted(cli: Cli, mine: Path) -> None:
    done = cli("sfseg-train", "--config-dir", "myconf", "method=entropy", *DEBUG)
    assert done.code == 2 and "method._target_=mymethod.Entropy" in done.output, done.output
    assert "trust=[mymethod.Entropy]" in done.output and "Traceback" not in done.output


@pytest.mark.parametrize(
    "text",
    [
        "trust: [evil]",
        "hydra: {overrides: {task: ['trust=[evil]']}}",
        "trust: [evil]\nhydra: {overrides: {task: ['trust=[evil]']}}",
    ],
)
def test_a_file_cannot_extend_trust(cli: Cli, mine: Path, text: str) -> None:
    (mine / "myconf" / "experiment").mkdir()
    (mine / "myconf" / "experiment" / "gift.yaml").write_text(
        f"# @package _global_\n{text}\ncallbacks: {{gift: {{_target_: evil.run}}}}\n"
    )
    done = cli("sfseg-train", "--config-dir", "myconf", "experiment=gift", *DEBUG)
    assert done.code == 2 and "evil" in done.output and "command line" in done.output, done.output
    assert not (mine / "executed").exists() and not list(mine.rglob("run.json"))


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("trust=[../x]", "names of modules"),
        ("trust=[1]", "names of modules"),
        ("trust=3", "one list"),
    ],
)
def test_trust_is_a_list_of_modules(cli: Cli, word: str, words: str) -> None:
    done = cli("sfseg-train", *DEBUG, word)
    assert done.code == 2 and words in done.output, done.output


def test_trust_covers_what_a_module_defines_and_not_what_it_imports(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine / "ours.py").write_text("import os\nfrom pathlib import Path\nclass Mine: pass\n")
    monkeypatch.syspath_prepend(mine)
    with trusting(["ours"]):
        assert type(build({"_target_": "ours.Mine"})).__name__ == "Mine"
        for target in ("ours.os.system", "ours.Path", "ours.Mine.__init__", "ours.nothing"):
            with pytest.raises(ConfigError, match=rf"{target}.*must not be called"):
                build({"_target_": target})
    with pytest.raises(ConfigError, match=r"ours\.Mine"):
        build({"_target_": "ours.Mine"})
    with trusting(["pathlib.PurePath"]):
        assert build({"_target_": "pathlib.PurePath"}) == PurePath()


@pytest.mark.parametrize(
    "hidden",
    [
        "{_target_: '${name}'}",
        "\"${oc.create:'{_target_: os.path.join}'}\"",
        "{_target_: sfseg.data.classes_file.load_label_space, source: [{_target_: 3}]}",
    ],
)
def test_targets_that_come_by_interpolation_are_seen(hidden: str) -> None:
    view = f"{{_target_: sfseg.data.geometry.View, crop: {hidden}}}"
    node = OmegaConf.create(f"name: os.path.join\nview: {view}")
    for used in (node, node.view):
        with pytest.raises(ConfigError, match=r"crop.*_target_.*must not be called"):
            require_allowed(used)
    with pytest.raises(ConfigError, match=r"_target_.*must not be called"):
        build(node.view)


def test_all_that_the_configuration_tree_names_is_allowed() -> None:
    found = {
        target
        for path in CONF.rglob("*.yaml")
        for target in re.findall(r"_target_: ([\w.]+)", path.read_text())
    } - {"sfseg.runs.sweep.SweepTable"}  # Hydra's own to call
    assert len(found) > 30
    require_allowed({str(k): {"_target_": target} for k, target in enumerate(found)}, is_built=True)


def test_records_of_a_run_hold_no_secrets(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "s3cr3t")
    monkeypatch.setenv("MY_PLACE", "here")
    done = cli(
        "sfseg-train", *DEBUG, "hydra.run.dir=run", "logger=csv",
        "tags=['${oc.env:MY_API_KEY}','a ${run_name}','${oc.env:MY_PLACE}']",
        "run_name='x-${oc.env:MY_API_KEY}'",
    )  # fmt: skip
    assert done.code == 0, done.output
    resolved = (done.run / ".hydra" / "resolved.yaml").read_text()
    assert "a x-masked" in resolved and "- here" in resolved
    holders = [path for path in done.run.rglob("*") if path.is_file()]
    assert not [path for path in holders if b"s3cr3t" in path.read_bytes()]
    # Elsewhere the value is what it is.
    assert OmegaConf.create({"a": "${oc.env:MY_API_KEY}"}).a == "s3cr3t"


def test_a_module_that_fails_to_import_says_why(mine: Path, parent: Parent) -> None:
    (mine / "mymethod.py").write_text("import nowhere\n")
    words = ["--config-dir", "myconf", "method=entropy", "trust=[mymethod]", *DEBUG]
    code, output = Zygote(parent, mine).call("sfseg-train", *words)
    assert code == 2 and "No module named 'nowhere'" in output
