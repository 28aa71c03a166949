"""Requests to Anthropic's Messages API: what is accepted, what is refused, and how many tokens are counted."""

from __future__ import annotations

import hashlib
import zlib
from typing import TypeVar

import msgspec
from msgspec import UNSET, Raw

from simulator.answers import Ask, Input, ToolMode, signature
from simulator.anthropic_body import Block, Body, CacheControl, CountBody, Message, Tool
from simulator.anthropic_source import check_source, source_chars
from simulator.models import FAULT_MARK, Model, find
from simulator.prefix_cache import PrefixCache
from simulator.protocol import Rejected
from simulator.structured import Json
from simulator.text import CHARS_PER_TOKEN, IMAGE_TOKENS, MESSAGE_OVERHEAD_CHARS, tokens_of

_T = TypeVar("_T")
_MAX_CACHE_MARKS = 4
_MIN_THINKING = 1024
_MIN_TOP_P_THINKING = 0.95
OLD_VERSION = "2023-06-01"
_EFFORT_TOKENS = {"low": 16, "medium": 32, "high": 64, "xhigh": 96, "max": 128}
_TTL_SECONDS = {"5m": 300.0, "1h": 3600.0}


_decoder = msgspec.json.Decoder(Body)
_messages_decoder = msgspec.json.Decoder(list[Message])
_count_decoder = msgspec.json.Decoder(CountBody)
_encoder = msgspec.json.Encoder()


def parse(raw: bytes, key: str, cache: PrefixCache, version: str) -> Ask:
    """Raises Rejected with the messages of the real API."""
    body = _decoded(_decoder, raw)
    messages = _decoded(_messages_decoder, body.messages, "messages")
    model = known_model(body.model)
    _check_sampling(body, model, version)
    _check(body, model)
    thinking = _thinking_tokens(body)
    _check_conversation(body, messages, model)
    marked = b'"cache_control"' in raw
    total = tokens_of(_chars(body.system, body.tools, messages))
    if total > model.context_tokens:
        raise too_long(total, model.context_tokens)
    counted, writes = _cached(body, messages, key, cache, total) if marked else (Input(uncached=total), [])
    last = messages[-1]
    config = body.output_config
    mode, named = _tool_mode(body)
    return Ask(
        fault=body.model.partition(FAULT_MARK)[2] or None,
        model=model,
        stream=body.stream,
        seed=zlib.crc32(body.messages, zlib.crc32(body.model.encode())),
        prompt=_last_text(last),
        input=counted,
        cache_writes=writes,
        max_tokens=min(body.max_tokens, model.max_output_tokens),
        thinking_tokens=thinking,
        show_thinking=body.thinking is None or body.thinking.display == "summarized",
        tools={tool.name: tool.input_schema or Raw(b"{}") for tool in body.tools},
        tool_mode=mode,
        tool_named=named,
        parallel=body.tool_choice is None or not body.tool_choice.disable_parallel_tool_use,
        tools_answered=any(block.type == "tool_result" for block in _blocks(last.content)),
        schema=config.format.schema if config is not None and config.format is not None else None,
        stop=tuple(body.stop_sequences),
        service_tier="fast" if body.speed == "fast" else None,
        user=body.metadata.user_id if body.metadata is not None else None,
    )


def count(raw: bytes) -> int:
    """Returns the result of `count_tokens`. Raises Rejected."""
    body = _decoded(_count_decoder, raw)
    known_model(body.model)
    return tokens_of(_chars(body.system, body.tools, body.messages))


def known_model(name: str) -> Model:
    model = find("anthropic", name.partition(FAULT_MARK)[0])
    if model is None:
        raise Rejected(404, f"model: {name}")
    return model


def too_long(tokens: int, window: int) -> Rejected:
    return Rejected(400, f"prompt is too long: {tokens} tokens > {window} maximum")


def _decoded(decoder: msgspec.json.Decoder[_T], raw: bytes | Raw, top: str = "") -> _T:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        path = ".".join(part for part in (top, where.strip("`$.")) if part)
        if "unknown field" in what:
            raise Rejected(400, f"{_dotted(path, what)}: Extra inputs are not permitted") from None
        if "missing required field" in what:
            raise Rejected(400, f"{_dotted(path, what)}: Field required") from None
        raise Rejected(400, f"{path or 'body'}: {what}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Rejected(400, f"The request body is not valid JSON: {error}") from None


def _dotted(path: str, what: str) -> str:
    name = what.split("`")[1]
    return f"{path}.{name}" if path else name


def _check_sampling(body: Body, model: Model, version: str) -> None:
    """The new version of the API has no sampling parameters; with the old one the model decides."""
    given = [name for name in ("temperature", "top_p", "top_k") if getattr(body, name) is not UNSET]
    for name in given:
        if version != OLD_VERSION:
            raise Rejected(400, f"{name}: Extra inputs are not permitted")
        if not model.takes_sampling:
            raise Rejected(400, f"`{name}` is deprecated for this model.")
        if not 0 <= getattr(body, name) <= (1 if name != "top_k" else 500):
            raise Rejected(400, f"{name}: range: 0..1")
    if model.takes_one_sampling and {"temperature", "top_p"} <= set(given):
        raise Rejected(400, "`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
    if body.thinking is not None and body.thinking.type != "disabled":
        if body.temperature not in {UNSET, 1}:
            raise Rejected(400, "`temperature` may only be set to 1 when thinking is enabled.")
        if isinstance(body.top_p, float) and body.top_p < _MIN_TOP_P_THINKING:
            raise Rejected(400, "`top_p` must be greater than or equal to 0.95 when thinking is enabled.")


def _check(body: Body, model: Model) -> None:
    if body.max_tokens < 0:
        raise Rejected(400, "max_tokens: Input should be greater than or equal to 0")
    if body.max_tokens > model.max_output_tokens:
        raise Rejected(
            400,
            f"max_tokens: {body.max_tokens} > {model.max_output_tokens}, which is the maximum allowed number of output tokens "
            f"for {body.model}",
        )
    _check_tools(body)
    _check_format(body)
    if model.always_thinks and body.thinking is not None and body.thinking.type in {"disabled", "enabled"}:
        raise Rejected(400, f'"thinking.type.{body.thinking.type}" is not supported for this model.')
    effort = body.output_config.effort if body.output_config is not None else None
    if effort is not None and effort not in model.efforts:
        raise Rejected(400, f"This model does not support effort level '{effort}'. Supported levels: {', '.join(model.efforts)}.")
    if body.speed == "fast" and not model.takes_tiers:
        raise Rejected(400, f"speed: fast mode is not supported for {body.model}")


def _check_tools(body: Body) -> None:
    names = [tool.name for tool in body.tools]
    if len(names) != len(set(names)):
        raise Rejected(400, "tools: Tool names must be unique.")
    for at, tool in enumerate(body.tools):
        if tool.strict and has_open_object(msgspec.json.decode(tool.input_schema or b"{}")):
            raise Rejected(
                400,
                f"tools.{at}.custom: For 'object' type, 'additionalProperties' must be set to false in strict tools",
            )
    choice = body.tool_choice
    if choice is None:
        return
    if not body.tools:
        raise Rejected(400, "tool_choice: tool_choice may only be specified while providing tools.")
    if choice.type == "tool" and choice.name not in names:
        raise Rejected(400, f"Tool '{choice.name}' not found in provided tools")
    thinks = body.thinking is not None and body.thinking.type in {"enabled", "adaptive"}
    if thinks and choice.type in {"any", "tool"}:
        raise Rejected(400, "Thinking may not be enabled when tool_choice forces tool use.")


def _check_format(body: Body) -> None:
    if body.output_config is None or body.output_config.format is None:
        return
    schema = msgspec.json.decode(body.output_config.format.schema)
    if not isinstance(schema, dict):
        raise Rejected(400, "output_config.format.schema: Input should be an object")
    if has_open_object(schema):
        raise Rejected(
            400,
            "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false",
        )


def has_open_object(schema: Json) -> bool:
    """Whether some object of the schema does not have `additionalProperties: false`."""
    if isinstance(schema, list):
        return any(has_open_object(part) for part in schema)
    if not isinstance(schema, dict):
        return False
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return True
    nested = [schema.get(word) for word in ("items", "anyOf", "oneOf", "allOf")]
    for word in ("properties", "$defs", "definitions"):
        group = schema.get(word)
        nested += group.values() if isinstance(group, dict) else ()
    return any(has_open_object(part) for part in nested)


def _thinking_tokens(body: Body) -> int:
    thinking = body.thinking
    if thinking is None or thinking.type == "disabled":
        return 0
    if thinking.type == "enabled":
        if thinking.budget_tokens is None:
            raise Rejected(400, "thinking.enabled.budget_tokens: Field required")
        if thinking.budget_tokens < _MIN_THINKING:
            raise Rejected(400, f"thinking.enabled.budget_tokens: Input should be greater than or equal to {_MIN_THINKING}")
        if thinking.budget_tokens >= body.max_tokens:
            raise Rejected(400, "`max_tokens` must be greater than `thinking.budget_tokens`.")
    effort = body.output_config.effort if body.output_config is not None else None
    return _EFFORT_TOKENS[effort or "high"]


def _check_conversation(body: Body, messages: list[Message], model: Model) -> None:
    if not messages:
        raise Rejected(400, "messages: at least one message is required")
    if messages[0].role == "assistant":
        raise Rejected(400, 'messages: first message must use the "user" role')
    last = messages[-1]
    if last.role == "assistant" and not model.takes_prefill:
        raise Rejected(
            400,
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        )
    asked: list[str] = []
    for index, message in enumerate(messages):
        if not message.content:
            raise Rejected(400, f"messages.{index}: all messages must have non-empty content")
        _check_media(f"messages.{index}.content", _blocks(message.content))
        if message.role != "assistant":
            _check_results(index, _blocks(message.content), asked)
            asked = []
        else:
            asked = [block.id or "" for block in _blocks(message.content) if block.type == "tool_use"]
            _check_no_document(index, _blocks(message.content))
            _check_thinking(index, _blocks(message.content), body)


def _check_no_document(index: int, blocks: list[Block]) -> None:
    for at, block in enumerate(blocks):
        if block.type == "document":
            raise Rejected(400, f"messages.{index}.content.{at}.type: `document` blocks are not permitted in assistant messages.")


def _check_media(path: str, blocks: list[Block]) -> None:
    for at, block in enumerate(blocks):
        where = f"{path}.{at}"
        if block.type == "text" and not block.text:
            raise Rejected(400, "messages: text content blocks must be non-empty")
        if block.type == "tool_result":
            _check_media(f"{where}.content", _blocks(block.content))
        elif block.type in {"image", "document"}:
            check_source(f"{where}.{block.type}.source", block.type, block.source)


def _check_results(index: int, blocks: list[Block], asked: list[str]) -> None:
    results = [block.tool_use_id or "" for block in blocks if block.type == "tool_result"]
    for at, result in enumerate(results):
        if result not in asked:
            raise Rejected(
                400,
                f"messages.{index}.content.{at}: unexpected `tool_use_id` found in `tool_result` blocks: {result}. "
                "Each `tool_result` block must have a corresponding `tool_use` block in the previous message.",
            )
    unanswered = [each for each in asked if each not in results]
    if unanswered:
        raise Rejected(
            400,
            f"messages.{index - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(unanswered)}. Each `tool_use` block must have a corresponding `tool_result` block in the next message.",
        )


def _check_thinking(index: int, blocks: list[Block], body: Body) -> None:
    for at, block in enumerate(blocks):
        hidden = block.type == "thinking" and block.thinking == ""
        if (
            block.type == "thinking"
            and not hidden
            and block.signature != signature(block.thinking or "", body.model.partition(FAULT_MARK)[0])
        ):
            raise Rejected(400, f"messages.{index}.content.{at}: Invalid `signature` in `thinking` block")
    thinks = body.thinking is not None and body.thinking.type == "enabled"
    calls_tools = any(block.type == "tool_use" for block in blocks)
    if thinks and calls_tools and blocks[0].type not in {"thinking", "redacted_thinking"}:
        raise Rejected(
            400,
            f"messages.{index}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{blocks[0].type}`. "
            "When `thinking` is enabled, a final `assistant` message must start with a thinking block.",
        )


def _tool_mode(body: Body) -> tuple[ToolMode, str | None]:
    choice = body.tool_choice
    if choice is None:
        return ToolMode.AUTO, None
    modes = {"auto": ToolMode.AUTO, "any": ToolMode.ANY, "tool": ToolMode.NAMED, "none": ToolMode.NONE}
    return modes[choice.type], choice.name


def _blocks(content: str | list[Block] | None) -> list[Block]:
    return content if isinstance(content, list) else []


def _last_text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(block.text for block in message.content if block.text)


def _chars(system: str | list[Block] | None, tools: list[Tool], messages: list[Message]) -> int:
    chars = _content_chars(system) + sum(_tool_chars(tool) for tool in tools)
    for message in messages:
        chars += MESSAGE_OVERHEAD_CHARS + _content_chars(message.content)
    return chars


def _tool_chars(tool: Tool) -> int:
    return len(tool.name) + len(tool.description or "") + len(tool.input_schema)


def _content_chars(content: str | list[Block] | None) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return len(content)
    return sum(_block_chars(block) for block in content)


def _block_chars(block: Block) -> int:
    if block.type == "image":
        return IMAGE_TOKENS * CHARS_PER_TOKEN
    if block.type == "document":
        return len(block.title or "") + len(block.context or "") + source_chars(block.source)
    chars = len(block.text or "") + len(block.thinking or "") + _content_chars(block.content)
    return chars + len(block.name or "") + len(block.input)


def _cached(
    body: Body, messages: list[Message], key: str, cache: PrefixCache, total: int
) -> tuple[Input, list[tuple[bytes, float]]]:
    """Reads the longest known prefix up to the last mark. The rest of it will be written.

    A prefix is recognised by its blocks without their marks, because the mark may move from turn to turn, as with the real API.
    """
    running = hashlib.blake2b(f"{key}\x00{body.model}".encode(), digest_size=16)
    chars = read = five = hour = 0
    points: list[tuple[bytes, int, str]] = []
    for content, size, mark in _cacheable(body, messages):
        running.update(content)
        chars += size
        tokens = tokens_of(chars)
        prefix = running.digest()
        if cache.read(prefix):
            read = tokens
        if mark is not None:
            points.append((prefix, tokens, mark.ttl))
            if mark.ttl == "1h" and any(ttl == "5m" for _, _, ttl in points):
                raise Rejected(400, "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.")
    if len(points) > _MAX_CACHE_MARKS:
        raise Rejected(400, f"A maximum of 4 blocks with cache_control may be provided. Found {len(points)}.")
    read = min(read, points[-1][1]) if points else 0
    written = read
    writes: list[tuple[bytes, float]] = []
    for prefix, tokens, ttl in points:
        if tokens >= cache.minimum_tokens and tokens > written:
            writes.append((prefix, _TTL_SECONDS[ttl]))
            five += tokens - written if ttl == "5m" else 0
            hour += tokens - written if ttl == "1h" else 0
            written = tokens
    return Input(uncached=total - read - five - hour, read=read, write_5m=five, write_1h=hour), writes


def _cacheable(body: Body, messages: list[Message]) -> list[tuple[bytes, int, CacheControl | None]]:
    """Yields the parts of the prompt in the order tools, system, messages: bytes, characters, mark."""
    parts: list[tuple[bytes, int, CacheControl | None]] = []
    parts += [(_unmarked(tool), _tool_chars(tool), tool.cache_control) for tool in body.tools]
    parts += [(b"s" + _unmarked(block), _block_chars(block), block.cache_control) for block in _as_blocks(body.system)]
    for message in messages:
        for at, block in enumerate(_as_blocks(message.content)):
            size = _block_chars(block) + (MESSAGE_OVERHEAD_CHARS if at == 0 else 0)
            parts.append((message.role.encode() + _unmarked(block), size, block.cache_control))
    if body.cache_control is not None and parts:
        content, size, mark = parts[-1]
        parts[-1] = (content, size, mark or body.cache_control)
    return parts


def _unmarked(part: Block | Tool) -> bytes:
    mark, part.cache_control = part.cache_control, None
    content = _encoder.encode(part)
    part.cache_control = mark
    return content


def _as_blocks(content: str | list[Block] | None) -> list[Block]:
    if isinstance(content, str):
        return [Block(type="text", text=content)]
    return content or []
