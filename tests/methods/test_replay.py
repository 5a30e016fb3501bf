"""Steps that were not finite, kept by the guard and run again."""

import random
from functools import partial

import numpy as np
import pytest
import small
import torch
from torch import nn

from sfseg.callbacks.diagnosis import Diagnosis
from sfseg.callbacks.finite import FiniteGuard
from sfseg.callbacks.provenance import Provenance
from sfseg.config.composition import CONF, plain
from sfseg.errors import ConfigError, NumericError
from sfseg.labels import CITYSCAPES
from sfseg.methods.base import Method
from sfseg.methods.source_gta import SourceGtA
from sfseg.networks import build as build_module
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.runs.kept_file import read_step
from sfseg.runs.preparation import network_of, untrained_of
from sfseg.runs.replay import replay
from sfseg.runs.replay_report import show

METHODS = sorted(p.stem for p in (CONF / "method").glob("*.yaml") if not p.stem.startswith("_"))
SWITCHES = [
    "adaptsegnet method.masked=1", "dacs method.masked=1 method.propagate=each",
    "mean_teacher method.dynamic_teacher=true", "uniuvpt method.correction=elr",
]  # fmt: skip
FAST = {"mean_teacher", "adaptsegnet", SWITCHES[1]}
pytestmark = small.QUIET


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch):
    smaller = partial(TinyTransformer, channels=(32, 32, 32, 32), depths=(1, 1, 1, 1))
    monkeypatch.setattr(build_module, "TinyTransformer", smaller)


@pytest.fixture
def spoilt(monkeypatch):
    """Adds infinity to the losses of some iterations; their terms stay as they are."""

    def spoil(iterations, having=""):
        def loss(own, method, *arguments, **options):
            found = own(method, *arguments, **options)
            is_bad = method.iteration in iterations and any(having in n for n in method.terms)
            return found + torch.inf if is_bad else found

        for kind, name in ((Method, "total"), (SourceGtA, "loss")):
            own = getattr(kind, name)
            monkeypatch.setattr(kind, name, lambda *a, own=own, **o: loss(own, *a, **o))

    return spoil


def batches(count):
    def images(seed):
        made = small.batch((32, 64), seed=seed)["target"]
        rng = torch.Generator().manual_seed(seed)
        return {**made, "label": torch.randint(0, 19, (2, 32, 64), generator=rng).byte()}

    return [{"source": images(2 * k), "target": images(2 * k + 1)} for k in range(count)]


def fail(folder, name, *, count=2, guard=None, adds_up=1):
    """Train a method on some batches until it fails; the message."""
    cfg = small.configured(f"method={name.split()[0]}", *name.split()[1:], "trainer.max_steps=4")
    cfg = cfg.copy()
    cfg.trainer.accumulate_grad_batches = adds_up
    for key, value in (("patches", 2), ("teacher_every", 1)):
        if key in cfg.method:
            cfg.method[key] = value
    torch.manual_seed(0)
    method = small.built(cfg, network_of(cfg, CITYSCAPES, None), **untrained_of(cfg, CITYSCAPES))
    guard = guard or FiniteGuard(folder=str(folder))
    record = Provenance(plain(cfg, resolve=False), CITYSCAPES.to_dict())
    with pytest.raises(NumericError) as raised:
        small.fit(
            method, batches(count), callbacks=[guard, record], accumulate_grad_batches=adds_up
        )
    return str(raised.value)


def run(folder, name, **options):
    """The file of the step that a run has failed at, and the message."""
    message = fail(folder, name, **options)
    (path,) = folder.glob("*.pt")
    return path, message


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in [*METHODS, *SWITCHES]],
)
def test_a_step_of_every_method_is_reproduced_to_the_bit(name, tmp_path, spoilt):
    """After another step: teachers, optimisers and running means are no longer as they start."""
    spoilt({2})
    path, message = run(tmp_path, name)
    assert path.name == "step_000002.pt" and f"sfseg-train replay={path}" in message
    found = replay(path)
    assert found.is_equal and found.now, (found.before, found.now)
    terms = [value for done in found.now for n, value in done.items() if n != "loss"]
    assert np.isfinite(terms).all() and np.any(terms)
    assert found.verdict.startswith("reproduced to the bit: iteration 2: the loss is inf")
    assert found.notes == []


def test_another_state_is_another_loss(tmp_path, spoilt):
    """What the test above compares does depend on what the file holds."""
    spoilt({2})
    path, _ = run(tmp_path, "mean_teacher")
    for part in ("network.head.classifier.bias", "teacher.network.head.classifier.bias", "image"):
        content = torch.load(path, weights_only=True)
        if part == "image":
            content["batches"][0]["batch"]["target"]["image"][0, 0] //= 2
        else:
            content["state_dict"][part][0] += 1
        torch.save(content, tmp_path / "other.pt")
        found = replay(tmp_path / "other.pt")
        assert not found.is_equal and "with other values of the loss" in found.verdict, part


@pytest.mark.parametrize("bad", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_batches_whose_gradients_add_up_are_replayed_together(bad, tmp_path, spoilt):
    spoilt({bad})
    path, message = run(tmp_path, "mean_teacher", count=4, adds_up=2)
    assert path.name == "step_000004.pt" and f"iteration {bad}" in message
    found = replay(path)
    assert len(found.step.content["batches"]) == len(found.now) == 2
    assert found.is_equal and f"iteration {bad}: the loss is inf" in found.verdict


def test_every_generator_is_as_it_was(tmp_path, monkeypatch):
    total = Method.total

    def drawn(method, terms):
        draws = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
        infinite = torch.inf if method.iteration == 2 else 0.0
        return total(method, {**terms, "draws": torch.tensor(draws)}) + infinite

    monkeypatch.setattr(Method, "total", drawn)
    path, _ = run(tmp_path, "source_only")
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    found = replay(path)
    assert found.is_equal and 0 < found.now[0]["draws"] < 3


def test_settings_change_the_step(tmp_path):
    path, _ = run(tmp_path, "mean_teacher method.entropy_weight=1e39")
    found = replay(path, ["replay=x", "method.entropy_weight=1", "trust=[a]"])
    assert found.verdict == "finite with method.entropy_weight=1"
    first, now = found.before[0], found.now[0]
    assert first["entropy"] == np.inf and first["mixed"] == now["mixed"] and now["entropy"] > 0
    # What the run had anyway is no change.
    found = replay(path, ["method.lr=1e-9", "method.entropy_weight=1e39"])
    assert found.is_equal and found.verdict.startswith("not finite with method.lr=1e-9 either: ")
    found = replay(path, ["+method.optimizer.eps=1e-3", "trainer.precision=bf16-mixed"])
    assert "trainer.precision=bf16-mixed either" in found.verdict
    assert found.now[0]["mixed"] != first["mixed"]


def test_values_that_cannot_be_are_refused_by_name(tmp_path, spoilt):
    spoilt({1})
    path, _ = run(tmp_path, "source_only")
    for change, words in (
        ("seed=abc", "seed must be a whole number, at least 0, got abc"),
        ("seed=null", "seed must be a whole number"),
        ("method.lr=nan", "lr must be positive, got nan"),
        ("trainer.max_steps=abc", "trainer.max_steps must be a number of steps"),
        ("trainer.gradient_clip_algorithm=norm", "has no effect without trainer.gradient_clip_val"),
        ("backbone.head.channels=16", r"cannot be run with backbone.head.channels=16: weights mus"),
        ("method._target_=sfseg.methods.tent.Tent", "cannot be run with method._target_="),
    ):
        with pytest.raises(ConfigError, match=words):
            replay(path, [change])
    # Lightning's settings are there, whether the run has set them or not.
    found = replay(path, ["trainer.detect_anomaly=true"])
    assert found.verdict.startswith("not finite with trainer.detect_anomaly=true either")


def test_all_of_what_is_not_finite_is_told(tmp_path, spoilt):
    spoilt({1})
    path, _ = run(tmp_path, "source_only")
    found = replay(path)
    assert found.failure == found.step.content["failure"] and found.failure.endswith(")")
    assert "; target images" in found.failure


def test_the_second_optimiser_is_not_said_to_be_exact(tmp_path, spoilt):
    spoilt({2}, having="discriminator")
    path, _ = run(tmp_path, "adaptsegnet")
    found = replay(path)
    assert found.failure is not None and len(found.now) == 2 and not found.is_equal
    (note,) = found.notes
    assert "another optimiser has stepped" in note and "network." in note


def test_a_batch_that_the_method_changes_is_noted(tmp_path, monkeypatch, spoilt):
    look = Method.look

    def darker(method, images):
        images["image"] //= 2
        return look(method, images)

    spoilt({2})
    monkeypatch.setattr(Method, "look", darker)
    path, _ = run(tmp_path, "tent")
    (note,) = replay(path).notes
    assert "batch target image had changed" in note


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.batch_size=1"], "would change nothing"),
        (["trainer.accumulate_grad_batches=2"], "would change nothing"),
        (["callbacks.finite.keep=2"], "would change nothing"),
        (["method=tent"], "composed already"),
        (["method/optimizer=sgd"], "composed already"),
        (["~method.lr"], "composed already"),
        (["method.learning_rate=1"], r"no setting of the run.*\+method.learning_rate=1"),
        (["method.entropy_weight=-1"], "entropy_weight"),
        (["method.masked=1", "method.mask_block=1000"], "mask_block"),
    ],
)
def test_settings_that_cannot_be_changed_are_refused(changes, words, kept):
    with pytest.raises(ConfigError, match=words):
        replay(kept, changes)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A file of a step."""
    with pytest.MonkeyPatch.context() as patch:
        smaller = partial(TinyTransformer, channels=(32, 32, 32, 32), depths=(1, 1, 1, 1))
        patch.setattr(build_module, "TinyTransformer", smaller)
        path, _ = run(tmp_path_factory.mktemp("kept"), "mean_teacher method.entropy_weight=1e39")
    return path


def test_it_is_said_why_bits_may_differ(kept, tmp_path, monkeypatch):
    content = torch.load(kept, weights_only=True)
    content |= {"device": "cuda", "rank": 1, "world_size": 2, "torch": "1.0", "left_out": 3}
    torch.save(content, tmp_path / "other.pt")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = replay(tmp_path / "other.pt")
    assert not found.is_equal  # draws follow the number of the process
    for words in ("was on cuda, this is on cpu", "process 1 of 2", "torch was 1.0", "of 4 batches"):
        assert any(words in note for note in found.notes), words


def test_the_tables_show_it(kept, capsys, caplog):
    with caplog.at_level("INFO", logger="sfseg"):
        show(replay(kept))
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("entropy", "inf", "mixed", "network.backbone.stem"))
    assert "reproduced to the bit: iteration 1: of the loss, entropy is inf" in caplog.text


def first(content):
    return content["batches"][0]


def config(content):
    return content["sfseg"]["config"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(kept_step=2), "version 2 of these files.*version 1"),
        (lambda c: first(c)["batch"]["target"]["pseudo_label"].fill_(19),
         "target pseudo_label has ids from 19 to 19, and cityscapes 19 classes"),
        (lambda c: first(c)["batch"]["target"].update(image=torch.ones(2)), "image is no tensor"),
        (lambda c: first(c)["batch"].clear(), "there is no batch"),
        (lambda c: c["batches"].clear(), "there is no batch"),
        (lambda c: first(c)["random"].update(numpy=["MT19937"]), "no usable record"),
        (lambda c: first(c)["random"].update(torch=torch.zeros(9).byte()), "no usable record.*9"),
        (lambda c: c.update(rank=-1), "no usable record.*process -1 of 1"),
        (lambda c: c["passes"][0].update(loss="1"), "no usable record"),
        (lambda c: c.update(passes=[1]), "no usable record"),
        (lambda c: c.pop("passes"), "no usable record.*passes"),
        (lambda c: c["state_dict"].pop("moves"), "missing.*moves"),
        (lambda c: c["optimizer_states"][0]["param_groups"].pop(), "no usable record"),
        (lambda c: c["schedule_states"].clear(), "no usable record"),
        (lambda c: config(c)["method"].update(_target_="os.system"),
         r"os.system must not be called.*trust="),
        (lambda c: config(c)["method"]["schedule"].update(_target_="shutil.rmtree"),
         r"shutil.rmtree must not be called.*trust="),
        (lambda c: config(c).pop("trainer"), "no usable record"),
    ],
)  # fmt: skip
def test_files_that_are_not_as_written_are_refused(change, words, kept, tmp_path):
    content = torch.load(kept, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        replay(tmp_path / "other.pt")


def test_other_files_are_refused(kept, tmp_path):
    content = torch.load(kept, weights_only=True)
    path = tmp_path / "other.pt"
    torch.save({"state_dict": content["state_dict"], "sfseg": content["sfseg"]}, path)
    with pytest.raises(ConfigError, match=r"is a checkpoint.*nonfinite/step"):
        replay(path)
    torch.save([1], path)
    with pytest.raises(ConfigError, match="is no file of a kept step"):
        replay(path)
    path.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="damaged"):
        replay(path)
    torch.save({**content, "run": print}, path)
    with pytest.raises(ConfigError, match="nothing in it was executed"):
        replay(path)
    with pytest.raises(ConfigError, match=r"replay=.*does not exist"):
        replay(tmp_path / "none.pt")


def test_nothing_that_a_file_names_is_opened(kept, tmp_path):
    """Weights that the run started from; a model that refines labels must be named again."""
    content = torch.load(kept, weights_only=True)
    config = content["sfseg"]["config"]
    config["backbone"]["weights"] = "/nowhere/a.pth"
    torch.save(content, tmp_path / "other.pt")
    assert replay(tmp_path / "other.pt").is_equal
    config["pseudo_labels"]["refine"] = "sam"
    config["pseudo_labels"]["sam"]["model"] = "somebody/model"
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"somebody/model.*add pseudo_labels.sam.model="):
        replay(tmp_path / "other.pt")
    assert replay(tmp_path / "other.pt", ["pseudo_labels.refine=none"]).failure is not None


def test_crops_that_followed_the_pictures_are_those_of_the_run(kept, tmp_path):
    content = torch.load(kept, weights_only=True)
    views = content["sfseg"]["config"]["data"]["module"]["views"]
    views["target"] = {"_target_": "sfseg.data.geometry.View", "crop": None}
    content["crops"] = {"target": (48, 64)}
    torch.save(content, tmp_path / "other.pt")
    config = read_step(tmp_path / "other.pt").config
    assert config.data.module.views.target.crop == [48, 64] == config.data.target_crop


class Layers(nn.Module):
    """A part that divides by zero, inside of another; the part after it is given that."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Identity(), Divided())
        self.after = nn.ReLU()

    def forward(self, x):
        return {"maps": [self.after(self.inner(x))]}


class Divided(nn.Module):
    def forward(self, x):
        return torch.cat([x / 0, x, 0 * x / 0, x])


def watched(module, x):
    watch = Diagnosis()
    watch.on_train_start(None, nn.ModuleDict({"network": module}))
    module(x)
    return [(o.name, o.kind, o.output, o.entering.largest) for o in watch.origins]


def test_the_innermost_module_that_nothing_bad_has_entered_is_named():
    x = torch.tensor([2.0, -7.0])
    ((name, kind, output, largest),) = watched(Layers(), x)
    assert (name, kind, largest) == ("network.inner.1", "Divided", 7)
    assert (output.nan, output.infinite, output.largest) == (0.25, 0.25, 7)
    assert watched(nn.Sequential(nn.ReLU()), x) == []
    # What goes in is named by the first module that it meets.
    ((name, *_),) = watched(nn.Sequential(nn.Identity(), nn.ReLU()), torch.tensor([torch.nan]))
    assert name == "network.0"


def test_a_full_disk_does_not_hide_what_is_wrong(tmp_path, monkeypatch, caplog, spoilt):
    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sfseg.callbacks.finite.write_whole", full)
    spoilt({2})
    message = fail(tmp_path, "source_only")
    assert "iteration 2: the loss is inf" in message and "replay" not in message
    assert "the step cannot be kept" in caplog.text and "No space left" in caplog.text


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_so_many_steps_are_kept(keep, tmp_path, spoilt):
    spoilt({2, 3, 4})
    guard = FiniteGuard("skip", max_skips=2, keep=keep, folder=str(tmp_path))
    assert "max_skips=2" in fail(tmp_path, "source_only", count=4, guard=guard)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step_{k:06d}.pt" for k in (2, 3, 4)][:keep]
    assert guard.state_dict() == {"skips": 2, "kept": keep}


def test_a_skipped_step_is_replayed_as_it_was(tmp_path, spoilt):
    spoilt({2, 3})
    guard = FiniteGuard("skip", max_skips=1, folder=str(tmp_path))
    path, _ = run(tmp_path, "uniuvpt method.correction=elr", count=3, guard=guard)
    assert path.name == "step_000002.pt" and replay(path).is_equal
