"""Messages to a model and its answers, in words of no particular provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from app.domain.usage import RateLimitReport, TokenUsage
from app.web.capacity import NO_HOLDER, Holder

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class Role(Enum):
    SYSTEM = "SYSTEM"
    USER = "USER"
    ASSISTANT = "ASSISTANT"
    TOOL = "TOOL"


class ToolChoiceMode(Enum):
    AUTO = "AUTO"
    NONE = "NONE"
    REQUIRED = "REQUIRED"


class ReasoningEffort(Enum):
    """In ascending order."""

    NONE = "NONE"
    MINIMAL = "MINIMAL"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    XHIGH = "XHIGH"
    MAX = "MAX"


class CacheTtl(Enum):
    """How long a provider should keep a prefix of the prompt in its cache."""

    FIVE_MINUTES = "5m"
    ONE_HOUR = "1h"


class AskedTier(Enum):
    """A ServiceTier that a call can ask for."""

    STANDARD = "standard"
    FLEX = "flex"
    PRIORITY = "priority"
    FAST = "fast"


class FinishReason(Enum):
    STOP = "STOP"
    LENGTH = "LENGTH"
    TOOL_CALLS = "TOOL_CALLS"
    CONTENT_FILTER = "CONTENT_FILTER"
    CANCELLED = "CANCELLED"


class UnsupportedPolicy(Enum):
    """What happens to a parameter that the model does not take: it is dropped with a note in the answer, or the call is
    refused."""

    DROP = "drop"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """The URL is passed on. This service never fetches it."""

    url: str


@dataclass(frozen=True, slots=True)
class InlineImage:
    """`data` is base64 text. It was checked when the request came in."""

    data: str
    media_type: str


@dataclass(frozen=True, slots=True)
class PdfUrl:
    """The URL is passed on. This service never fetches it."""

    url: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class InlinePdf:
    """`data` is base64 text. It was checked when the request came in. `pages` is estimated and at least 1."""

    data: str
    pages: int = 1
    name: str | None = None


@dataclass(frozen=True, slots=True)
class TextDocument:
    text: str
    name: str | None = None


Document: TypeAlias = PdfUrl | InlinePdf | TextDocument
Image: TypeAlias = ImageUrl | InlineImage
Part: TypeAlias = Text | Image | Document


@dataclass(frozen=True, slots=True)
class ProviderState:
    """What a provider puts beside the known fields of its protocol. It is passed back only to that provider, which may refuse
    the conversation without it. `fields` is the JSON text of an object."""

    provider: str
    kind: str
    fields: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is the text that the model wrote. It should be JSON, but it may not be."""

    id: str
    name: str
    arguments: str
    provider_state: ProviderState | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """`parts` follow `content`, which may then be empty."""

    id: str
    content: str
    is_error: bool = False
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """SYSTEM and USER have parts. ASSISTANT has parts, tool calls or both. TOOL has exactly one tool result."""

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_result: ToolResult | None = None
    reasoning: Json = None
    cache_up_to: bool = False
    cache_ttl: CacheTtl | None = None
    provider_state: ProviderState | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """`parameters` is a JSON Schema. If `strict` is true, the arguments must match it exactly. None leaves it to the provider."""

    name: str
    parameters: Mapping[str, Json]
    description: str | None = None
    strict: bool | None = None
    cache_up_to: bool = False
    cache_ttl: CacheTtl | None = None


@dataclass(frozen=True, slots=True)
class NamedTool:
    name: str


ToolChoice: TypeAlias = ToolChoiceMode | NamedTool


@dataclass(frozen=True, slots=True)
class JsonObjectFormat:
    pass


@dataclass(frozen=True, slots=True)
class JsonSchemaFormat:
    """If `strict` is None, the answer is strict if the provider's strict dialect can express the schema."""

    name: str
    schema: Mapping[str, Json]
    strict: bool | None = None


ResponseFormat: TypeAlias = JsonObjectFormat | JsonSchemaFormat


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call as it is sent to one model. `deadline` is in the Clock's monotonic seconds. `input_tokens` is the number that
    was counted before, 0 if it was not counted. `holder` is the caller that takes its share of the provider's connections. If
    `is_another_target_left` is true, a silent target is given up sooner. If `restart` is true, a stream that breaks after
    something was shown begins anew. If `stream_reasoning` is true, the reasoning is shown as it comes."""

    model: str
    messages: tuple[Message, ...]
    max_output_tokens: int
    deadline: float
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: ReasoningEffort | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    parallel_tool_calls: bool | None = None
    service_tier: AskedTier | None = None
    provider_options: Mapping[str, Mapping[str, Json]] | None = None
    unsupported: UnsupportedPolicy = UnsupportedPolicy.DROP
    input_tokens: int = 0
    holder: Holder = NO_HOLDER
    is_another_target_left: bool = False
    restart: bool = False
    stream_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `model` is the provider's name for the model that answered. `notes` says what was changed in the request
    or the answer."""

    text: str | None
    finish_reason: FinishReason
    usage: TokenUsage
    model: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: Json = None
    notes: tuple[str, ...] = ()
    status_code: int = 200
    provider_request_id: str | None = None
    rate_limits: RateLimitReport | None = None
    provider_state: ProviderState | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Only a call with `stream_reasoning` gets it."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """The first delta of a call has its name. The arguments arrive in pieces."""

    tool_call_id: str
    arguments_delta: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The answer is complete: the provider's own last event was seen."""

    answer: Answer


ContentDelta: TypeAlias = TextDelta | ReasoningDelta | ToolCallDelta
StreamPart: TypeAlias = ContentDelta | AnswerEnd


def merged(parts: Sequence[ContentDelta]) -> Sequence[ContentDelta]:
    """Joins neighbouring deltas of one kind, and of one tool call."""
    if len(parts) < 2:
        return parts
    found: list[ContentDelta] = []
    kind: type[TextDelta | ReasoningDelta] = TextDelta
    texts: list[str] = []
    for part in parts:
        if not isinstance(part, ToolCallDelta):
            if texts and type(part) is not kind:
                found.append(kind("".join(texts)))
                texts = []
            kind = type(part)
            texts.append(part.text)
            continue
        if texts:
            found.append(kind("".join(texts)))
            texts = []
        last = found[-1] if found else None
        if isinstance(last, ToolCallDelta) and last.tool_call_id == part.tool_call_id and part.name is None:
            found[-1] = ToolCallDelta(last.tool_call_id, last.arguments_delta + part.arguments_delta, last.name)
        else:
            found.append(part)
    if texts:
        found.append(kind("".join(texts)))
    return found


@dataclass(frozen=True, slots=True)
class EmbedCall:
    model: str
    texts: tuple[str, ...]
    deadline: float
    dimensions: int | None = None
    holder: Holder = NO_HOLDER
    is_another_target_left: bool = False


def fingerprint(call: ModelCall | EmbedCall) -> int:
    """The same number for the same prompt, within one process."""
    if isinstance(call, EmbedCall):
        return hash(call.texts)
    return hash(tuple((each.role, each.parts, each.tool_calls, each.tool_result) for each in call.messages))


@dataclass(frozen=True, slots=True)
class Embedded:
    vectors: tuple[tuple[float, ...], ...]
    usage: TokenUsage
    model: str
    status_code: int = 200
    provider_request_id: str | None = None
    rate_limits: RateLimitReport | None = None
