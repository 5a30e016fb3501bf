"""``sfseg-convert``: networks from and to the names of transformers and mmsegmentation."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from omegaconf import DictConfig

from sfseg.config.composition import as_typed, command, require_flags
from sfseg.errors import ConfigError

if TYPE_CHECKING:
    from sfseg.labels import LabelSpace
    from sfseg.networks.segmenter import Segmenter
    from sfseg.runs.checkpoints import Restored

log = logging.getLogger(__name__)

ENDINGS = {"sfseg": ".ckpt", "transformers": "", "mmseg": ".pth"}
"""What a network may become, and how the name of its file ends; of a folder, in nothing."""

NOT_RUN = "names, shapes and values of all tensors were compared; mmseg itself was not run"


def main() -> None:
    """Entry point of ``sfseg-convert``."""
    command(convert, "convert")


def convert(cfg: DictConfig) -> None:
    """Write a network under other names, once it is known to be the same.

    Raises:
        ConfigError: a setting that cannot be, a network that the other side has not, or one that
            would compute something else there.
        OutputError: the disk takes nothing.
    """
    from sfseg.runs.quiet import quiet_lightning

    quiet_lightning()
    require_flags(cfg, "overwrite")
    output = place(cfg)
    source = as_typed(cfg, "source")
    if cfg.to == "sfseg":
        to_sfseg(source, output, given_classes(cfg))
    elif cfg.classes is not None:
        raise ConfigError(f"classes={cfg.classes} is for to=sfseg; a checkpoint names its own")
    elif cfg.to == "transformers":
        to_transformers(source, output)
    else:
        to_mmseg(source, output)


def place(cfg: DictConfig) -> Path:
    """Where the network is written.

    Raises:
        ConfigError: something is there, or it would be called as what it is not.
    """
    from sfseg.storage.atomic import NAMELESS, file_in_the_way

    if cfg.to not in ENDINGS:
        raise ConfigError(f"to must be one of {', '.join(ENDINGS)}, got {cfg.to}")
    output, ending = Path(as_typed(cfg, "output")).expanduser(), ENDINGS[cfg.to]
    if ending and output.suffix != ending:
        raise ConfigError(
            f"output must be a file that ends in {ending} for to={cfg.to}, got {output}"
        )
    if output.name in NAMELESS:
        raise ConfigError(f"output={output} must be a folder with a name of its own")
    if output.is_dir() if ending else output.is_file():
        kinds = ("file", "folder") if ending else ("folder", "file")
        raise ConfigError(
            f"output={output} exists, and to={cfg.to} writes a {kinds[0]} where a {kinds[1]} is; "
            "choose another"
        )
    if not ending:
        require_replaceable(output)
    if output.exists() and not cfg.overwrite:
        raise ConfigError(f"output={output} exists; choose another or set overwrite=true")
    if (file := file_in_the_way(output.parent)) is not None:
        raise ConfigError(f"output={output} cannot be: {file} is a file; choose another")
    return output


def require_replaceable(folder: Path) -> None:
    """Refuse a folder that more than the files of a conversion would be lost of.

    Raises:
        ConfigError: names a file that nobody wants to lose.
    """
    from sfseg.conversion.folder import WRITTEN

    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if foreign := [name for name in found if name not in WRITTEN]:
        raise ConfigError(
            f"output={folder} holds other files, such as {foreign[0]}, and stays as it is; choose "
            "a new folder"
        )


def given_classes(cfg: DictConfig) -> "LabelSpace | None":
    """The classes that the command line gives.

    Raises:
        ConfigError: neither a built-in label space nor a file of one.
    """
    from sfseg.data.classes_file import load_label_space

    if cfg.classes is None:
        return None
    try:
        return load_label_space(as_typed(cfg, "classes"))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def require_transformers() -> None:
    """Refuse what needs transformers where that is not installed.

    Raises:
        ConfigError: says how to install it.
    """
    from importlib.util import find_spec

    if find_spec("transformers") is None:
        raise ConfigError(
            "a network of transformers is compared with ours there, which needs it: "
            "pip install 'sfseg[convert]'"
        )


def to_sfseg(source: str, output: Path, labels: "LabelSpace | None") -> None:
    """Write a checkpoint that all commands read.

    Raises:
        ConfigError: see :func:`convert`.
    """
    from sfseg.conversion.folder import read
    from sfseg.runs.converted import write_converted
    from sfseg.sharing.address import hub_address
    from sfseg.sharing.shared_model import shared_folder

    if Path(source).expanduser().is_file():
        from_file(Path(source).expanduser(), output, labels)
        return
    if hub_address(source, "source") or shared_folder(Path(source).expanduser()):
        raise ConfigError(
            f"source={source} is a shared model of sfseg, which all commands read as it is; choose "
            "to=transformers or to=mmseg"
        )
    require_transformers()
    foreign = read(source, labels)
    settings = foreign.settings()
    write_converted(output, settings, foreign.labels, foreign.fill, source=source)
    say_settings(output, settings, foreign.labels)


def from_file(path: Path, output: Path, labels: "LabelSpace | None") -> None:
    """Write a file of mmsegmentation's names, or of DAFormer's, as a checkpoint.

    Raises:
        ConfigError: it is a checkpoint already, its network is none of ours or of other classes.
    """
    from sfseg.networks.weights.checkpoint import load_segmenter
    from sfseg.networks.weights.published import understood
    from sfseg.runs.checkpoints import stored_labels
    from sfseg.runs.converted import write_converted

    if stored_labels(path) is not None:
        raise ConfigError(
            f"source={path} is a checkpoint of sfseg, which all commands read as it is; choose "
            "to=transformers or to=mmseg"
        )
    found = understood(path, "source")
    if not found.is_plain:
        raise ConfigError(
            f"source={path} has more than a backbone and a head; give it to the commands as it "
            f"is: ckpt_path={path}"
        )
    labels = labels or classes_of(path, found.num_classes)
    if labels.num_classes != found.num_classes:
        raise ConfigError(
            f"source={path} has {found.num_classes} classes, {labels.name} {labels.num_classes}; "
            "give as many with classes="
        )
    settings = found.network()
    write_converted(
        output, settings, labels, lambda network: load_segmenter(network, path), source=str(path)
    )
    log.info(NOT_RUN)
    say_settings(output, settings, labels)


def classes_of(path: Path, num_classes: int | None) -> "LabelSpace":
    """The classes that a file names, or those of its number in this field.

    Raises:
        ConfigError: it names none, and nothing follows from their number.
    """
    from sfseg.conversion.labels import BY_HAND, label_space
    from sfseg.conversion.mmseg import classes_in
    from sfseg.labels import CITYSCAPES, SYNTHIA

    if (named := classes_in(path)) is not None:
        return label_space(*named, source=str(path))
    for space in (CITYSCAPES, SYNTHIA):
        if space.num_classes == num_classes:
            log.info("%s names no classes; its %d are taken for those of %s", path, num_classes,
                     space.name)  # fmt: skip
            return space
    raise ConfigError(f"source={path} has {num_classes} classes and no names for them; {BY_HAND}")


def say_settings(output: Path, settings: list[str], labels: "LabelSpace") -> None:
    """What a run must be told that starts from the file."""
    network = [word for word in settings if re.match(r"\+?backbone", word)]
    log.info("%s: %d classes of %s", output, labels.num_classes, labels.name)
    log.info("a run that starts from it: sfseg-train source_checkpoint=%s %s", output,
             " ".join(f"'{word}'" if "[" in word else word for word in network))  # fmt: skip


def restored_from(source: str) -> "Restored":
    """The network of a checkpoint, of a shared model, or of a file of another project.

    Raises:
        ConfigError: it is none.
    """
    from sfseg.runs.checkpoints import restore
    from sfseg.sharing.address import hub_address
    from sfseg.sharing.shared_model import shared_folder

    if hub_address(source, "source") is not None:
        return restore(source)
    path = Path(source).expanduser()
    if not path.is_file() and shared_folder(path) is None:
        raise ConfigError(
            f"source must be a checkpoint or a shared model where to is not sfseg, got {source}, "
            "which is neither; a folder of transformers has to become one first: to=sfseg"
        )
    return restore(path)


def to_transformers(source: str, output: Path) -> None:
    """Write a folder that a class of transformers opens.

    Raises:
        ConfigError: see :func:`convert`.
    """
    from sfseg.conversion.folder import architecture_of, write
    from sfseg.conversion.preprocessing import Preprocessing
    from sfseg.data.geometry import EvalView
    from sfseg.storage.atomic import output_to, write_folder

    require_transformers()
    restored = restored_from(source)
    architecture = architecture_of(restored.network)
    size = EvalView(size=restored.config.data.eval_size).size
    network = cast("Segmenter", restored.network)
    prepared = Preprocessing.of(network, size)
    with output_to(output):
        write_folder(
            output, lambda folder: write(network, restored.labels, prepared, folder), replace=True
        )
    log.info("%s: transformers.%s.from_pretrained opens it", output, architecture.name)


def to_mmseg(source: str, output: Path) -> None:
    """Write a file under mmsegmentation's names.

    Raises:
        ConfigError: see :func:`convert`.
    """
    from sfseg.conversion.mmseg import parts_of, write
    from sfseg.storage.atomic import output_to, write_whole

    restored = restored_from(source)
    backbone, head = parts_of(restored.network)
    network = cast("Segmenter", restored.network)
    with output_to(output):
        write_whole(output, lambda file: write(network, restored.labels, file))
    log.info(NOT_RUN)
    for what, part in (("backbone", backbone), ("decode_head", head)):
        words = ", ".join(f"{key}={value!r}" for key, value in part.config.items())
        log.info("%s of %s: dict(%s)", what, part.code, words)
    log.info("%s: %d classes", output, restored.labels.num_classes)


if __name__ == "__main__":
    main()
