"""Hugging Face through huggingface_hub (the extra ``hf``): what a repository holds, downloads into the hub's own cache.

The library keeps nothing of a download that is interrupted (2.x writes to a file of a random name and removes it), so
the bytes are fetched here, with its functions, into ``<etag>.part`` beside the blob: the next try goes on where this one
stopped. The whole is checked against its SHA-256, moved to its place, and the library makes the rest of the entry.
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specdec.errors import SpecdecError
from specdec.models.names import HubName, model_path
from specdec.models.quants import RepoModel, choose, listed, models_in, size
from specdec.models.stores import hub_folder

Say = Callable[[str], None]
_LOG_IN = "hf auth login (or set HF_TOKEN)."


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at its newest commit: its GGUF models by size; of each file its bytes and, if it is large, SHA-256."""

    name: str
    commit: str
    models: list[RepoModel]
    sizes: dict[str, int]
    digests: dict[str, str]

    @property
    def folder(self) -> str:
        """Its folder in the cache."""
        return f"models--{self.name.replace('/', '--')}"

    @property
    def blobs(self) -> Path:
        """Where the cache keeps its files' bytes, by SHA-256."""
        return hub_folder() / self.folder / "blobs"


def look_up(name: str) -> Repository:
    """Ask what the repository of a name holds."""
    repository = HubName.parse(name).repository
    hub = _library()
    with _explained(name):
        info = hub.HfApi(library_name="specdec").model_info(repository, files_metadata=True)
        sizes = {s.rfilename: int(s.size or 0) for s in info.siblings or ()}
        digests = {s.rfilename: str(s.lfs.sha256) for s in info.siblings or () if s.lfs}
    return Repository(repository, str(info.sha), models_in(sizes), sizes, digests)


def find(name: str) -> tuple[Repository, RepoModel]:
    """The one model of its repository that a name asks for; otherwise an error that lists what there is."""
    wanted, repository = HubName.parse(name), look_up(name)
    found = choose(repository.models, wanted.quant, wanted.file, name)
    if found is None:
        raise SpecdecError(f"{name}: not there.", f"The repository has: {listed(name, repository.models)}.")
    return repository, found


def fetch(name: str, say: Say) -> Path:
    """The file that a name stands for: from the cache without asking anyone, else downloaded.

    Raises ``SpecdecError`` in one line: no such repository, file or quantisation, no access, no network, no room.
    """
    here = HubName.parse(name).cached()
    if here is not None:
        return here
    repository, model = find(name)
    hub = _library()
    _refuse_without_room(name, repository, model, say)
    with _explained(name):
        for file in model.files:
            _blob(hub, repository, file, name)
            hub.hf_hub_download(repository.name, file, cache_dir=hub_folder(), library_name="specdec")
    return model_path(name)


def read_start(name: str, repository: Repository, file: str, start: int, end: int) -> bytes:
    """Bytes ``start`` to ``end`` (not included) of a file, by HTTP range."""
    hub = _library()
    headers = hub.utils.build_hf_headers(library_name="specdec") | {"Range": f"bytes={start}-{end - 1}"}
    headers["Accept-Encoding"] = "identity"
    with _explained(name):
        answer = hub.get_session().get(
            hub.hf_hub_url(repository.name, file, revision=repository.commit), headers=headers
        )
        hub.utils.hf_raise_for_status(answer)
    if answer.status_code != 206:
        raise SpecdecError(f"{name}: the server sends no parts of files.", f"Get it whole: specdec models get {name}")
    return bytes(answer.content)


def _blob(hub: Any, repository: Repository, file: str, name: str) -> None:
    """Download a file's bytes to their place in the cache, going on where an earlier try stopped."""
    url = hub.hf_hub_url(repository.name, file, revision=repository.commit)
    etag = hub.get_hf_file_metadata(url, library_name="specdec").etag
    expected = repository.sizes[file]
    if expected > hub.constants.MAX_HTTP_DOWNLOAD_SIZE:
        return  # plain HTTP does not serve it: the library has another way
    blob = repository.blobs / str(etag)
    lock = hub_folder() / ".locks" / repository.folder / f"{etag}.lock"
    for parent in (blob.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with hub.utils.WeakFileLock(lock):  # the library's own: it waits for us as we for it
        if blob.exists():
            return
        part = _part(blob)
        with open(part, "ab") as out:
            headers = hub.utils.build_hf_headers(library_name="specdec")
            hub.file_download.http_get(
                url, out, resume_size=out.tell(), headers=headers, expected_size=expected, displayed_filename=file
            )
        _check_sum(part, str(etag), name)
        part.replace(blob)


def _check_sum(part: Path, etag: str, name: str) -> None:
    """Large files have their SHA-256 as etag; small ones, kept in git itself, another."""
    if not re.fullmatch(r"[0-9a-f]{64}", etag):
        return
    digest = hashlib.sha256()
    with open(part, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() != etag:
        part.unlink()
        raise SpecdecError(f"{name}: what arrived is damaged and was removed.", "Download it again.")


def _refuse_without_room(name: str, repository: Repository, model: RepoModel, say: Say) -> None:
    folder = hub_folder()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    missing = sum(repository.sizes[f] - _arrived(repository.blobs, repository.digests.get(f)) for f in model.files)
    if missing > free:
        raise SpecdecError(
            f"{name} needs {size(missing)} in {folder}, {size(free)} are free.",
            "Make room, or set HF_HUB_CACHE to a folder on another disk.",
        )
    in_files = f" in {len(model.files)} files" if len(model.files) > 1 else ""
    begun = f", {size(missing)} of it missing" if missing < model.bytes else ""
    say(f"Downloading {name}: {size(model.bytes)}{in_files}{begun}, to {folder} ({size(free)} free)")


def _arrived(blobs: Path, digest: str | None) -> int:
    """Bytes of a file that an earlier try left."""
    if digest is None:
        return 0
    blob = blobs / digest
    found = blob if blob.exists() else _part(blob)
    return found.stat().st_size if found.exists() else 0


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.part")


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.file_download
    except ImportError as error:
        raise SpecdecError(
            f"Models on Hugging Face need huggingface_hub ({error}).", 'Install it: pip install "specdec[hf]"'
        ) from error
    return huggingface_hub


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """The library's errors and those of the network in one line; errors of this machine's files pass."""
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise SpecdecError(
            f"{name} is not on this machine, and HF_HUB_OFFLINE forbids to ask.", "Unset HF_HUB_OFFLINE."
        ) from error
    except errors.GatedRepoError as error:
        raise SpecdecError(
            f"{name}: the repository is gated, and this account may not read it.",
            f"Accept its terms on its page, then: {_LOG_IN}",
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(name, error) from error
    except errors.HTTPError as error:  # of the HTTP library: no connection, a timeout
        raise _unreachable(name, error) from error
    except errors.HFValidationError as error:
        raise SpecdecError(f"{name}: {error}") from error
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise _unreachable(name, error) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpecdecError(
                f"{name}: the disk is full.", "Make room and start again: it goes on where it stopped."
            ) from error
        if error.filename or error.errno:
            raise
        raise SpecdecError(f"{name}: {error}", "Try again: it goes on where it stopped.") from error


def _refused(name: str, error: Any) -> SpecdecError:
    from huggingface_hub import errors

    status = error.response.status_code
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:  # the hub does not tell them apart
        what, hint = "there is no such repository, or it is private", f"Check the name; for a private one: {_LOG_IN}"
    elif status == 403:
        what, hint = "access was refused (403)", f"Does the token allow it? {_LOG_IN}"
    else:
        what, hint = f"Hugging Face answered {status}", "See the repository's page, or try later."
    return SpecdecError(f"{name}: {what}.", hint)


def _unreachable(name: str, error: Exception) -> SpecdecError:
    reason = str(error) or type(error).__name__
    return SpecdecError(
        f"{name} is not on this machine, and Hugging Face cannot be reached ({reason}).",
        "Is there a network, a proxy? A download goes on where it stopped.",
    )
