"""Options that several commands share: one home for each option's name, help and unit. Names are llama.cpp's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from specdec.cli import complete

Results = Annotated[Path, typer.Option("--results", help="Folder that holds the runs.")]
DEFAULT_RESULTS = Path("results")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of tables.")]
Watch = Annotated[
    bool,
    typer.Option("--watch", help="Show each text above the progress, its tokens marked as by specdec show; terminal."),
]

Target = Annotated[
    str,
    typer.Option("--target", "-m", help="The target model: a GGUF file, hf:OWNER/REPO:QUANT, ollama:NAME, or demo."),
]
Strategies = Annotated[
    str,
    typer.Option(
        "--strategies",
        "-s",
        help="Comma list, e.g. ngram or 'ngram-mod(n_match=16),ngram-simple'.",
        autocompletion=complete.strategies,
    ),
]
StrategyFiles = Annotated[
    list[str],
    typer.Option("--strategy", help="Your own strategy, ./file.py:Class (repeatable); it joins the comparison."),
]
MoreStrategyFiles = Annotated[
    list[str],
    typer.Option(
        "--strategy",
        help="Your own strategy, ./file.py:Class (repeatable); it joins those of --strategies, or the default ones.",
    ),
]
DraftFile = Annotated[
    str,
    typer.Option(
        "--draft",
        "-md",
        help="The draft model of the strategy draft, named as --target (with the demo target: its own).",
    ),
]
MtpFile = Annotated[
    str, typer.Option("--mtp-model", help="A GGUF with the MTP layer alone, for mtp; named as --target.")
]
Workloads = Annotated[
    str,
    typer.Option(
        "--workloads",
        "-w",
        help="Comma list of workloads or length classes; default all.",
        autocompletion=complete.workloads,
    ),
]
PromptFiles = Annotated[list[str], typer.Option("--prompts", help="Your own prompts, JSON Lines (repeatable).")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Prompts a workload; 0 for all.")]
NPredict = Annotated[int, typer.Option("--n-predict", "-n", help="Most tokens of an answer.")]
Repeats = Annotated[int, typer.Option("--repeats", help="Generations of each prompt under each strategy.")]
Launches = Annotated[
    int, typer.Option("--launches", help="Repeat everything in so many fresh processes, the model loaded anew in each.")
]
LaunchPause = Annotated[
    float, typer.Option("--launch-pause", help="Minutes between launches: what the machine does meanwhile counts, too.")
]
CellTimeout = Annotated[
    float, typer.Option("--cell-timeout", help="Seconds after which a generation counts as hung; 0: by measured speed.")
]
RamLimit = Annotated[
    int,
    typer.Option("--ram-limit", help="MiB of RAM for a worker process beside file-mapped weights; 0: what is free."),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="Answers of 64 tokens, prompts one after another until on or off and the best strategy are settled, or 5"
        " minutes have passed. Right 9 times in 10; without it the whole set runs.",
    ),
]
Warmup = Annotated[int, typer.Option("--warmup", help="Warm-up prompts under each strategy; stored, never counted.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of sampling.")]
RollbackModes = Annotated[
    str,
    typer.Option(
        "--rollback",
        help="Undo in recurrent memory: auto, snapshots, checkpoint, checkpoint-host; a comma list compares.",
    ),
]
RollbackMode = Annotated[
    str, typer.Option("--rollback", help="Undo in recurrent memory: auto, snapshots, checkpoint or checkpoint-host.")
]
Snapshots = Annotated[
    int | None, typer.Option("--snapshots", help="Recurrent states kept for rollback; default by draft length.")
]
Synthetic = Annotated[
    str,
    typer.Option(
        "--synthetic",
        help="Accept drafts at these rates instead of by the text, as 0.88,0.72: the chance that the first 1, 2 ... draft"
        " tokens are all accepted. Costs stay real; rows are labelled synthetic.",
    ),
]
Trace = Annotated[
    str,
    typer.Option(
        "--trace",
        help="Decode this recording's texts (specdec record) instead of the target's own: costs are the target's, text and"
        " acceptance the recording's. Drafts of a model come from it too, or follow --synthetic.",
    ),
]
IgnoreEos = Annotated[
    bool, typer.Option("--ignore-eos", help="Generate the full length (flatters n-grams where the model would loop).")
]
Stop = Annotated[list[str], typer.Option("--stop", help="Stop at this string (repeatable).")]
Thinking = Annotated[bool, typer.Option("--thinking/--no-thinking", help="Let the chat template switch thinking on.")]
CarryState = Annotated[
    bool, typer.Option("--carry-state", help="Strategies keep what they learnt from prompt to prompt.")
]

Engine = Annotated[
    str, typer.Option("--engine", help="Who answers: specdec, or llama-server (llama.cpp's own, started by specdec).")
]
WithLlamaServer = Annotated[
    bool, typer.Option("--with-llama-server", help="Both engines on one table, with the ratio of their speeds.")
]
LlamaServer = Annotated[
    str,
    typer.Option("--llama-server", help="The llama-server to use; else SPECDEC_LLAMA_SERVER, else the one on PATH."),
]
CountExperts = Annotated[
    bool, typer.Option("--count-experts", help="Store the distinct experts of each layer and pass; slows passes.")
]

SamplingMode = Annotated[str, typer.Option("--sampling", help="greedy, or model: what the GGUF recommends.")]
Temp = Annotated[float | None, typer.Option("--temp", "--temperature", help="Temperature; 0 is greedy.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Keep the k most probable tokens; 0 is off.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Keep the tokens that make up this probability; 1 is off.")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Drop tokens below this share of the best one; 0 is off.")]

Cards = Annotated[
    str,
    typer.Option("--card", help="Emulate cards of these sizes, as 8GB,12GB: the split is planned, the rest held back."),
]
VramLimit = Annotated[
    int, typer.Option("--vram-limit", help="MiB of VRAM that the run may use; the rest is held back. 0: all.")
]
Reserve = Annotated[int, typer.Option("--reserve", help="MiB of a card left to the driver and the desktop.")]
GpuLayers = Annotated[int, typer.Option("--gpu-layers", "--n-gpu-layers", "-ngl", help="Layers in VRAM; -1 for all.")]
NCpuMoe = Annotated[int, typer.Option("--n-cpu-moe", "-ncmoe", help="Keep the experts of the first N layers in RAM.")]
OverrideTensor = Annotated[list[str], typer.Option("--override-tensor", "-ot", help="PATTERN=BUFFER (repeatable).")]
LoadMode = Annotated[str, typer.Option("--load-mode", "-lm", help="auto, mmap or none.")]
NoMmap = Annotated[bool, typer.Option("--no-mmap", help="Same as --load-mode none.")]
Threads = Annotated[int, typer.Option("--threads", "-t", help="CPU threads of generation; 0: physical cores.")]
ThreadsBatch = Annotated[
    int, typer.Option("--threads-batch", "-tb", help="CPU threads of the prompt; 0: as --threads.")
]
CtxSize = Annotated[int, typer.Option("--ctx-size", "-c", help="Context, tokens; 0: what the prompts need.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", help="Most tokens of a decode.")]
UbatchSize = Annotated[int, typer.Option("--ubatch-size", "-ub", help="Tokens computed at once.")]
FlashAttn = Annotated[str, typer.Option("--flash-attn", "-fa", help="auto, on or off.")]
CacheTypeK = Annotated[str, typer.Option("--cache-type-k", "-ctk", help="KV cache type of K: f16, q8_0, ...")]
CacheTypeV = Annotated[str, typer.Option("--cache-type-v", "-ctv", help="KV cache type of V: f16, q8_0, ...")]
NoOpOffload = Annotated[
    bool, typer.Option("--no-op-offload", help="Never copy RAM-resident matrices to the GPU for long batches.")
]
MainGpu = Annotated[int, typer.Option("--main-gpu", "-mg", help="Use this GPU alone, by index; -1: all.")]
Device = Annotated[str, typer.Option("--device", "-dev", help="Devices by name, comma list; none for CPU only.")]
