"""What every method in ``conf/method`` must keep; a new one is tested by existing."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache, partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import small
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from sfseg.callbacks.finite import FiniteGuard
from sfseg.config.composition import CONF, build
from sfseg.data.geometry import Geometry
from sfseg.labels import CITYSCAPES
from sfseg.methods import masked_consistency
from sfseg.methods.base import Method
from sfseg.networks import build as build_module
from sfseg.networks.backbones.tiny import TinyTransformer
from sfseg.networks.heads.head import Head
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.teacher import Teacher
from sfseg.runs.preparation import network_of, untrained_of
from sfseg.types import IGNORE, Batch

METHODS = sorted(p.stem for p in (CONF / "method").glob("*.yaml") if not p.stem.startswith("_"))
pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
]
VARIANTS = {"clouds_warmup", "daformer", "datum", "hrda", "mic", "oracle", "sfda_transfer"}
"""Classes of other methods with settings of their own."""
SETTINGS = {"daformer", "datum", "hrda", "mic"}
"""Files of settings for the code of another method, which fast tests see at work."""
SWITCHES = [
    "adaptsegnet method.masked=1",
    "advent_minent method.masked=1 method.mask_mode=both",
    "dacs method.masked=1 method.propagate=each",
]
"""Methods with parts of their own that are off as shipped, and the settings that bring them."""
FOLLOWED = {
    "clouds", "cpsl", "dacs", "daformer", "datum", "hcl", "hrda", "mean_teacher", "mic", *SWITCHES,
}  # fmt: skip
"""Methods with an average of weights that are trained."""
BATCH = (32, 64)
"""Height and width of training images."""
LEGAL = {"loss", "prediction", "confidence"}


class Recorder(dict[str, Batch]):
    """A training batch that remembers which domains were read."""

    def __init__(self, batches: dict[str, Batch]) -> None:
        super().__init__(batches)
        self.read: set[str] = set()

    def __getitem__(self, domain: str) -> Batch:
        self.read.add(domain)
        return super().__getitem__(domain)


def batch(seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (2, 3, *BATCH), generator=rng, dtype=torch.uint8),
        "label": torch.randint(0, 19, (2, *BATCH), generator=rng, dtype=torch.uint8),
        "index": torch.arange(2),
        "geometry": torch.tensor([[*BATCH, *BATCH, 0, 0, *BATCH, 0]] * 2),
        "pseudo_label": torch.randint(0, 19, (2, *BATCH), generator=rng, dtype=torch.uint8),
    }


def batches() -> Recorder:
    return Recorder({"source": batch(0), "target": batch(1)})


@cache
def composed(name: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=[*f"method={name}".split(), "trainer.max_steps=2"])


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the blocks: each test builds a network or three, and no method asks how deep it is."""
    smaller = partial(TinyTransformer, channels=(32, 32, 32, 32), depths=(1, 1, 1, 1))
    monkeypatch.setattr(build_module, "TinyTransformer", smaller)


def make(name: str) -> Method:
    """The method with the same weights each time."""
    return deepcopy(made(name))


@cache
def made(name: str) -> Method:
    cfg = composed(name)
    torch.manual_seed(0)
    network = network_of(cfg, CITYSCAPES, None)
    few = {"patches": 2} if "patches" in cfg.method else {}
    few |= {"teacher_every": 1} if "teacher_every" in cfg.method else {}
    method: Method = small.built(cfg, network, **few, **untrained_of(cfg, CITYSCAPES))
    return method


class Kept(Callback):
    """The output of the last step, and what was said of every loss when it was propagated."""

    output: Any
    losses: list[tuple[Tensor, list[Tensor]]]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.output = outputs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.losses = []

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        terms = cast(Method, pl_module).terms
        self.losses.append((loss.detach(), list(terms.values())))


def fit(method: Method, data: list[Recorder], **options: Any) -> Kept:
    kept = Kept()
    small.fit(method, data, log_every_n_steps=1, callbacks=[kept], **options)
    return kept


def step(method: Method, data: Recorder) -> Any:
    """What a step returns; one that propagates losses or steps by itself needs a trainer."""
    if method.automatic_optimization and getattr(method, "propagate", "sum") == "sum":
        return method.training_step(data, 0)
    return fit(method, [data]).output


@pytest.fixture(
    params=[
        pytest.param(n, marks=[pytest.mark.slow] * (n in SETTINGS)) for n in [*METHODS, *SWITCHES]
    ]
)
def method(request: pytest.FixtureRequest) -> Method:
    return make(request.param)


@pytest.mark.parametrize("label", [IGNORE, 3], ids=["void", "one class"])
def test_labels_without_most_classes_leave_the_step_finite(method: Method, label: int) -> None:
    data = batches()
    for domain in ("source", "target"):
        for kind in ("label", "pseudo_label"):
            data[domain][kind] = torch.full_like(batches()["source"]["label"], label)
    loss: Tensor = step(method, data)["loss"]
    if method.automatic_optimization and loss.requires_grad:
        loss.backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradients)
    if label == IGNORE:
        needs = set(method.shared["needs"])
        if {"source", "target_labels"} & needs and "target" not in needs:
            assert loss == 0 and not any(g.any() for g in gradients)
        if "source" in needs:
            assert method.logged.get("cross_entropy", 0) == 0
        assert method.terms.get("lovasz", 0) == 0


def test_terms_add_up_and_all_that_trains_gets_a_gradient(method: Method) -> None:
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    gradients: dict[str, Tensor] = {}

    def remember(name: str, gradient: Tensor) -> None:
        gradients[name] = gradient

    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(partial(remember, name))
    for loss, terms in fit(method, [batches(), batches()]).losses:
        assert terms and not any(term.requires_grad for term in terms)
        torch.testing.assert_close(torch.stack(terms).sum(), loss)
    followers = [f"{n}." for n, m in method.named_modules() if isinstance(m, Teacher)]
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert name in gradients, f"{name} trains without gradient"
        elif not name.startswith(tuple(followers)):
            assert torch.equal(parameter, before[name]), f"frozen {name} has changed"


def test_no_parameter_hides_in_a_plain_container(method: Method) -> None:
    for module in method.modules():
        for name, value in vars(module).items():
            if name == "_parameters":
                continue
            members = value.values() if isinstance(value, dict) else value
            if isinstance(value, (list, tuple)) or type(value) is dict:
                assert not any(isinstance(member, nn.Parameter) for member in members)


def test_a_step_is_legal_and_finite_and_reads_only_what_it_needs(
    method: Method, request: pytest.FixtureRequest
) -> None:
    needs, losses = method.shared["needs"], []
    void = batches()
    void["target"]["label"] = torch.full_like(void["target"]["label"], 255)
    for data in (batches(), void) if "target" in needs else (batches(),):
        fresh = make(request.node.callspec.params["method"])
        torch.manual_seed(0)
        data.read.clear()
        output = step(fresh, data)
        assert set(output) <= LEGAL and torch.isfinite(output["loss"])
        assert not any(output[name].requires_grad for name in set(output) - {"loss"})
        assert data.read <= {need.removesuffix("_labels") for need in needs}
        losses.append(output["loss"])
    assert len(losses) == 1 or torch.equal(*losses)


def test_a_copy_can_evaluate_and_nothing_of_the_method_changes(method: Method) -> None:
    """As before every training, see :mod:`sfseg.runs.memory`."""
    before = deepcopy(method.state_dict())
    with torch.no_grad():
        deepcopy(method).eval().validation_step(batch(1), 0)
    after = method.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert method.training


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def kept_values(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested containers, by their path."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, Mapping):
        for key, part in state.items():
            yield from kept_values(part, f"{name}.{key}")
    elif isinstance(state, list | tuple):
        for k, part in enumerate(state):
            yield from kept_values(part, f"{name}[{k}]")


def test_state_dict_reproduces_the_step(method: Method, request: pytest.FixtureRequest) -> None:
    other = make(request.node.callspec.params["method"])
    fit(method, [batches()], precision="bf16-mixed")
    teachers = {n: m for n, m in method.named_modules() if isinstance(m, Teacher)}
    assert bool(teachers) == (request.node.callspec.params["method"] in FOLLOWED)
    begun = [not equal(m, other.get_submodule(n)) for n, m in teachers.items()]
    assert any(begun) or not teachers, "the average of a step that moves the network moves"
    other.load_state_dict(method.state_dict())
    losses = []
    checkpoint: dict[str, Any] = {}
    method.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    # A running mean in half precision would stand still, whatever steps compute in.
    kept = kept_values({**checkpoint, "state_dict": method.state_dict()})
    assert [name for name, v in kept if v.dtype in {torch.float16, torch.bfloat16}] == []
    for copy in (method, other):
        copy.train()
        torch.manual_seed(3)
        losses.append(step(copy, batches())["loss"])
    assert torch.equal(*losses)


class Averages(Callback):
    """What moves by momentum, before every batch and at the end."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def look(self, module: LightningModule) -> None:
        teachers = [m for m in module.modules() if isinstance(m, Teacher)]
        parts = [p for teacher in teachers for p in teacher.parameters()]
        parts += [b for name, b in module.named_buffers() if name in ("averages", "moves")]
        self.seen.append([part.detach().clone() for part in parts])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.look(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look(pl_module)


class Spoilt(Callback):
    """Gradients of a batch that are not finite."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if cast(Method, pl_module).iteration == self.iteration:
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(torch.nan)


@pytest.mark.parametrize(
    # Methods that step their optimisers themselves do so with every batch.
    "name", sorted(n for n in FOLLOWED if not n.startswith("adaptsegnet"))
)  # fmt: skip
def test_averages_move_where_the_optimiser_steps_and_not_with_every_batch(name: str) -> None:
    averages = Averages()
    guards = [averages, Spoilt(4), FiniteGuard("skip")]
    small.fit(make(name), [batches()] * 6, accumulate_grad_batches=2, callbacks=guards)
    moved = [
        not all(torch.equal(*pair) for pair in zip(before, after, strict=True))
        for before, after in pairwise(averages.seen)
    ]
    assert moved == [False, True, False, False, False, True]  # the second step is skipped


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n != "mean_teacher"))
     for n in [*METHODS, *SWITCHES]],
)  # fmt: skip
def test_trains_in_half_precision_and_averages_move(name: str) -> None:
    method = make(name)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    output = fit(method, [batches() for _ in range(3)], precision="bf16-true").output
    assert torch.isfinite(output["loss"])
    assert {p.dtype for p in method.network.parameters()} == {torch.bfloat16}
    for prefix, part in method.named_modules():
        if isinstance(part, Teacher):
            moved = [
                not torch.equal(value, before[f"{prefix}.{key}"])
                for key, value in part.state_dict().items()
            ]
            assert {p.dtype for p in part.parameters()} == {torch.float32}
            assert any(moved) or prefix == "historical"


def own_arguments(kind: type) -> dict[str, inspect.Parameter]:
    """Of a class's constructor and of those that it extends."""
    makers = [vars(each)["__init__"] for each in kind.__mro__ if "__init__" in vars(each)]
    return {k: v for make in makers for k, v in inspect.signature(make).parameters.items()}


@pytest.mark.parametrize("name", [name for name in METHODS if name not in VARIANTS])
def test_python_and_configuration_have_the_same_defaults(name: str) -> None:
    cfg = composed(name).method
    for key, argument in own_arguments(get_class(cfg._target_)).items():
        is_given = key in cfg and not OmegaConf.is_interpolation(cfg, key)
        if is_given and argument.default is not argument.empty:
            assert cfg[key] == argument.default, key


class Pixels(nn.Module):
    """A backbone that sees each pixel by itself: of padding, only a loss or a statistic can tell.

    Its maps pass for features that a prompt has adapted, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stride_multiple, self.channels = 1, (8, 8)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 8, 1), nn.BatchNorm2d(8), nn.Tanh()) for width in (3, 8)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        first = self.stages[0](image)
        return [first, self.stages[1](first)]

    def forward_features(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        maps = self(image)
        return maps, maps


class PixelHead(Head):
    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 19
        self.layer = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.classifier = nn.Conv2d(8, 19, 1)

    def features(self, maps: Sequence[Tensor]) -> Tensor:
        return cast(Tensor, self.layer(maps[-1]))

    def classify(self, features: Tensor, maps: Sequence[Tensor]) -> Tensor:
        return 4 * cast(Tensor, self.classifier(features))


PROMPTED = {"uniuvpt", "vpt_elr"}
"""Methods whose adapter needs a transformer, in which every pixel sees all others."""
MASKED = {"clouds", "clouds_warmup"}
"""Methods whose head is one, too."""
DRAWS_PIXELS = {"source_gta"}
"""Methods that draw as many numbers as an image has pixels."""


class Case:
    """A method with settings of its own; no two are the same, so that one is built once."""

    def __init__(self, name: str, **options: Any) -> None:
        self.name, self.options = name, options

    def __str__(self) -> str:
        return " ".join([self.name, *self.options])


SWITCHED = [
    Case("adaptsegnet", adversarial_loss="least_squares", normalize="all"),
    Case("adaptsegnet", masked=1.0, mask_mode="both"),
    Case("advent", masked=1.0, teacher_statistics="running"),
    Case("advent_minent", masked=1.0),
    Case(
        "dacs", masked=1.0, teacher_statistics="running", confidence=0.5,
        pseudo_label_crop=(3, 4), reference_quirks=True,
    ),
    Case("dacs", masked=1.0, mask_mode="both", propagate="each"),
    Case("gta", entropy_weight=1.0),
    Case("max_square", image_weighting=True),
    Case("mean_teacher", masked=1.0, entropy_weight=1.0),
    Case("source_gta", styles=["adain"], normalize="all"),
    Case("source_only", normalize="all"),
    Case("uniuvpt", correction="elr"),
    Case("uniuvpt", variant="release"),
    Case("uplr", stages=0),
    Case("uplr", masked=1.0),
    Case("vpt_elr", loss="lovasz", entropy_weight=1.0),
]  # fmt: skip
"""Settings that bring further losses."""
EVERY = [*(Case(name) for name in METHODS if name not in SETTINGS | MASKED), *SWITCHED]
ALONE = [
    case
    for case in EVERY
    # The published code stretches views from corner to corner, of whatever size a batch has.
    if case.name not in DRAWS_PIXELS and "variant" not in case.options
]
SIZE, CANVAS = (32, 48), (40, 64)


@cache
def of_pixels(case: Case) -> Method:
    """The method on a network of pixels, with all pixels drawn where some are."""
    cfg = composed(case.name).copy()
    cfg.data.adaptation.target_view.crop = list(SIZE)
    cfg.data.adaptation.batch_size = 2
    options = {"pixels": 10_000, "patches": 2}
    options = {name: value for name, value in options.items() if name in cfg.method}
    torch.manual_seed(0)
    network: nn.Module = Segmenter(Pixels(), PixelHead())
    if cfg.method.source_adapter is not None:
        network = build(cfg.method.source_adapter)(network)
    if case.name in PROMPTED:
        options["adapter"] = None
    if "student" in untrained_of(cfg, CITYSCAPES):
        options["student"] = Segmenter(Pixels(), PixelHead())
    method: Method = small.built(cfg, network, **options | case.options)
    return method


def padded(sizes: Sequence[tuple[int, int]], canvas: tuple[int, int], *, content: int) -> Recorder:
    """Two pictures in images of one size; around them is what ``content`` says, 0 to 255."""
    domains = {}
    for domain, seed in (("source", 0), ("target", 1)):
        rng = torch.Generator()
        image = torch.full((2, 3, *canvas), content, dtype=torch.uint8)
        label, pseudo_label = torch.full((2, 2, *canvas), IGNORE, dtype=torch.uint8)
        rng.manual_seed(seed)
        for k, (height, width) in enumerate(sizes):
            of = np.s_[k, ..., :height, :width]
            image[of] = torch.randint(0, 256, (3, height, width), generator=rng)
            label[of] = torch.randint(0, 19, (height, width), generator=rng)
            pseudo_label[of] = torch.randint(0, 19, (height, width), generator=rng)
        domains[domain] = Batch(
            image=image, label=label, index=torch.arange(2), pseudo_label=pseudo_label,
            geometry=torch.tensor([Geometry.whole(size) for size in sizes]),
        )  # fmt: skip
    return Recorder(domains)


def seen(case: Case, data: Recorder) -> dict[str, Tensor]:
    """All terms of a step's losses, and what it has kept in buffers."""
    method = deepcopy(of_pixels(case)).train()
    torch.manual_seed(1)
    loss = step(method, data)["loss"].detach()
    terms = {"loss": loss} | method.terms | method.logged
    return terms | {k: b.detach() for k, b in method.named_buffers() if b.is_floating_point()}


def require_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Of the tensor's size: the first steps of Adam turn rounding into signs.
        atol = 1e-7 + 1e-3 * float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=atol, msg=name)


@pytest.fixture
def fixed_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of blocks drawn for a batch's size: those of a chessboard are hidden."""

    def visible(image: Tensor, *, ratio: float, block: int) -> Tensor:
        height, width = image.shape[-2:]
        rows, columns = torch.arange(height) // block, torch.arange(width) // block
        return ((rows[:, None] + columns) % 2 == 0).expand(len(image), 1, height, width)

    monkeypatch.setattr(masked_consistency, "block_mask", visible)


@pytest.mark.usefixtures("fixed_blocks")
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_what_surrounds_pictures_is_not_looked_at(case: Case) -> None:
    sizes = [(32, 64), (40, 48)]
    dark, bright = (seen(case, padded(sizes, CANVAS, content=k)) for k in (0, 255))
    require_close(dark, bright)


@pytest.mark.usefixtures("fixed_blocks")
@pytest.mark.parametrize("case", ALONE, ids=str)
def test_the_same_pictures_padded_give_the_same_loss(case: Case) -> None:
    alone, wide = (seen(case, padded([SIZE] * 2, canvas, content=0)) for canvas in (SIZE, CANVAS))
    require_close(wide, alone)
