"""Small texts for people: durations, figures of a trial, outcomes. PURE"""

from __future__ import annotations

from agents.contract.measure import Trial
from agents.contract.rates import decode_tps, prompt_tps, ttft_s
from agents.contract.report import Measured, Refused, Report, cause_words
from orchestrator.plan.jobs import PlannedJob


def figures_of(trial: Trial) -> str:
    """The figures of one trial in a line: ``42.9 tok/s, first token 0.34 s, prompt 512 tok/s``."""
    decode, first, prompt = decode_tps(trial), ttft_s(trial), prompt_tps(trial)
    parts = [f"{decode:.2f} tok/s"] if decode else []
    parts += [f"first token {first:.3f} s"] if first is not None else []
    parts += [f"prompt {prompt:.1f} tok/s"] if prompt and trial.engine.prompt_tokens != 1 else []
    parts += [f"flagged: {', '.join(trial.flags)}"] if trial.flags else []
    return ", ".join(parts) or "no figures"


def outcome_words(report: Report) -> str:
    outcome = report.outcome
    if isinstance(outcome, Measured):
        return figures_of(outcome.trials[-1])
    prefix = "refused: " if isinstance(outcome, Refused) else "FAILED: "
    return f"{prefix}{cause_words[outcome.cause]}: {first_line(outcome.detail)}"


def first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= 200 else line[:199] + "…"


def hms(seconds: float | None) -> str:
    """``?``, ``45 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, noun: str) -> str:
    """``1 job``, ``2 jobs``, ``1,200 jobs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def cell_words(planned: PlannedJob) -> str:
    return f"{planned.cell.label()} #{planned.repeat + 1}"
