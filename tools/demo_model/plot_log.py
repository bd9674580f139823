"""Draw the loss curves of a training log.

python plot_log.py [training-log.jsonl] [training-log.png]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
TITLES = {
    "target": "stage 1: target and MTP layer",
    "heads": "stage 2: MTP layer and draft",
    "other": "stage 3: other vocabulary",
}


def main() -> None:
    """One panel for each stage: training loss against steps, held-out losses as dots."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "training-log.jsonl"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "training-log.png"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True)
    for panel, (stage, title) in zip(panels, TITLES.items(), strict=True):
        mine = [r for r in rows if r.get("stage") == stage and "share" in r and r.get("mtp", True)]
        steps = [r["step"] for r in mine]
        for key, label in (("loss", "next token"), ("draft", "draft, next token")):
            if key in mine[0]:
                panel.plot(steps, [r[key] for r in mine], lw=1, label=label)
        for i in (0, 3) if "mtp" in mine[0] else ():
            panel.plot(steps, [r["mtp"][i] for r in mine], lw=1, label=f"MTP step {i + 1}")
        for r in rows:
            if r.get("stage") == stage and isinstance(r.get("eval"), float) and stage == "target":
                panel.plot(r["step"], r["eval"], "k.", ms=4)
                panel.annotate(r["kind"], (r["step"], r["eval"]), fontsize=7, ha="right")
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("step (65,536 tokens each)", fontsize=8)
        panel.set_ylim(1, 7)
        panel.legend(fontsize=7)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("loss, nats a token", fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=90)
    print(out.name, out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
