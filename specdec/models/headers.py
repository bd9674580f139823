"""Headers of models on Hugging Face without their weights: a few megabytes by HTTP range.

What reads GGUF files reads paths. So the header is put into a file of the model's full length whose other bytes are not
there (a sparse file: it takes the header's room on the disk), in a folder that goes when the command ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from specdec.errors import SpecdecError
from specdec.llama.gguf import header_length
from specdec.models import hub
from specdec.models.names import HubName, standing_in
from specdec.models.stores import hub_folder

_STEP = 4 << 20
_MOST = 256 << 20


@contextmanager
def headers_alone(names: Iterable[str], say: hub.Say) -> Iterator[dict[str, str]]:
    """Within it, models on Hugging Face that are not here stand for files with their headers alone.

    Gives the paths of these files, and for each the path that the model will have once it is downloaded.
    """
    missing = [name for name in names if HubName.parse(name).cached() is None]
    with TemporaryDirectory(prefix="specdec-") as folder:
        files: dict[str, Path] = {}
        later: dict[str, str] = {}
        for i, name in enumerate(missing):
            repository, model = hub.find(name)
            say(f"{name}: reading its header; to have it whole: specdec models get {name}")
            for file in model.files:
                _write(Path(folder, str(i), file), name, repository, file)
            files[name] = Path(folder, str(i), model.files[0])
            cached = hub_folder() / repository.folder / "snapshots" / repository.commit
            later[str(files[name])] = str(cached / model.files[0])
        with standing_in(files):
            yield later


def _write(path: Path, name: str, repository: hub.Repository, file: str) -> None:
    whole, data, step = repository.sizes[file], b"", _STEP
    while (length := header_length(data)) is None:
        if len(data) >= min(whole, _MOST):
            raise SpecdecError(f"{name}: {file} has no GGUF header that ends.", "Is it a GGUF file?")
        data += hub.read_start(name, repository, file, len(data), min(len(data) + step, whole))
        step *= 2
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as out:
        out.write(data[:length])
        out.truncate(whole)
