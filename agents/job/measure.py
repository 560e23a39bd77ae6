"""Conducts the trials of one job on a loaded engine: which requests are sent, in which order, and when to give up.

What an answer means is worked out in ``trial``, after the end of its stream. All I/O goes through the session, which
stamps what it receives with the clock that it was given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from agents.contract.job import Job, Timeouts, Workflow
from agents.contract.measure import Flag, Trial
from agents.contract.report import Cause
from agents.engines.base import ImageSession, Request, Session
from agents.engines.stream.chunks import Chunk
from agents.engines.stream.exchange import Exchange, ExchangeEnd, Limits, LiveCount
from agents.errors import RequestFailed, Unsupported
from agents.job.trial import chunks_of, trial_of

CONNECT_S = 10.0
WARMUP_NONCE = 1_000_000  # past every repeat


def measure(
    job: Job,
    session: Session,
    warmups: int,
    cancelled: threading.Event,
    progress: Callable[[str, LiveCount | None], None],
    zero_ns: int = 0,
) -> Iterator[Trial]:
    """Yields the warm-ups, then the measured trial, each as soon as it is complete.

    ``progress`` is given the stage and the live view of each stream before it starts. ``zero_ns`` is the start of the
    job on the clock that stamps the stream.
    Raises AgentError: RequestFailed, EngineLost; Unsupported where the session makes no images and is asked for some.
    """
    conductor = _Conductor(job, session, cancelled, limits_of(job.timeouts))
    for index in range(warmups + 1):
        warmup = index < warmups
        live = LiveCount()
        progress(f"warm-up {index + 1}/{warmups}" if warmup else "measuring", live)
        if cancelled.is_set():  # a short stream would be over before it looks
            raise RequestFailed(Cause.CANCELLED, "cancelled between two requests")
        if isinstance(job.workload, Workflow):
            # Another nonce in each repeat, and the same in every cell: an engine that keeps images would not make
            # the same one twice.
            nonce = WARMUP_NONCE + index if warmup else job.repeat
            trial = conductor.image_trial(job.workload, nonce, live)
            if not warmup and trial.image is not None and trial.image.model_load_s:
                trial = replace(trial, flags=(*trial.flags, Flag.MODEL_LOADED))
        else:
            # The measured trial has the same nonce in every job: the same prompt in every cell and repeat. A warm-up
            # has another one, or the measured prompt would be found in the engine's cache.
            trial = conductor.text_trial(nonce=index + 1 if warmup else 0, live=live)
        sent_s = None if trial.sent_s is None else trial.sent_s - zero_ns / 1e9
        yield replace(trial, index=index, warmup=warmup, sent_s=sent_s)


@dataclass(frozen=True, slots=True)
class _Conductor:
    """Sends one trial's requests. The trials' ``sent_s`` is on the clock that stamps the stream."""

    job: Job
    session: Session
    cancelled: threading.Event
    limits: Limits

    def image_trial(self, workflow: Workflow, nonce: int, live: LiveCount) -> Trial:
        if not isinstance(self.session, ImageSession):
            raise Unsupported(f"{self.job.load.engine} makes no images")
        return self.session.generate(workflow, nonce, self.limits, live, self.cancelled)

    def text_trial(self, nonce: int, live: LiveCount) -> Trial:
        request = self.session.request_for(self.job.workload, nonce=nonce)
        if request.prime is not None:
            # Fills the KV cache up to the depth that is measured at. Its figures are nobody's, but it must succeed.
            self._answer(request, request.prime, LiveCount())
        exchange, chunks = self._answer(request, request.body, live)
        afterwards = request.after() if request.after is not None else None
        trial = trial_of(exchange, chunks, request, self.job.workload, afterwards, self.job.keep_output)
        return replace(trial, sent_s=exchange.sent_ns / 1e9)

    def _answer(self, request: Request, body: bytes, live: LiveCount) -> tuple[Exchange, tuple[Chunk, ...]]:
        exchange = self.session.stream(request, body, self.limits, live, self.cancelled)
        if exchange.end in (ExchangeEnd.UNREACHABLE, ExchangeEnd.BROKEN):
            self.session.check_alive()  # an engine that died says more than the stream that it broke
        return exchange, chunks_of(exchange, request)


def limits_of(timeouts: Timeouts) -> Limits:
    return Limits(connect_s=CONNECT_S, first_token_s=timeouts.first_token_s, trial_s=timeouts.trial_s)
