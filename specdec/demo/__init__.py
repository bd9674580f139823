"""The demo models that come with specdec: ``demo`` names the target, ``demo-draft`` its draft, ``demo-other`` a draft of
another vocabulary (refused, to show why). See README.md beside this file."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
FILES = {"demo": "target.gguf", "demo-draft": "draft.gguf", "demo-other": "draft-other-vocabulary.gguf"}

WORKLOADS = ("demo-code", "demo-docs", "demo-json", "demo-edit")
WORKLOADS_BEGIN_WITH = "demo-"
"""Prompts for a base model that knows code and documentation only; other targets do not run them unasked."""
