"""The JSON objects in engines' streams, as far as they are read; all else in them is let pass. PURE

llama-server b11549 (recorded), the OpenAI API reference, and what its dialects add. A value of a wrong type, or no
plausible number, is a ``ValidationError``.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from agents.contract.measure import EngineTimings


def _whole_characters(value: object) -> object:
    """Half of a surrogate pair, which JSON can hold and UTF-8 cannot, becomes U+FFFD."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


WholeText = Annotated[str, BeforeValidator(_whole_characters)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Figure = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]


class Part(BaseModel):
    """What is read of an engine's object; all else in it is let pass."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Timings(Part):
    """llama.cpp's ``timings``: milliseconds, tokens per second."""

    cache_n: _Count | None = None
    prompt_n: _Count | None = None
    prompt_ms: _Figure | None = None
    predicted_n: _Count | None = None
    predicted_ms: _Figure | None = None
    predicted_per_second: _Figure | None = None

    def as_engine_timings(self) -> EngineTimings:
        return EngineTimings(
            prompt_tokens=self.prompt_n,
            cached_tokens=self.cache_n,
            prompt_s=None if self.prompt_ms is None else self.prompt_ms / 1e3,
            generated_tokens=self.predicted_n,
            generate_s=None if self.predicted_ms is None else self.predicted_ms / 1e3,
            decode_tps=self.predicted_per_second or None,  # 0.0 for a single token: no rate
        )


class Completion(Part):
    content: WholeText | None = None
    tokens: list[Any] | None = None
    stop: bool | None = None
    stop_type: str | None = None
    truncated: bool | None = None
    tokens_predicted: _Count | None = None
    tokens_evaluated: _Count | None = None
    timings: Timings | None = None


class PromptDetails(Part):
    cached_tokens: _Count | None = None


class CompletionDetails(Part):
    reasoning_tokens: _Count | None = None


class Usage(Part):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Function(Part):
    name: WholeText | None = None
    arguments: WholeText | None = None


class ToolCall(Part):
    function: Function | None = None


class Delta(Part):
    content: WholeText | None = None
    refusal: WholeText | None = None
    reasoning_content: WholeText | None = None
    reasoning: WholeText | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(Part):
    delta: Delta | None = None
    text: WholeText | None = None  # /v1/completions
    finish_reason: str | None = None

    def texts(self) -> list[tuple[str, bool]]:
        """(text, is it reasoning), at least one, perhaps empty."""
        delta = self.delta or Delta()
        calls = [call.function for call in delta.tool_calls or [] if call.function]
        called = "".join((function.name or "") + (function.arguments or "") for function in calls)
        answer = (delta.content or "") + (delta.refusal or "") + called + (self.text or "")
        # Some servers send both names with the same text: one of them is read.
        found = [(delta.reasoning_content or delta.reasoning or "", True), (answer, False)]
        return [each for each in found if each[0]] or [("", False)]


class ChatPart(Part):
    choices: list[Choice] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
