"""What a run needs before it adapts: the source model's scores, and pseudo-labels."""

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig, OmegaConf

from sfseg.config.composition import build, plain
from sfseg.data.fingerprint import fingerprint
from sfseg.errors import ConfigError
from sfseg.runs.checkpoints import empty_backbone, read_checkpoint, stored_labels
from sfseg.runs.records import record_of
from sfseg.storage import manifest

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from numpy.typing import NDArray

    from sfseg.data.module import AdaptationData
    from sfseg.labels import LabelSpace
    from sfseg.methods.base import Method
    from sfseg.methods.evaluation import Evaluation
    from sfseg.methods.labelling import Selection
    from sfseg.networks.segmenter import Segmenter
    from sfseg.pseudo.identity import Identity

log = logging.getLogger(__name__)
FOLDER = "pseudo_labels"
PLACES = {"_target_", "_partial_", "root"}
OTHERS = {"start_from", "refine", "sam"}
"""Settings of pseudo-labels that are not about which pixels get one."""
NO_MODEL = "none"
"""In place of a source model's digest, of labels that a method makes all by itself."""


def network_of(cfg: DictConfig, labels: "LabelSpace", source: Path | None) -> "Segmenter":
    """The network of a run before its method adapts it.

    Args:
        cfg: of the run.
        labels: the task's.
        source: checkpoint of a run, or weights under the names of mmseg or DAFormer; None keeps
            the backbone's own weights.

    Raises:
        ConfigError: the file is of another backbone, head or label space.
    """
    from sfseg.networks.weights.checkpoint import load_segmenter

    node = cfg.backbone.network if source is None else empty_backbone(cfg)
    network: Segmenter = build(node, num_classes=labels.num_classes)
    if cfg.method.source_adapter is not None:
        network = build(cfg.method.source_adapter)(network)
    if source is None:
        return network
    known = stored_labels(source)
    if known is not None and known.classes != labels.classes:
        raise ConfigError(
            f"source_checkpoint={source} knows the {known.num_classes} classes of {known.name}, "
            f"the data {labels.num_classes} of {labels.name}; choose data of the same classes"
        )
    load_segmenter(network, source)
    return network


def untrained_of(cfg: DictConfig, labels: "LabelSpace") -> "dict[str, Segmenter]":
    """Networks with the backbone's own weights that a method has beside the one it adapts.

    ``student``, of one that teaches a new network; ``imagenet``, of one that keeps near to what
    ImageNet has taught, or whatever else the backbone was pretrained with.

    Raises:
        ConfigError: the backbone has no pretrained weights to keep near to.
    """
    if cfg.method.get("transfer_only"):
        return {"student": network_of(cfg, labels, None)}
    if not cfg.method.get("feature_distance"):
        return {}
    backbone = cfg.backbone
    if not (backbone.pretrained or backbone.weights):
        raise ConfigError(
            f"method.feature_distance={cfg.method.feature_distance} needs a backbone with "
            "pretrained weights, got backbone.pretrained=false and no backbone.weights; set "
            "backbone.weights=<file> or backbone.pretrained=true, or method.feature_distance=0"
        )
    return {"imagenet": network_of(cfg, labels, None)}


def strategy_of(cfg: DictConfig, method: "Method") -> dict[str, str]:
    """Which of Lightning's parallel strategies a method needs, where that is not the one set.

    Each loss of a method with several optimisers reaches a part of its parameters.
    """
    if method.automatic_optimization or cfg.trainer.get("strategy") != "ddp":
        return {}
    return {"strategy": "ddp_find_unused_parameters_true"}


def prepare(
    cfg: DictConfig,
    source: Path | None,
    *,
    model: str,
    trainer: "Trainer",
    method: "Method",
    data: "AdaptationData",
    folder: Path,
) -> None:
    """Score the source model, and serve the pseudo-labels that a method begins with.

    All processes of a run call it.

    Args:
        cfg: of the run.
        source: checkpoint of the source model, which labels the training images of the target;
            without one, none has a label until the method gives it one.
        model: its digest, see :func:`described`, or :data:`NO_MODEL`.
        trainer: evaluates.
        method: gets the scores.
        data: will serve the labels, if the method needs any.
        folder: of the run; labels are kept in its ``pseudo_labels``.

    Raises:
        ConfigError: given labels are of other images, classes or another source model.
        DataError: the labels cannot be read or written.
    """
    from sfseg.pseudo.identity import Identity
    from sfseg.pseudo.reader import PseudoLabels
    from sfseg.pseudo.store import PseudoLabelStore

    evaluation = None
    if source is not None:
        evaluation = evaluated(cfg, source, model=model, trainer=trainer, method=method, data=data)
    if "pseudo_labels" not in data.needs:
        return
    images = data.target_images()
    identity = Identity(
        images.names, images.sizes, data.labels.classes, model, image_content(cfg, data)
    )
    place = folder / FOLDER
    if (given := given_labels(cfg)) is not None:
        if trainer.is_global_zero:
            go_on_with(given, place, identity)
            if method.refiner is not None and cfg.ckpt_path is None:
                log.info("pseudo-labels: pseudo_labels.refine leaves given ones as they are")
    else:
        make_labels(cfg, place, identity, evaluation, trainer=trainer, data=data)
    trainer.strategy.barrier(FOLDER)
    if not trainer.is_global_zero:
        data.serve_pseudo_labels(PseudoLabels(place, identity))
        return
    store = PseudoLabelStore(place, identity)
    # A disk may have changed, since they were written, what given labels say.
    store.verify()
    data.serve_pseudo_labels(store)


def evaluated(
    cfg: DictConfig,
    source: Path,
    *,
    model: str,
    trainer: "Trainer",
    method: "Method",
    data: "AdaptationData",
) -> "Evaluation":
    """The source model, whose scores the method gets; arguments are those of :func:`prepare`."""
    from sfseg.methods.evaluation import Evaluation
    from sfseg.metrics import Scores

    network = network_of(cfg, data.labels, source)
    # What a run has measured and logged before its checkpoint is in that.
    state = {} if cfg.ckpt_path is None else read_checkpoint(cfg.ckpt_path)
    evaluation = Evaluation(
        network=network,
        labels=data.labels,
        eval_domains=data.eval_domains,
        inference=method.inference,
        stage="source_only",
    )
    evaluation.refiner, evaluation.protocol = method.refiner, method.protocol
    method.source_scores_of = scores_of(cfg, model, data, method.protocol)
    if state.get("source_scores_of") == method.source_scores_of:
        method.source_scores = {d: Scores(**s) for d, s in state["source_scores"].items()}
        return evaluation
    if "source_scores" in state:
        before = state.get("source_scores_of", {}).get("protocol", "of an earlier version")
        log.info(
            "source model: evaluated again, since the checkpoint's scores are by another protocol, "
            "model or set (%s)", before,
        )  # fmt: skip
    trainer.validate(evaluation, datamodule=data, verbose=False)
    method.source_scores = evaluation.scores
    return evaluation


def scores_of(cfg: DictConfig, model: str, data: "AdaptationData", protocol: str) -> dict[str, str]:
    """What the scores of a source model depend on: the model, the protocol and the sets."""
    sets = {}
    own = cfg.data.eval_sets or {}
    for domain in data.eval_domains:
        name = f"{domain}_eval"
        settings = own[domain].scenes if domain in own else cfg.data.scenes[name]
        drawn = OmegaConf.to_container(settings, resolve=True)
        content = fingerprint(data.scenes[name]) or json.dumps(drawn, sort_keys=True, default=str)
        sets[name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {"protocol": protocol, "model": model, **sets}


def go_on_with(given: Path, place: Path, identity: "Identity") -> None:
    """A store of pseudo-labels as another run, or this one, has left it.

    Raises:
        ConfigError: they are of other images, classes or another source model.
        DataError: they cannot be read, or the disk is full.
    """
    from sfseg.pseudo.making import copy_store
    from sfseg.pseudo.reader import PseudoLabels

    PseudoLabels(given, identity)
    if given.absolute() == place.absolute():
        log.info("pseudo-labels: %s, as this run left them", place)
        return
    copy_store(given, place)
    log.info("pseudo-labels: %s, continued from %s", place, given)


def make_labels(
    cfg: DictConfig,
    place: Path,
    identity: "Identity",
    evaluation: "Evaluation | None",
    *,
    trainer: "Trainer",
    data: "AdaptationData",
) -> None:
    """A new store of pseudo-labels, by all processes.

    No image has one where there is no source model, or where the method sees the source: it makes
    them when it has learnt more than that model.
    """
    from sfseg.methods.first_labels import empty_labels, select_labels

    if evaluation is None or "source" in data.needs:
        empty_labels(place, identity)
        return
    select_labels(
        evaluation,
        data.labelling_dataloader,
        place,
        identity,
        label_selection_of(cfg),
        device=trainer.strategy.root_device,
        context=trainer.precision_plugin.forward_context(),
        left_out=data.left_out["target_train"].indices,
    )
    if trainer.is_global_zero:
        log.info("pseudo-labels: %s, of %d images by the source model", place, len(identity.names))


def image_content(cfg: DictConfig, data: "AdaptationData") -> "NDArray[np.uint64]":
    """A number for what is in each training image of the target; of drawn ones, of their settings.

    Where a drawn set's code lies and where its files are is no part of what is in it.
    """
    from sfseg.data.fingerprint import image_digests

    name = "target_train"
    found = image_digests(data.scenes[name], data.left_out[name].indices)
    if found is not None:
        return found
    settings = plain(cfg.data.module.scenes[name], resolve=True)
    kept = {key: value for key, value in settings.items() if key not in PLACES}
    text = json.dumps(kept, sort_keys=True, default=str)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.full(len(data.scenes[name]), number, np.uint64)


def label_selection_of(cfg: DictConfig) -> "Selection":
    """Which pixels the source model labels.

    Raises:
        ConfigError: an unknown rule, or a share out of its range.
    """
    from sfseg.methods.labelling import Selection

    settings = {key: value for key, value in cfg.pseudo_labels.items() if key not in OTHERS}
    try:
        return Selection(**settings)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def given_labels(cfg: DictConfig) -> Path | None:
    """The folder of pseudo-labels that a run goes on with: its own earlier one's, or as set.

    Raises:
        ConfigError: the checkpoint to continue has lost its pseudo-labels.
    """
    if cfg.ckpt_path is None:
        given = cfg.pseudo_labels.start_from
        return None if given is None else Path(given).expanduser()
    state = read_checkpoint(cfg.ckpt_path).get("AdaptationData", {})
    if "pseudo_labels" not in state:
        raise ConfigError(f"ckpt_path={cfg.ckpt_path} is of a run without pseudo-labels")
    folder = Path(state["pseudo_labels"]["folder"])
    # A run folder may have been moved.
    beside = Path(cfg.ckpt_path).absolute().parent.parent / FOLDER
    found = next((place for place in (folder, beside) if place.is_dir()), None)
    if found is None:
        raise ConfigError(
            f"ckpt_path={cfg.ckpt_path} needs its run's pseudo-labels, but neither {folder} nor "
            f"{beside} is there; continue a checkpoint inside its run folder"
        )
    return found


def described(source: Path | None) -> dict[str, str] | None:
    """What a checkpoint says of the source model that its run has started from."""
    return None if source is None else {"path": str(source.absolute()), "digest": digest(source)}


def began_with(cfg: DictConfig) -> Path | None:
    """The source model of the run that ``ckpt_path`` is of; None where it is not known or gone."""
    from sfseg.pseudo.identity import read_record

    content = read_checkpoint(cfg.ckpt_path)
    with record_of(f"ckpt_path={cfg.ckpt_path}"):
        known = content[manifest.KEY].get("source_model")
        if known is None and "pseudo_labels" in content.get("AdaptationData", {}):
            # Written before checkpoints said it: the run's labels do.
            labels = given_labels(cfg)
            assert labels is not None, "the checkpoint has some"
            known = {"path": "", "digest": read_record(labels)["source"]}
        if known is None:
            return None
        first, wanted = Path(known["path"]), str(known["digest"])
    kept = Path(cfg.source_model.folder).expanduser().glob(f"*/{manifest.LAST}")
    places = (path for path in (first, *kept) if path.is_file())
    return next((path for path in places if digest(path) == wanted), None)


def digest(path: Path) -> str:
    """Of a file's content, as stores of pseudo-labels keep it."""
    return manifest.digest(path)[:16]
