"""Child process of the AMX probe: decode a tiny quantised model with the extra buffer types on. Dies or exits 0."""

from __future__ import annotations

import tempfile
from pathlib import Path


def main() -> None:
    import numpy as np

    from specdec.llama.model import LlamaModel
    from specdec.llama.target import LlamaTarget
    from specdec.spec import ModelOptions
    from specdec.testing.nano import write_nano

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.gguf"
        write_nano(path, "dense", "Q8_0")
        model = LlamaModel(path, ModelOptions(threads=2, gpu_layers=0, device="none"), extra_buffers=True)
        target = LlamaTarget(model, n_ctx=256)
        for n in (1, 2, 33):
            target.decode(np.arange(3, 3 + n, dtype=np.int32), 0, "last")
            target.memory.clear()


if __name__ == "__main__":
    main()
