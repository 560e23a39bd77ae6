"""The stages of a job by the words that people see, and how long each may take by its own time-outs. PURE

A stage that outlives its limit by ``HangLimits.extra_s`` is a hang: the time-outs that should have ended it are in the
process that hangs.
"""

from __future__ import annotations

from agents.contract.job import Synthetic, Timeouts, Workflow, Workload

STARTING = "starting"  # the job is with the job process
UNLOADING = "unloading"  # an engine that another job has loaded
ENDING = "ending"  # the outcome is known: readings, the report, and what failed is unloaded

MEASURING = ("warm-up", "measuring")
"""How the stages begin in which nothing else may use the machine."""
_LOADING = ("loading", "selecting the runtime", "waiting until the server is ready")
_CLEARING = (UNLOADING, ENDING)
_SHORT = (STARTING, "waiting: ")

SHORT_S = 30.0
"""Of a stage that is over in seconds where nothing hangs: calls of programs and servers that have time-outs of 10 s."""
CLEARING_S = 60.0
"""Of a stage in which an engine is unloaded: a server may be restarted for it, which has a time-out of its own."""


def stage_limit_s(stage: str, timeouts: Timeouts, workload: Workload) -> float:
    if stage.startswith(MEASURING):
        return timeouts.trial_s * (2 if _has_prime(workload) else 1) + (
            timeouts.first_token_s if isinstance(workload, Workflow) else 0.0
        )
    if stage.startswith(_LOADING):
        return timeouts.load_s
    if stage.startswith(_CLEARING):
        return CLEARING_S
    # What is left prepares a model. A download and a hash notify each second that bytes come, and so begin the stage
    # anew: one that is silent for as long as a load may take has stopped.
    return SHORT_S if stage.startswith(_SHORT) else max(timeouts.load_s, CLEARING_S)


def _has_prime(workload: Workload) -> bool:
    """A request that fills the KV cache goes before the measured one, with the same time-out."""
    return isinstance(workload, Synthetic) and workload.depth > 0 and workload.prompt_tokens > 0
