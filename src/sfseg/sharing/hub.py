"""Shared models of Hugging Face's hub: found there, and put there; its errors in words of ours."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path

from sfseg.errors import ConfigError, hub_reason
from sfseg.sharing.address import HubAddress, hub_address
from sfseg.sharing.shared_model import CARD, FILES, OTHERS, RECORD, WEIGHTS, shared_folder

log = logging.getLogger(__name__)
LOGIN = "`hf auth login`"
NEUTRAL = {".gitattributes"}
"""Files that a repository of the hub begins with."""
SHOWN = 5
Explanation = Callable[[HubAddress, str, Exception, str], str]
"""From an address, a setting, an error and its first line to what goes on after both."""


def find(place: str | PathLike[str], argument: str) -> Path | None:
    """The folder of a shared model, downloaded first if it is one of the hub.

    Args:
        place: an address, a folder, or the file of weights in one.
        argument: the setting, for messages.

    Returns:
        None where it is no folder: a file of another kind, or nothing.

    Raises:
        ConfigError: a folder or a repository without a shared model, or one that cannot be had.
    """
    if (address := hub_address(place, argument)) is not None:
        return download(address, argument)
    folder = shared_folder(place)
    if folder is None and Path(place).is_dir():
        raise ConfigError(_no_model(f"{argument}={place}", _names(Path(place))))
    return folder


def download(address: HubAddress, argument: str = "ckpt_path") -> Path:
    """Where the cache of the hub's library has the two files that a network is built from.

    Raises:
        ConfigError: they cannot be had; says what can be done.
    """
    from huggingface_hub import HfApi, snapshot_download

    with _explained(address, argument, _reading):
        folder = Path(
            snapshot_download(
                address.repo, revision=address.revision, allow_patterns=[WEIGHTS, RECORD]
            )
        )
        if shared_folder(folder) is None:
            names = HfApi().list_repo_files(address.repo, revision=address.revision)
            raise ConfigError(_no_model(f"{argument}={address}", names))
    log.info("%s: %s", address, folder)
    return folder


def require_writable(address: HubAddress, *, private: bool, overwrite: bool) -> str | None:
    """Refuse a repository that must not, or cannot, be written.

    Args:
        address: where the model shall be.
        private: nobody else may see it.
        overwrite: a repository may hold other things.

    Returns:
        The commit that the new one comes after; None where there is no repository yet.

    Raises:
        ConfigError: not logged in, no permission, a public repository of what shall be private, or
            one with other content.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    with _explained(address, "to", _writing):
        _require_permission(address, HfApi().whoami())
        try:
            info = HfApi().model_info(address.repo)
        except RepositoryNotFoundError:
            return None
    if private and not info.private:
        raise ConfigError(
            f"to={address} is a public repository, and private=true; make it private in its "
            f"settings ({address.page}/settings), or choose another name"
        )
    names = {file.rfilename for file in info.siblings or []}
    if RECORD not in names and (others := sorted(names - NEUTRAL)) and not overwrite:
        raise ConfigError(
            f"to={address} holds something else ({_listed(others)}); choose another name, or set "
            "overwrite=true to add the model to it"
        )
    return info.sha


def upload(
    address: HubAddress, folder: Path, *, private: bool, message: str, after: str | None
) -> str:
    """Put a shared model into a repository, which is made if need be, as one commit.

    Args:
        address: of the repository.
        folder: of the model.
        private: of a new repository.
        message: of the commit.
        after: see :func:`require_writable`.

    Returns:
        The address of the commit for a browser.

    Raises:
        ConfigError: it was refused; says what can be done.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, ModelCard

    with _explained(address, "to", _writing):
        # The hub looks at the front matter before anything is made.
        ModelCard.load(folder / CARD).validate(repo_type="model")
        HfApi().create_repo(address.repo, private=private, exist_ok=True)
        # `upload_folder` may make several commits: readers would find new weights, an old record.
        commit = HfApi().create_commit(
            address.repo,
            [CommitOperationAdd(name, str(folder / name)) for name in FILES],
            commit_message=message,
            parent_commit=after,
        )
    return str(commit.commit_url)


def _require_permission(address: HubAddress, me: dict[str, object]) -> None:
    owner = address.repo.partition("/")[0]
    orgs = me.get("orgs")
    own = [str(me["name"])] + [
        str(org["name"])
        for org in (orgs if isinstance(orgs, list) else [])
        if org.get("roleInOrg") != "read"
    ]
    if owner not in own:
        raise ConfigError(
            f"to={address} is not yours to write: you are logged in as {own[0]}, who may write to "
            f"{', '.join(own)}; say to=hf://{own[0]}/{address.repo.partition('/')[2]}, or call "
            f"{LOGIN} as another"
        )
    auth = me.get("auth")
    token = auth.get("accessToken") if isinstance(auth, dict) else None
    if isinstance(token, dict) and token.get("role") == "read":
        raise ConfigError(
            f"to={address}: the token of {own[0]} may only read; make one that may write on "
            f"huggingface.co/settings/tokens and call {LOGIN}"
        )


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _no_model(where: str, names: Sequence[str]) -> str:
    """That a folder or a repository holds no shared model, and what may be meant."""
    text = (
        f"{where} is no file, and holds no shared model, which is {WEIGHTS} and {RECORD}; it has "
        f"{_listed(names) or 'no files'}"
    )
    if "checkpoints" in names:
        return f"{text}; of a run, give checkpoints/last.ckpt in it"
    if any(fnmatch(name, other) for name in names for other in OTHERS):
        return f"{text}; sfseg-convert reads models of transformers and of mmseg"
    return f"{text}; check the name"


@contextmanager
def _explained(address: HubAddress, argument: str, explain: Explanation) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    # Of a network, any of its errors.
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        said = f"{type(error).__name__}: {lines[0] if lines else ''}"
        raise ConfigError(
            f"{argument}={address} {explain(address, argument, error, said)}"
        ) from error


def _status(error: Exception) -> int | None:
    """What the hub has answered with, if it has."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _reading(address: HubAddress, argument: str, error: Exception, said: str) -> str:
    from huggingface_hub.errors import RevisionNotFoundError

    local = (
        f"or download {WEIGHTS} and {RECORD} in a browser and give their folder: "
        f"{argument}=<folder>"
    )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"has no revision {address.revision}: it must be a branch, a tag or a commit of "
            f"{address.page}/commits/main"
        )
    reason = hub_reason(error)
    if reason == "gated":
        return (
            f"is gated: its owner asks for consent. Agree on {address.page} and call {LOGIN}; "
            f"{local}"
        )
    if reason == "missing":
        return (
            "is not on huggingface.co, or private: names are case-sensitive; of a private one of "
            f"yours call {LOGIN}, {local}"
        )
    if reason == "offline":
        return (
            "is not in the cache, and huggingface.co cannot be reached (or HF_HUB_OFFLINE is set); "
            f"go online once, {local}"
        )
    return f"cannot be had: {said}; try again, {local}"


def _writing(address: HubAddress, argument: str, error: Exception, said: str) -> str:
    from huggingface_hub.errors import LocalTokenNotFoundError

    local = f"or write the same files to a folder: {argument}=<folder>"
    if isinstance(error, LocalTokenNotFoundError) or _status(error) == 401:
        return f"needs a login: call {LOGIN} with a token that may write; {local}"
    if _status(error) == 403:
        return (
            f"may not be written with this token ({said}); make one that may on "
            f"huggingface.co/settings/tokens and call {LOGIN}; {local}"
        )
    if _status(error) in (409, 412):
        return f"has changed meanwhile ({said}); look at {address.page} and repeat the command"
    if hub_reason(error) == "offline":
        return f"needs the network, and huggingface.co cannot be reached; try again, {local}"
    return f"was refused by the hub: {said}; {local}"
