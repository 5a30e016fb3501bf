"""``sfseg-push``: a trained network for others, in a folder or on Hugging Face's hub."""

import json
import logging
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from sfseg import __version__
from sfseg.config.composition import as_typed, command, require_flags
from sfseg.errors import ConfigError

if TYPE_CHECKING:
    from sfseg.runs.checkpoints import Restored, Trained
    from sfseg.sharing.card import Licence

log = logging.getLogger(__name__)

IDENTIFIER = r"[a-z0-9][a-z0-9.-]*"
OTHER = "other"


def main() -> None:
    """Entry point of ``sfseg-push``."""
    command(push, "push")


def push(cfg: DictConfig) -> None:
    """Share a checkpoint's network; whatever can be refused is, before anything is written.

    Raises:
        ConfigError: a setting or a checkpoint that cannot be, or a place that must not be written.
        OutputError: the disk takes nothing.
    """
    from sfseg.runs.checkpoints import read_trained, rebuilt
    from sfseg.runs.facts import facts_of
    from sfseg.runs.quiet import quiet_lightning
    from sfseg.sharing.address import hub_address
    from sfseg.sharing.card import card_text, without_licence
    from sfseg.sharing.hub import require_writable, upload
    from sfseg.sharing.results import scored_sets
    from sfseg.sharing.shared_model import require_free

    quiet_lightning()
    require_flags(cfg, "private", "overwrite")
    to = as_typed(cfg, "to")
    address, licence = hub_address(to, "to"), licence_of(cfg)
    folder = Path(to).expanduser()
    if address is None:
        require_free(folder, overwrite=cfg.overwrite)
    elif address.revision is not None:
        raise ConfigError(
            f"to={to} must name no revision: the model becomes the newest of the main branch; say "
            f"to=hf://{address.repo}, then `hf repos tag create {address.repo} {address.revision}`"
        )
    source = f"ckpt_path={cfg.ckpt_path}"
    trained = read_trained(cfg.ckpt_path)
    restored = rebuilt(trained, source)
    record = record_of(trained, restored, results_beside(Path(cfg.ckpt_path), trained))
    results = record["results"] or {}
    scores = scored_sets(results, restored.labels.classes, f"{source}: its results.json")
    facts = facts_of(restored.config, folder.name)
    if address is not None and licence.identifier is None:
        raise ConfigError(without_licence(facts))
    text = card_text(
        facts,
        restored.labels,
        scores,
        selection=restored.selection,
        licence=licence,
        address=str(address or to),
    )
    if address is None:
        write(folder, restored, record, text)
        return
    after = require_writable(address, private=cfg.private, overwrite=cfg.overwrite)
    with TemporaryDirectory() as beside:
        made = Path(beside) / "model"
        write(made, restored, record, text)
        message = cfg.message or f"{facts.method[0]} on {facts.backbone}, step {trained.step}"
        page = upload(address, made, private=cfg.private, message=message, after=after)
    log.info("%s: %s; others load it with ckpt_path=%s", address, page, address)


def licence_of(cfg: DictConfig) -> "Licence":
    """The licence that is given for the weights.

    Raises:
        ConfigError: no identifier of the hub's, or another licence that is not named.
    """
    from sfseg.sharing.card import Licence

    given = cfg.license
    if given is not None and not re.fullmatch(IDENTIFIER, str(given)):
        raise ConfigError(
            f"license must be an identifier of huggingface.co/docs/hub/repositories-licenses, such "
            f"as cc-by-nc-4.0, or other, got {given}"
        )
    named = [cfg.license_name, cfg.license_link]
    if (given == OTHER) != all(named) or (given != OTHER and any(named)):
        raise ConfigError(
            "license=other, license_name and license_link belong together, got "
            f"license={given}, license_name={named[0]}, license_link={named[1]}"
        )
    return Licence(given, *named)


def record_of(trained: "Trained", restored: "Restored", results: Any) -> dict[str, Any]:
    """What the shared model says of itself; what was private is taken out, and logged.

    Raises:
        ConfigError: a configuration that JSON cannot hold.
    """
    from sfseg.sharing.privacy import cleaned

    config, taken = cleaned(trained.record["config"])
    if taken:
        log.info("taken out of the configuration: %s", ", ".join(taken))
    version = str(trained.record.get("version", "unknown"))
    if version != __version__:
        log.warning(
            "the checkpoint is of sfseg %s, this is %s: the record is shared as this one reads it",
            version, __version__,
        )  # fmt: skip
    record = {
        "version": version,
        "shared_with": __version__,
        "labels": restored.labels.to_dict(),
        "config": config,
        "selection": trained.selection,
        "step": trained.step,
        "results": results,
    }
    if json.loads(json.dumps(record)) != record:
        raise ConfigError(
            "the run's configuration has keys that are no text, which a shared record cannot hold"
        )
    return record


def results_beside(path: Path, trained: "Trained") -> Any:
    """The scores of just these weights: of a shared model its own, or those of its run's folder.

    None where there are none, or where the run has evaluated other weights; a warning says so.

    Raises:
        ConfigError: they are damaged.
    """
    from sfseg.report.scores_file import RESULTS
    from sfseg.runs.folder import FINISHED, read_record
    from sfseg.sharing.results import read_results
    from sfseg.storage.manifest import LAST

    if "results" in trained.record:
        return trained.record["results"]
    run = path.absolute().parent.parent
    found = run / RESULTS
    if FINISHED not in (read_record(run) or {}) or not found.is_file():
        log.warning("no %s of a finished run: the card says that it is not evaluated", found)
        return None
    content = read_results(found)
    chosen = next((part.get("selection") for part in content.values()), None)
    is_same = path.name == LAST if chosen is None else chosen["step"] == trained.step
    if not is_same:
        log.warning(
            "%s is of other weights than %s: the card says that it is not evaluated", found, path
        )
    return content if is_same else None


def write(folder: Path, restored: "Restored", record: dict[str, Any], card: str) -> None:
    """Write the folder, once what was written is known to be the same network.

    Raises:
        ConfigError: it is not.
        OutputError: the disk takes nothing.
    """
    from sfseg.runs.checkpoints import restore
    from sfseg.sharing.shared_model import write_shared
    from sfseg.storage.atomic import output_to

    tensors = restored.network.state_dict()

    def check(written: Path) -> None:
        import torch

        again = restore(written).network.state_dict()
        if not all(torch.equal(again[name], tensor) for name, tensor in tensors.items()):
            raise OSError(f"{written} does not read as it was written")

    with output_to(folder):
        write_shared(folder, tensors, record, card, check)
    size = sum(path.stat().st_size for path in folder.iterdir())
    log.info("%s: %.1f MB, of %d tensors", folder, size / 1e6, len(tensors))


if __name__ == "__main__":
    main()
