"""Small texts for people: durations, figures of a trial, outcomes. PURE"""

from __future__ import annotations

from agents.contract.report import CAUSES
from orchestrator.dispatch.notices import Figures, JobEnded, JobName


def format_figures(figures: Figures | None) -> str:
    """The figures of one trial in a line: ``42.9 tok/s, first token 0.34 s, prompt 512 tok/s``; ``4.40 s/image``."""
    if figures is None:
        return "no figures"
    parts = [f"{figures.decode_tps:.2f} tok/s"] if figures.decode_tps else []
    parts += [f"first token {figures.ttft_s:.3f} s"] if figures.ttft_s is not None else []
    parts += [f"prompt {figures.prompt_tps:.1f} tok/s"] if figures.prompt_tps else []
    parts += [f"{figures.seconds_per_image:.2f} s/image"] if figures.seconds_per_image else []
    parts += [f"{figures.iterations_per_s:.2f} iterations/s"] if figures.iterations_per_s else []
    parts += [f"flagged: {', '.join(figures.flags)}"] if figures.flags else []
    return ", ".join(parts) or "no figures"


def format_outcome(end: JobEnded) -> str:
    if end.cause is None:
        return format_figures(end.figures)
    prefix = "refused: " if end.status == "refused" else "FAILED: "
    return f"{prefix}{CAUSES[end.cause].description}: {first_line(end.detail)}"


def first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 200 else line[:199] + "…"


def format_duration(seconds: float | None) -> str:
    """``?``, ``45 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_count(count: int, noun: str) -> str:
    """``1 job``, ``2 jobs``, ``1,200 jobs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_cell(job: JobName) -> str:
    return f"{job.cell} #{job.repeat + 1}"
