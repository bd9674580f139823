"""Trained weights -> checkpoint folder -> GGUF (F16), through llama.cpp's own converter.

    python export.py --weights DIR --tokenizers DIR --source DIR --out DIR [--only target]

WEIGHTS holds trunk.pt, mtp.pt, draft.pt, other.pt (or split parts `trunk.pt.0`, ...); SOURCE is the unpacked
llama-cpp-python source package. Writes target-f16.gguf, draft-f16.gguf and other-f16.gguf.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

NAMES = {
    "target": "specdec demo target",
    "draft": "specdec demo draft",
    "other": "specdec demo draft, other vocabulary",
}


def load(folder: Path, name: str) -> dict[str, Any]:
    """A saved state, whole or in parts."""
    import torch

    parts = sorted(folder.glob(f"{name}.pt.*"), key=lambda p: int(p.suffix[1:]))
    data = b"".join(p.read_bytes() for p in parts) if parts else (folder / f"{name}.pt").read_bytes()
    state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
    return state


def target_config() -> dict[str, Any]:
    """config.json of the target."""
    from model import TargetConfig

    config = dataclasses.asdict(TargetConfig())
    rope = {
        "rope_type": "default",
        "rope_theta": config.pop("rope_theta"),
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
        "partial_rotary_factor": config.pop("partial_rotary_factor"),
    }
    kinds = ["full_attention" if (i + 1) % 4 == 0 else "linear_attention" for i in range(config["num_hidden_layers"])]
    return config | {
        "architectures": ["Qwen3_5MoeForCausalLM"],
        "model_type": "qwen3_5_moe_text",
        "rope_parameters": rope,
        "layer_types": kinds,
        "full_attention_interval": 4,
        "mtp_num_hidden_layers": 1,
        "attention_bias": False,
        "hidden_act": "silu",
    }


def draft_config(which: str) -> dict[str, Any]:
    """config.json of a draft."""
    import dense

    config = dataclasses.asdict(dense.DRAFT if which == "draft" else dense.OTHER_VOCABULARY)
    return config | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]},
    }


def checkpoint(args: argparse.Namespace, which: str) -> Path:
    """Write config, weights and tokenizer as a published checkpoint has them."""
    from safetensors.torch import save_file
    from transformers import PreTrainedTokenizerFast

    folder: Path = args.out / f"hf-{which}"
    folder.mkdir(parents=True, exist_ok=True)
    if which == "target":
        state = {f"model.{k}": v for k, v in load(args.weights, "trunk").items()}
        state |= {f"mtp.{k}": v for k, v in load(args.weights, "mtp").items()}
        config = target_config()
    else:
        state = {f"model.{k}": v for k, v in load(args.weights, which).items()}
        config = draft_config(which)
    config |= {"tie_word_embeddings": True, "eos_token_id": 0, "torch_dtype": "float16"}
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(args.tokenizers / f"bpe-{config['vocab_size']}.json"),
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.save_pretrained(folder)
    return folder


def convert(source: Path, folder: Path, out: Path, outtype: str) -> None:
    """Run the converter; it knows published tokenizers by hash only, so the pre-tokenizer is named here."""
    llama = source / "vendor" / "llama.cpp"
    sys.path[:0] = [str(llama), str(llama / "gguf-py")]
    import conversion.base  # type: ignore[import-not-found]

    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen35"
    name = NAMES[folder.name.removeprefix("hf-")]
    sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outfile", str(out), "--outtype", outtype, "--model-name", name]
    runpy.run_path(str(llama / "convert_hf_to_gguf.py"), run_name="__main__")


def main() -> None:
    """Each model in two processes: the converter brings its own gguf package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--weights", "--tokenizers", "--source", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--only", choices=list(NAMES))
    parser.add_argument("--outtype", default="f16", choices=["f16", "f32"])
    parser.add_argument("--stage", choices=["convert"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    for which in [args.only] if args.only else list(NAMES):
        if args.stage:
            convert(args.source, args.out / f"hf-{which}", args.out / f"{which}-{args.outtype}.gguf", args.outtype)
        else:
            checkpoint(args, which)
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only", which, "--stage", "convert"], check=True)


if __name__ == "__main__":
    main()
