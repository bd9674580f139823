"""F16 GGUF -> the shipped quant mix, with llama.cpp's own quantiser.

    python quantize.py IN-f16.gguf OUT.gguf [--embedding q8_0] [--experts q4_0] [--rest q5_0] [--shared q8_0]

Training rounds the experts to Q4_0 and the other matrices to Q5_0 (optim.py), so these formats lose next to nothing.
"""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path

import llama_cpp

TYPES = {"f16": 1, "q4_0": 2, "q5_0": 6, "q5_1": 7, "q8_0": 8}
FTYPE = {"q4_0": 2, "q8_0": 7, "q5_0": 8, "q5_1": 9, "f16": 1}


class Override(ctypes.Structure):
    """llama_model_tensor_override."""

    _fields_ = [("pattern", ctypes.c_char_p), ("type", ctypes.c_int)]


def quantize(source: Path, out: Path, embedding: str, experts: str, shared: str, rest: str) -> None:
    """Write `out`; tensors that match no pattern get `rest`, and norms stay float32."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.pure = 1, FTYPE[rest], True
    params.token_embedding_type = params.output_tensor_type = TYPES[embedding]
    rows = [
        (b"ffn_(up|down|gate|gate_up)_exps", experts),
        (b"ffn_(up|down|gate)_shexp", shared),
        (b"ssm_(alpha|beta)", "q8_0"),
    ]
    table = (Override * (len(rows) + 1))(*(Override(p, TYPES[t]) for p, t in rows), Override(None, 0))
    params.tt_overrides = ctypes.cast(table, type(params.tt_overrides))
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    if code:
        raise SystemExit(f"quantising failed with code {code}")
    print(out.name, out.stat().st_size, "bytes")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--embedding", default="q8_0", choices=list(TYPES))
    parser.add_argument("--experts", default="q4_0", choices=list(TYPES))
    parser.add_argument("--shared", default="q5_0", choices=list(TYPES))
    parser.add_argument("--rest", default="q5_0", choices=list(FTYPE))
    args = parser.parse_args()
    llama_cpp.llama_backend_init()
    quantize(args.source, args.out, args.embedding, args.experts, args.shared, args.rest)


if __name__ == "__main__":
    main()
