"""The JSON objects in engines' streams, as far as they are read. PURE

llama-server b11549 (recorded), the OpenAI API reference, and what its dialects add. A text of a wrong type is a
``ValidationError``; a figure that is no plausible number is not known.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator

from agents.contract.measure import EngineTimings


def _whole_characters(value: object) -> object:
    """Half of a surrogate pair, which JSON can hold and UTF-8 cannot, becomes U+FFFD."""
    if not isinstance(value, str) or value.isascii():
        return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def whole(value: Any) -> Any:
    """A JSON value, all texts in it made of whole characters: what cannot be written as UTF-8 ends a process."""
    if isinstance(value, dict):
        return {_whole_characters(name): whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return _whole_characters(value)


WholeText = Annotated[str, BeforeValidator(_whole_characters)]


def _or_none(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """None for a figure or an object that cannot be read: a bad count must not cost the text beside it."""
    try:
        return handler(value)
    except ValueError:
        return None


_Lenient = WrapValidator(_or_none)
Count = Annotated[Annotated[int, Field(ge=0, le=2**53)] | None, _Lenient]
Figure = Annotated[Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)] | None, _Lenient]


class WireObject(BaseModel):
    """A JSON object of an engine's stream. Its fields are those that are read; all others are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Timings(WireObject):
    """llama.cpp's ``timings``: milliseconds, tokens per second."""

    cache_n: Count = None
    prompt_n: Count = None
    prompt_ms: Figure = None
    predicted_n: Count = None
    predicted_ms: Figure = None
    predicted_per_second: Figure = None

    def as_engine_timings(self) -> EngineTimings:
        return EngineTimings(
            prompt_tokens=self.prompt_n,
            cached_tokens=self.cache_n,
            prompt_s=None if self.prompt_ms is None else self.prompt_ms / 1e3,
            generated_tokens=self.predicted_n,
            generate_s=None if self.predicted_ms is None else self.predicted_ms / 1e3,
            decode_tps=self.predicted_per_second or None,  # 0.0 for a single token: no rate
        )


class CompletionEvent(WireObject):
    """One event of llama-server's ``/completion``."""

    content: WholeText | None = None
    tokens: list[Any] | None = None
    stop: bool | None = None
    stop_type: str | None = None
    truncated: bool | None = None
    tokens_predicted: Count = None
    tokens_evaluated: Count = None
    timings: Annotated[Timings | None, _Lenient] = None


class PromptDetails(WireObject):
    cached_tokens: Count = None


class CompletionDetails(WireObject):
    reasoning_tokens: Count = None


class TokenCounts(WireObject):
    """OpenAI's ``usage`` object, with the names that other servers have in it."""

    prompt_tokens: Count = None
    completion_tokens: Count = None
    total_tokens: Count = None
    input_tokens: Count = None  # mlx-vlm's names
    output_tokens: Count = None
    prompt_cache_hit_tokens: Count = None  # DeepSeek
    prompt_tokens_details: Annotated[PromptDetails | None, _Lenient] = None
    completion_tokens_details: Annotated[CompletionDetails | None, _Lenient] = None

    @property
    def prompt(self) -> int | None:
        return self.prompt_tokens or self.input_tokens

    @property
    def cached(self) -> int | None:
        cached = self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None
        return self.prompt_cache_hit_tokens if cached is None else cached

    @property
    def reasoning(self) -> int | None:
        return self.completion_tokens_details.reasoning_tokens if self.completion_tokens_details else None

    @property
    def completion(self) -> int | None:
        """Reasoning included. Where the sum shows that the server leaves it out (xAI), it is added."""
        tokens = self.output_tokens if self.completion_tokens is None else self.completion_tokens
        reasoning = self.reasoning
        if tokens and reasoning and self.total_tokens == (self.prompt or 0) + tokens + reasoning:
            return tokens + reasoning
        return tokens

    def merged_into(self, before: TokenCounts) -> TokenCounts:
        """The counts of ``before``, replaced by those here that are neither None nor 0."""
        return before.model_copy(update={name: value for name, value in self if value or getattr(before, name) is None})


class Function(WireObject):
    name: WholeText | None = None
    arguments: WholeText | None = None


class ToolCall(WireObject):
    function: Function | None = None


def _joined(value: object) -> object:
    """Mistral's reasoning models send a list of parts, texts among them."""
    if not isinstance(value, list):
        return value
    texts = (part.get("text") for part in value if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


class Delta(WireObject):
    content: Annotated[WholeText | None, BeforeValidator(_joined)] = None
    refusal: WholeText | None = None
    reasoning_content: WholeText | None = None
    reasoning: WholeText | None = None
    tool_calls: Annotated[list[ToolCall] | None, _Lenient] = None


class Choice(WireObject):
    delta: Delta | None = None
    text: WholeText | None = None  # /v1/completions
    finish_reason: Annotated[str | None, _Lenient] = None
    error: Any = None
    usage: Annotated[TokenCounts | None, _Lenient] = None  # Moonshot

    def texts(self) -> list[tuple[str, bool]]:
        """(text, is it reasoning), at least one, perhaps empty."""
        delta = self.delta or Delta()
        calls = [call.function for call in delta.tool_calls or [] if call.function]
        called = "".join((function.name or "") + (function.arguments or "") for function in calls)
        answer = (delta.content or "") + (delta.refusal or "") + called + (self.text or "")
        # Some servers send both names with the same text: one of them is read.
        found = [(delta.reasoning_content or delta.reasoning or "", True), (answer, False)]
        return [each for each in found if each[0]] or [("", False)]


class ChatEvent(WireObject):
    """One event of an OpenAI-style stream."""

    choices: list[Choice] | None = None
    usage: Annotated[TokenCounts | None, _Lenient] = None
    timings: Annotated[Timings | None, _Lenient] = None

    @property
    def counts(self) -> TokenCounts | None:
        return self.usage or next((choice.usage for choice in self.choices or [] if choice.usage), None)
