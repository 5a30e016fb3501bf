"""Folders of transformers: what is in them as a network of ours, and networks of ours as one."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from sfseg.conversion import equality, preprocessing
from sfseg.conversion.architecture import Architecture
from sfseg.conversion.labels import of_ids
from sfseg.conversion.mask2former import MASK2FORMER
from sfseg.conversion.naming import to_ours, to_theirs
from sfseg.conversion.preprocessing import Preprocessing
from sfseg.conversion.segformer import SEGFORMER
from sfseg.conversion.upernet import UPERNET
from sfseg.errors import ConfigError
from sfseg.labels import LabelSpace
from sfseg.networks.segmenter import Segmenter
from sfseg.networks.weights.checkpoint import load_strictly
from sfseg.networks.weights.hub_files import CONFIG, model_folder, pretrained, read_json

log = logging.getLogger(__name__)

ARCHITECTURES = {own.name: own for own in (SEGFORMER, MASK2FORMER, UPERNET)}
EXAMPLES = (
    "nvidia/segformer-b0-finetuned-cityscapes-1024-1024",
    "facebook/mask2former-swin-tiny-cityscapes-semantic",
)
FILES = ("*.json", "model*.safetensors", "pytorch_model*.bin")
WEIGHTS = "model.safetensors"
WRITTEN = (CONFIG, WEIGHTS, preprocessing.FILE)
"""Files of a folder that is written."""


@dataclass(frozen=True)
class Foreign:
    """A network of transformers, loaded.

    source: as given.
    architecture: of the network.
    model: in single precision.
    labels: its classes.
    preprocessing: how it is shown images.
    """

    source: str
    architecture: Architecture
    model: Any
    labels: LabelSpace
    preprocessing: Preprocessing

    def settings(self) -> list[str]:
        """What a command line of ours says to build its network.

        Raises:
            ConfigError: no network here computes the same.
        """
        return [*self.architecture.settings(self.model.config), *self.preprocessing.settings()]

    def tensors(self) -> dict[str, Tensor]:
        """As its files hold them, whose names are older and more lasting than those in memory."""
        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder, max_shard_size="1000GB")
            return {key: tensor.clone() for key, tensor in
                    load_file(Path(folder) / WEIGHTS).items()}  # fmt: skip

    def fill(self, network: Segmenter) -> None:
        """Give a network of ours these weights, if it then computes the same.

        Raises:
            ConfigError: it does not, or they do not fit.
        """
        own = self.architecture
        tensors = self.tensors()
        if dropped := [key for key in tensors if key.startswith("auxiliary_head.")]:
            log.info("%s: %d tensors of an auxiliary head are left out", self.source, len(dropped))
        ours = to_ours(
            tensors, list(network.state_dict()), own.rules,
            without_use=own.without_use, source=self.source,
        )  # fmt: skip
        load_strictly(network, ours, source=self.source)
        equality.require_equal(own, network, self.model)


def read(source: str, labels: LabelSpace | None) -> Foreign:
    """The network in a folder of transformers, or of Hugging Face's hub.

    Args:
        source: a folder, or ``owner/name``.
        labels: its classes where the folder does not name them; None: it does.

    Raises:
        ConfigError: there is none, it is of an unknown architecture or of other classes, or its
            weights are damaged or not all there.
    """
    folder = model_folder(source, "source", EXAMPLES, files=FILES)
    config = read_json(folder / CONFIG)
    architecture = _architecture(config, source)
    require_weights(folder, source)
    model = pretrained(
        architecture.name, source, folder, "source", optional=architecture.without_use,
        trust_remote_code=False,
    )  # fmt: skip
    if labels is None:
        labels = of_ids(model.config.id2label, config.get("palette"), source=source)
    if labels.num_classes != model.config.num_labels:
        raise ConfigError(
            f"source={source} has {model.config.num_labels} classes, {labels.name} "
            f"{labels.num_classes}; give as many with classes="
        )
    place = folder / preprocessing.FILE
    content = read_json(place) if place.is_file() else None
    return Foreign(source, architecture, model, labels, preprocessing.read(content, source=source))


def require_weights(folder: Path, source: str) -> None:
    """Refuse a folder without weights, before anything is loaded.

    Raises:
        ConfigError: names the files that are looked for.
    """
    names = (WEIGHTS, f"{WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    if not any((folder / name).is_file() for name in names):
        raise ConfigError(f"source={source} has no weights: none of {', '.join(names)} is there")


def _architecture(config: dict[str, Any], source: str) -> Architecture:
    named = config.get("architectures") or []
    for name in named if isinstance(named, list) else []:
        if name in ARCHITECTURES:
            return ARCHITECTURES[name]
    found = ", ".join(map(str, named)) or str(config.get("model_type"))
    raise ConfigError(
        f"source={source} is a {found}; those that can be converted are {', '.join(ARCHITECTURES)}"
    )


def architecture_of(network: Any) -> Architecture:
    """What a network of ours is in transformers.

    Raises:
        ConfigError: nothing; says why.
    """
    if type(network) is not Segmenter:
        raise ConfigError(
            f"to=transformers takes a plain backbone with a head, got a {type(network).__name__}, "
            "which is no network of transformers"
        )
    for own in ARCHITECTURES.values():
        if own.fits(network):
            return own
    kinds = f"{type(network.backbone).__name__} with {type(network.head).__name__}"
    raise ConfigError(
        f"to=transformers takes MiT with backbone/head=segformer, Swin with mask2former, Swin or "
        f"ConvNeXt (with output_norms) with upernet, got {kinds}; there is no such class"
    )


def write(network: Segmenter, labels: LabelSpace, prepared: Preprocessing, folder: Path) -> None:
    """Write a folder that the class of transformers opens, and open it.

    Args:
        network: ours.
        labels: its classes; their colours are kept as ``palette`` in config.json, which
            transformers passes over.
        prepared: how it is shown images.
        folder: exists, and is empty.

    Raises:
        ConfigError: it is no network of transformers, or computes something else there.
    """
    import transformers

    own = architecture_of(network)
    if network.aux_head is not None:
        log.info("the auxiliary head is left out: it has no part in predictions")
    names = dict(enumerate(labels.classes))
    config = getattr(transformers, own.name).config_class(
        **own.configuration(network),
        id2label=names,
        label2id={name: k for k, name in names.items()},
        palette=[list(colour) for colour in labels.palette],
        architectures=[own.name],
    )
    config.save_pretrained(folder)
    tensors = to_theirs(network.state_dict(), own.rules) | own.constants(config)
    # As bytes: `save_file` makes a file that its owner alone may read.
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    getattr(transformers, own.processor)(**prepared.theirs()).save_pretrained(folder)
    model = pretrained(own.name, str(folder), folder, "output", optional=own.without_use)
    equality.require_equal(own, network, model)
