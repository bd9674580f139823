"""A run as Python and notebooks see it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdec import store
from specdec.api.frames import frame
from specdec.errors import SpecdecError
from specdec.metrics import rows
from specdec.redact import redacted, refuse_redacted
from specdec.report import subjects, tables
from specdec.report.names import row_name
from specdec.store import Sample
from specdec.types import Row
from specdec.why import why

if TYPE_CHECKING:
    import pandas
    import polars


class Run:
    """A stored run: a comparison, a replay or a profile. Everything is derived from its folder, nothing from a model.

    In a notebook it shows itself as a small table; ``print(run)`` prints the tables of ``specdec report``.
    """

    def __init__(self, stored: store.Run) -> None:
        self.stored = stored
        """``run.json`` and the lines of ``samples.jsonl`` as they are (docs/results.md)."""

    @property
    def id(self) -> str:
        """The run's name, which is its folder's."""
        return self.stored.id

    @property
    def folder(self) -> Path:
        """Where it is stored."""
        return self.stored.folder

    @property
    def meta(self) -> dict[str, Any]:
        """``run.json``: what was asked for, model, environment, labels."""
        return self.stored.meta

    @property
    def finished(self) -> bool:
        """False for an interrupted run: ``specdec.resume(run)`` finishes it."""
        return self.stored.finished

    def table(self) -> list[Row]:
        """The rows of the JSON report: one for each workload and strategy, ``all`` last; seconds, bytes, undefined None.

        Of a replay a row for each setting that was tried.
        """
        return [dict(row) for row in self._rows]

    def samples(self, warmups: bool = False) -> list[Sample]:
        """The generations in the order they were made, failures too, warm-ups only if asked for; of a profile its lines.

        Token ids, text, per-step lists, seconds by phase: docs/results.md lists the fields.
        """
        return [dict(s) for s in self.stored.samples if warmups or not s.get("warmup")]

    def to_pandas(self, samples: bool = False) -> pandas.DataFrame:
        """The table, or the samples, as a pandas ``DataFrame``; objects of fixed fields become ``phase_seconds.verify`` ...

        Raises:
            SpecdecError: pandas is not installed.
        """
        return frame("pandas", self.samples() if samples else self.table())

    def to_polars(self, samples: bool = False) -> polars.DataFrame:
        """The table, or the samples, as a Polars ``DataFrame``, like ``to_pandas``.

        Raises:
            SpecdecError: polars is not installed.
        """
        return frame("polars", self.samples() if samples else self.table())

    @property
    def verdicts(self) -> dict[str, dict[str, str | None]]:
        """Workload to strategy to verdict, named as in the tables; None where there is nothing to judge."""
        found: dict[str, dict[str, str | None]] = {}
        for row in self._rows:
            if row["strategy"] != "none":
                found.setdefault(row["workload"], {})[row_name(row)] = row["verdict"]
        return found

    @property
    def why(self) -> list[str]:
        """Sentences on why strategies win, lose or do nothing, the largest effects first."""
        return why(self._rows, self.stored.samples)

    def text(self, sample: int | str | Sample) -> str:
        """A generated text.

        Args:
            sample: its number (from 1, warm-ups counted: ``specdec show RUN`` lists them), ``PROMPT/STRATEGY`` (the first
                one measured), or one of ``samples()``.

        Raises:
            SpecdecError: there is no such sample, it failed, or the run holds no texts (a replay, a redacted run).
        """
        from specdec.report.tokens import find_sample

        self._refuse_profile("texts")
        refuse_redacted(self.stored, "its texts were left out")
        found = sample if isinstance(sample, dict) else self.stored.samples[find_sample(self.stored, str(sample)) - 1]
        if found["status"] != "ok":
            raise SpecdecError(f"run {self.id}: the sample failed ({found['status']}): {found['error']}")
        if "trace" in self.meta or "teacher" in self.meta:
            raise SpecdecError(
                f"run {self.id} holds no texts: its tokens are a recording's.", "They are in the run that was recorded."
            )
        return str(found["text"])

    def report(
        self,
        format: str = "html",
        path: str | Path | None = None,
        *,
        redact: bool = False,
        picture: str = "",
        profile: str = "",
    ) -> Path:
        """Write the report of ``specdec report`` to a file and return its path.

        Args:
            format: html (a page in one file), text, md, csv, json, svg or png (one picture).
            path: the file; default ``report-RUN.FORMAT`` in the current folder. An existing one is replaced.
            redact: leave out prompts, texts, token ids and paths, for sharing.
            picture: which picture, for svg and png.
            profile: predict from this profile; default the newest that fits, if there is one beside the run.
        """
        found = subjects.fitting_profile(self.stored, profile, self.folder.parent)
        shown = redacted(self.stored) if redact else self.stored
        made = subjects.of_one(shown, found).made(format, picture)
        content = made if isinstance(made, bytes) else f"{made}\n".encode()
        out = Path(path) if path is not None else Path(f"report-{self.id}.{'txt' if format == 'text' else format}")
        out.write_bytes(content)
        return out

    def record(self, path: str | Path) -> Path:
        """Write what ``none`` said as a trace, for ``specdec.replay_trace``; returns the path."""
        from specdec.replay.stored import record_from_run

        self._refuse_profile("texts")
        record_from_run(self.stored, Path(path))
        return Path(path)

    @cached_property
    def _rows(self) -> list[Row]:
        self._refuse_profile("rows")
        if "trace" not in self.meta:
            return rows(self.stored)
        from specdec.replay.job import all_rows

        return list(all_rows(self.stored))

    def _refuse_profile(self, what: str) -> None:
        if self.meta["kind"] == "profile":
            raise SpecdecError(
                f"{self.folder} is a profile: it has no {what}.", "Use samples(), print(run) or report('json')."
            )

    def __str__(self) -> str:
        return str(subjects.of_one(self.stored, None).made("text"))

    def __repr__(self) -> str:
        return f"<specdec {self.meta['kind']} {self.id}: {self.meta['model']['file']}, {self.meta['status']}>"

    def _repr_html_(self) -> str:
        from html import escape

        if self.meta["kind"] == "profile":
            return f"<pre>{escape(str(self))}</pre>"
        head = "<br>".join(escape(line) for line in tables.head(self.stored).splitlines())
        return f"<p>{head}</p>{tables.speed_as_html(self.stored)}"
