"""CPSL: its loss from formulas, where prototypes come from, what trains and what does not."""

from types import SimpleNamespace

import pytest
import small
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule
from small import QUIET, backbone, batch, built, configured, fit

from sfseg.config.composition import build
from sfseg.errors import ConfigError
from sfseg.methods import cpsl
from sfseg.networks.heads.daformer import DAFormerHead
from sfseg.networks.heads.deeplab import DeepLabV2Head
from sfseg.networks.segmenter import Segmenter
from sfseg.ops.losses import cross_entropy
from sfseg.ops.sinkhorn import sinkhorn
from sfseg.optim import count_parameters
from sfseg.types import IGNORE

pytestmark = QUIET
CLASSES, CHANNELS = 19, 8


def plain(**parts):
    torch.manual_seed(0)
    features = backbone(drop_path_rate=0.5)
    head = DAFormerHead(features.channels, CLASSES, channels=CHANNELS, dropout=0.0)
    return Segmenter(features, parts.pop("head", head), **parts)


def make(*overrides, network=None, **options):
    return built(configured("method=cpsl", *overrides), network or plain(), **options)


def parts(network, head, image):
    """Logits at their own size and features, layer by layer."""
    maps = network.features(image)
    size = maps[0].shape[-2:]
    levels = [
        F.interpolate(embed(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), size, mode="bilinear")
        for embed, m in zip(head.embeddings, maps, strict=True)
    ]
    stacked = torch.cat(levels, dim=1)
    fused = head.bottleneck(torch.cat([branch(stacked) for branch in head.branches], dim=1))
    return head.classifier(fused), fused


def cosine(features, prototypes):
    return torch.einsum("bchw,kc->bkhw", F.normalize(features), F.normalize(prototypes))


@pytest.fixture
def fixed(monkeypatch):
    """A strong view and positions that are known: half as bright, all pixels."""
    monkeypatch.setattr(cpsl, "strong_view", lambda image, *, strength, valid: image * strength)
    monkeypatch.setattr(cpsl, "random_positions", small.every_position)


def expected_terms(method, data):
    target, network = data["target"], method.network
    image, size = target["image"].float() / 255, target["image"].shape[-2:]
    scores, features = parts(network, network.head, image)
    with torch.no_grad():
        _, average = parts(network, method.teacher.network, image)
        goal = cosine(average, method.averages)
        soft = F.interpolate(parts(network, method.source.network, image)[0], size, mode="bilinear")
        weight = (F.interpolate(goal, size, mode="bilinear") / 0.08).softmax(dim=1)
        label = (weight * soft.softmax(dim=1)).argmax(dim=1)
        label[target["pseudo_label"] == IGNORE] = IGNORE
        strong = cosine(parts(network, network.head, image * 0.5)[1], method.averages)
    logits = F.interpolate(scores, size, mode="bilinear")
    p, q = ((part / 0.08).softmax(dim=1) for part in (goal, strong))
    consistency = (p * (p / q).log()).sum(dim=1).mean() / CLASSES
    rows = cosine(features, method.prototypes).flatten(2).transpose(1, 2)
    queue = method.queue[: int(method.queued)] @ F.normalize(method.prototypes, dim=1).T
    labelling = 0.0
    for own in rows:
        assigned = sinkhorn(torch.cat([queue, own]), method.share)[len(queue) :]
        labelling -= (assigned * (own / 0.08).log_softmax(dim=1)).sum(dim=1).mean() / len(rows)
    return {"labels": (logits, label), "consistency": consistency, "self_labelling": labelling}


@pytest.mark.usefixtures("fixed")
def test_the_loss_is_that_of_the_formulas():
    method = make(consistency_weight=2.0, labelling_weight=0.3, queue=700)
    fit(method, [batch(seed=k) for k in range(3)])  # all differ now: student, average, source
    method.train()
    assert int(method.queued) == 700
    data = batch(seed=9)
    output = method.training_step(data, 0)
    terms, parts = method.terms, expected_terms(method, data)
    logits, label = parts["labels"]
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(terms["labels"], cross_entropy(logits, label).detach(), **tolerance)
    torch.testing.assert_close(terms["consistency"], 2 * parts["consistency"], **tolerance)
    expected = 0.3 * parts["self_labelling"].detach()
    torch.testing.assert_close(terms["self_labelling"], expected, **tolerance)
    torch.testing.assert_close(
        output["confidence"], logits.detach().softmax(dim=1).amax(dim=1), **tolerance
    )
    assert (output["prediction"] == logits.argmax(dim=1)).float().mean() > 0.999


def test_labels_are_learnt_symmetrically_if_asked_for():
    losses = {}
    for kind in ("cross_entropy", "symmetric"):
        method = make(label_loss=kind)
        torch.manual_seed(0)
        method.training_step(batch(), 0)
        losses[kind] = method.terms["labels"]
    # 9.21 (1 - p) and a tenth of -log p, of probabilities far from 0 and 1.
    assert 9.21 > losses["symmetric"] > losses["cross_entropy"] > 0


@pytest.mark.parametrize("backbone", ["swin_b", "mit_b5"])
def test_exactly_one_head_trains(backbone):
    with torch.device("meta"):
        cfg = configured(f"backbone={backbone}", "backbone.pretrained=false")
        network = build(cfg.backbone.network, num_classes=CLASSES)
        method = make(network=network)
    trained = {"swin_b": 3_941_651, "mit_b5": 3_712_275}[backbone]
    assert count_parameters(method.network.parameters())[1] == trained
    assert count_parameters(method.parameters())[1] == trained + CLASSES * 256


def test_what_trains_and_what_follows():
    method = make("method.momentum=0.9")
    before = {name: value.clone() for name, value in method.state_dict().items()}
    fit(method, [batch()])
    after = method.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    first = {name.split(".")[0] for name in moved}
    assert first == {"network", "teacher", "prototypes", "averages", "queue", "queued"}
    assert not any(name.startswith("network.backbone") for name in moved)
    for mine, theirs, start in (
        ("averages", "prototypes", "averages"),
        ("teacher.network.classifier.weight", "network.head.classifier.weight", None),
    ):
        expected = 0.9 * before[start or mine] + 0.1 * after[theirs]
        torch.testing.assert_close(after[mine], expected)


def test_without_self_labelling_prototypes_stay():
    method = make(labelling_weight=0.0)
    before = method.prototypes.clone()
    fit(method, [batch()])
    assert torch.equal(method.prototypes, before) and int(method.queued) == 0
    (optimizer,) = [method.configure_optimizers()["optimizer"]]
    assert all(p is not method.prototypes for g in optimizer.param_groups for p in g["params"])


def test_prototypes_have_a_group_of_their_own():
    method = make(prototype_lr_factor=5.0)
    for _ in range(2):  # asked for once more than it is used
        groups = method.configure_optimizers()["optimizer"].param_groups
        mine = [group for group in groups if group["params"][0] is method.prototypes]
        assert len(mine) == 1 and len(mine[0]["params"]) == 1
        assert mine[0]["initial_lr"] == pytest.approx(5 * method.shared["lr"])
        assert mine[0]["weight_decay"] == 0


class Images(LightningDataModule):
    """Steps on one batch; before them, whole images to look at."""

    def __init__(self, images):
        super().__init__()
        self.images, self.passes = images, 0

    def train_dataloader(self):
        return torch.utils.data.DataLoader([batch()], batch_size=None, collate_fn=lambda x: x)

    def labelling_dataloader(self):
        self.passes += 1
        return [{"image": image} for image in self.images]


def test_prototypes_start_as_class_means_of_the_target():
    network = plain()
    with torch.no_grad():  # predicts three classes alone
        network.head.classifier.bias[3:] = -99
    images = [batch((33, 40), seed=k)["target"]["image"][:1] for k in range(2)]
    method = make("method.lr=1e-12", network=network, momentum=1.0)
    weight = F.normalize(method.prototypes.detach(), dim=1)
    data = Images(images)
    fit(method, data)
    source = method.source.network
    total, count = torch.zeros(CLASSES, CHANNELS), torch.zeros(CLASSES)
    with torch.no_grad():
        for image in images:
            logits, features = parts(method.network, source, image)
            inside = (slice(None), slice(0, 9), slice(0, 10))  # 33 x 40 of 64 x 64, stride 4
            label = logits[0].argmax(dim=0)[inside[1:]]
            for k in range(CLASSES):
                total[k] += features[0][inside][:, label == k].sum(dim=1)
                count[k] += int((label == k).sum())
    assert int(count.sum()) == 180 and 0 < int((count > 0).sum()) <= 3
    expected = torch.where(count[:, None] > 0, F.normalize(total, dim=1), weight)
    torch.testing.assert_close(method.averages, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(method.share, count / 180)
    assert bool(method.has_started) and not any(b.requires_grad for b in method.buffers())
    other = make(network=plain())
    other.load_state_dict(method.state_dict())
    fit(other, data)
    assert data.passes == 1, "a run that goes on looks again"


def stub(method, world_size=1):
    method._trainer = SimpleNamespace(
        world_size=world_size, accumulate_grad_batches=1, global_rank=0
    )
    method.iteration = 1


def test_the_queue_holds_the_latest_features():
    method = make(queue=5, pixels=2)
    stub(method)
    seen = []
    for k in range(4):
        method.iteration = k + 1
        method.training_step(batch(seed=k), 0)
        seen.append(method._fresh)
        method.on_train_batch_end({}, None, 0)
        newest = torch.cat(seen[::-1])[:5]
        assert int(method.queued) == len(newest)
        assert torch.equal(method.queue[: len(newest)], newest)
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(5))


def test_nothing_is_learnt_from_a_skipped_step():
    method = make()
    stub(method)
    before = {name: value.clone() for name, value in method.named_buffers()}
    before |= {name: value.clone() for name, value in method.teacher.named_parameters()}
    method.training_step(batch(), 0)
    with torch.no_grad():
        method.network.head.classifier.weight.add_(1)
        method.prototypes.add_(1)
    method.step.is_skipped = True
    method.on_train_batch_end({}, None, 0)
    now = dict(method.named_buffers()) | dict(method.teacher.named_parameters())
    kept = [n for n in before if not n.startswith("network.head")]  # running statistics have moved
    assert all(torch.equal(now[name], before[name]) for name in kept)


def test_without_any_label_only_labels_are_missing():
    method, data = make(), batch()
    data["target"]["pseudo_label"].fill_(IGNORE)
    loss = method.training_step(data, 0)["loss"]
    loss.backward()
    assert method.terms["labels"] == 0 and method.terms["self_labelling"] > 0
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", ["consistency_weight", "labelling_weight"])
def test_a_term_without_weight_is_not_computed(name):
    method = make(**{name: 0.0})
    method.training_step(batch(), 0)
    missing = {"consistency_weight": "consistency", "labelling_weight": "self_labelling"}[name]
    assert missing not in method.terms and len(method.terms) == 2


def test_an_auxiliary_head_does_not_train():
    aux = DAFormerHead((32,), CLASSES, channels=CHANNELS, dilations=(1,))
    method = make(network=plain(aux_head=aux))
    method.training_step(batch(), 0)["loss"].backward()
    assert not any(p.requires_grad for p in method.network.aux_head.parameters())


def test_a_backbone_that_trains_is_refused():
    with pytest.raises(ConfigError, match="the backbone must be frozen for cpsl"):
        make(adapter=None)


def test_a_head_of_classifiers_alone_is_refused():
    head = DeepLabV2Head((32, 32, 32, 32), CLASSES)
    with pytest.raises(ConfigError, match=r"must have layers before its classifier.*DeepLabV2Head"):
        make(network=plain(head=head))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_loss": "mine"}, "label_loss must be one of cross_entropy, symmetric, got 'mine'"),
        ({"consistency_weight": -1}, "consistency_weight must not be negative, got -1"),
        ({"labelling_weight": -1}, "labelling_weight must not be negative"),
        ({"pixels": 0}, "pixels must be at least 1, got 0"),
        ({"queue": -1}, "queue must be at least 0"),
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"epsilon": -0.1}, "epsilon must be positive"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"momentum": 1.1}, r"momentum must be in \[0, 1\], got 1.1"),
        ({"prototype_lr_factor": 0}, "prototype_lr_factor must be positive"),
        ({"colour": -1}, "colour must be in"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


class Silent(torch.nn.Module):
    """A head of a user's that does not say what its classifier is shown."""

    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(32, CHANNELS, kernel_size=1)
        self.classifier = torch.nn.Conv2d(CHANNELS, CLASSES, kernel_size=1)

    def forward(self, maps):
        return self.classifier(self.layer(maps[0]))


def test_a_head_that_shows_no_features_is_refused():
    with pytest.raises(ConfigError, match=r"for cpsl.*features\(maps\), and classifier.*Silent"):
        make(network=plain(head=Silent()))


def test_a_convolution_as_wide_as_the_classes_makes_features_too():
    """What scores is what the head says, not what has as many outputs as there are classes."""
    features = backbone()
    head = DAFormerHead(features.channels, CLASSES, channels=CLASSES, dilations=(1,))
    head.requires_grad_(False)
    head.branches[0][0].requires_grad_(True)  # 19 outputs, 4 * 19 inputs
    assert head.branches[0][0].out_channels == CLASSES
    make(network=Segmenter(features, head)).training_step(batch(), 0)["loss"].backward()
    head.branches[0][0].requires_grad_(False)
    head.classifier.requires_grad_(True)
    with pytest.raises(ConfigError, match="must have layers before its classifier"):
        make(network=Segmenter(features, head))
