"""Requests to OpenAI's Chat Completions: what is accepted, what is refused, and how many tokens are counted."""

from __future__ import annotations

import hashlib
import zlib

import msgspec
from msgspec import Raw

from simulator.answers import Ask, Input, ToolMode
from simulator.anthropic_request import has_open_object
from simulator.media import pdf_chars
from simulator.models import FAULT_MARK, Model, wants_completion_tokens
from simulator.openai_body import Body, File, Message, NamedChoice, Part
from simulator.openai_refusals import decoded, known_model, too_long
from simulator.prefix_cache import PrefixCache
from simulator.protocol import Rejected
from simulator.text import CHARS_PER_TOKEN, IMAGE_TOKENS, MESSAGE_OVERHEAD_CHARS, tokens_of

_CACHE_STEP_TOKENS = 128
_CACHE_SECONDS = 1800.0
_MAX_STOPS = 4
_SERVED = {"auto": "default", "default": "default", "flex": "flex", "priority": "priority", "fast": "priority"}
"""The tier that an answer names, by the requested tier."""
_PDF_DATA = "data:application/pdf;base64,"
_EFFORT_TOKENS = {"none": 0, "minimal": 8, "low": 16, "medium": 32, "high": 64, "xhigh": 96, "max": 128}


_decoder = msgspec.json.Decoder(Body)
_messages_decoder = msgspec.json.Decoder(list[Message])


def parse(raw: bytes, key: str, cache: PrefixCache) -> Ask:
    """Raises Rejected with the messages of the real API."""
    body = decoded(_decoder, raw)
    messages = decoded(_messages_decoder, body.messages, "messages")
    model = known_model(body.model)
    _check(body, model)
    _check_conversation(messages)
    _check_format(body, messages)
    tools = body.tools or []
    chars = sum(len(tool.function.name) + len(tool.function.description or "") + len(tool.function.parameters) for tool in tools)
    chars += sum(_message_chars(message) for message in messages)
    total = tokens_of(chars)
    if total > model.context_tokens:
        raise too_long(total, model.context_tokens)
    counted, writes = _cached(body, model, key, cache, total)
    mode, named = _tool_mode(body)
    form = body.response_format
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    limit = body.max_completion_tokens or body.max_tokens or model.max_output_tokens
    return Ask(
        fault=body.model.partition(FAULT_MARK)[2] or None,
        model=model,
        stream=bool(body.stream),
        seed=zlib.crc32(body.messages, zlib.crc32(f"{body.model} {body.seed}".encode())),
        prompt=_text(messages[-1]),
        input=counted,
        cache_writes=writes,
        max_tokens=limit,
        thinking_tokens=_EFFORT_TOKENS[_effort(body, model)],
        tools={tool.function.name: tool.function.parameters for tool in tools},
        tool_mode=mode,
        tool_named=named,
        parallel=body.parallel_tool_calls is not False,
        tools_answered=messages[-1].role == "tool",
        schema=form.json_schema.schema if form is not None and form.json_schema is not None else None,
        json_object=form is not None and form.type == "json_object",
        stop=tuple(stop),
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
        service_tier=_SERVED.get(body.service_tier or "auto"),
        user=body.safety_identifier or body.user,
    )


def _check(body: Body, model: Model) -> None:
    if model.dimensions is not None:
        raise Rejected(404, "This is not a chat model and thus not supported in the v1/chat/completions endpoint.", param="model")
    _check_limits(body, model)
    _check_effort_and_tier(body, model)
    sampled = [name for name in ("temperature", "top_p") if getattr(body, name) not in {None, 1}]
    thinks = not model.takes_sampling or _effort(body, model) != "none"
    if sampled and thinks and wants_completion_tokens(model):
        raise Rejected(
            400,
            f"Unsupported value: '{sampled[0]}' does not support {getattr(body, sampled[0])} with this model. "
            "Only the default (1) value is supported.",
            code="unsupported_value",
            param=sampled[0],
        )
    if body.temperature is not None and not 0 <= body.temperature <= 2:
        raise Rejected(400, "Invalid 'temperature': decimal out of range.", code="decimal_out_of_range", param="temperature")
    if isinstance(body.stop, list) and len(body.stop) > _MAX_STOPS:
        raise Rejected(
            400,
            "Invalid 'stop': array too long. Expected an array with maximum length 4.",
            code="array_above_max_length",
            param="stop",
        )
    if body.stop and not model.takes_sampling:
        raise Rejected(
            400, "Unsupported parameter: 'stop' is not supported with this model.", code="unsupported_parameter", param="stop"
        )
    _check_tools(body)


def _check_effort_and_tier(body: Body, model: Model) -> None:
    effort, tier = body.reasoning_effort, body.service_tier
    if effort is not None and not model.efforts:
        raise Rejected(400, "Unrecognized request argument supplied: reasoning_effort")
    if effort is not None and effort not in model.efforts:
        raise Rejected(
            400,
            f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. Supported values are: "
            f"{', '.join(repr(each) for each in model.efforts)}.",
            code="unsupported_value",
            param="reasoning_effort",
        )
    if tier is not None and (tier not in _SERVED or (tier not in {"auto", "default"} and not model.takes_tiers)):
        raise Rejected(400, "Invalid service_tier argument", param="service_tier")


def _check_limits(body: Body, model: Model) -> None:
    if body.n not in {None, 1}:
        raise Rejected(400, "The simulator makes one choice.", code="unsupported_value", param="n")
    if body.max_tokens is not None and wants_completion_tokens(model):
        raise Rejected(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            code="unsupported_parameter",
            param="max_tokens",
        )
    for name in ("max_tokens", "max_completion_tokens"):
        limit: int | None = getattr(body, name)
        if limit is not None and limit < 1:
            raise Rejected(400, f"Invalid '{name}': integer below minimum value.", code="integer_below_min_value", param=name)
        if limit is not None and limit > model.max_output_tokens:
            raise Rejected(
                400,
                f"{name} is too large: {limit}. This model supports at most {model.max_output_tokens} completion tokens.",
                code="invalid_value",
                param=name,
            )
    if body.stream_options is not None and not body.stream:
        raise Rejected(400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.", param="stream_options")


def _check_tools(body: Body) -> None:
    names = {tool.function.name for tool in body.tools or []}
    if body.tools == []:
        raise Rejected(400, "Invalid 'tools': empty array.", code="empty_array", param="tools")
    if body.tool_choice is not None and not names:
        raise Rejected(400, "'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")
    if body.parallel_tool_calls is not None and not names:
        raise Rejected(400, "'parallel_tool_calls' is only allowed when 'tools' are specified.", param="parallel_tool_calls")
    if isinstance(body.tool_choice, NamedChoice) and body.tool_choice.function.name not in names:
        raise Rejected(400, "Invalid value for 'tool_choice': the function is not in 'tools'.", param="tool_choice")
    for tool in body.tools or []:
        if tool.function.strict:
            _check_strict(
                tool.function.parameters,
                f"function '{tool.function.name}'",
                "tools[0].function.parameters",
                "invalid_function_parameters",
            )


def _check_format(body: Body, messages: list[Message]) -> None:
    form = body.response_format
    if form is None:
        return
    if form.type == "json_schema":
        if form.json_schema is None:
            raise Rejected(400, "Missing required parameter: 'response_format.json_schema'.", param="response_format.json_schema")
        if form.json_schema.strict:
            _check_strict(
                form.json_schema.schema, f"response_format '{form.json_schema.name}'", "response_format", "invalid_json_schema"
            )
    if form.type == "json_object" and not any("json" in _text(message).lower() for message in messages):
        raise Rejected(
            400,
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            param="messages",
        )


def _check_strict(schema: Raw, where: str, param: str, code: str) -> None:
    if has_open_object(msgspec.json.decode(schema)):
        raise Rejected(
            400,
            f"Invalid schema for {where}: In context=(), 'additionalProperties' is required to be supplied and to be false.",
            code=code,
            param=param,
        )


def _check_conversation(messages: list[Message]) -> None:
    if not messages:
        raise Rejected(
            400,
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            code="empty_array",
            param="messages",
        )
    asked: set[str] = set()
    for index, message in enumerate(messages):
        if message.role == "tool":
            if message.tool_call_id not in asked:
                raise Rejected(
                    400,
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
                    param=f"messages.[{index}].role",
                )
            asked.discard(message.tool_call_id)
        elif asked:
            break
        else:
            asked = {call.id for call in message.tool_calls or []}
        _check_parts(index, message)
        if message.role in {"user", "system", "developer"} and message.content is None:
            raise Rejected(
                400,
                "Invalid value for 'content': expected a string, got null.",
                code="invalid_type",
                param=f"messages.[{index}].content",
            )
    if asked:
        raise Rejected(
            400,
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
            f"The following tool_call_ids did not have response messages: {', '.join(sorted(asked))}",
            param="messages",
        )


def _check_parts(index: int, message: Message) -> None:
    for at, part in enumerate(message.content if isinstance(message.content, list) else ()):
        if part.type in {"image_url", "file", "input_audio"} and message.role != "user":
            what = {"image_url": "Image URLs", "file": "Files"}.get(part.type, "Audio inputs")
            raise Rejected(
                400,
                f"Invalid 'messages[{index}]'. {what} are only allowed for messages with role 'user', but this message with role "
                f"'{message.role}' contains one.",
                code="invalid_value",
                param=f"messages[{index}]",
            )
        if part.type == "file":
            _check_file(part.file or File(), f"messages[{index}].content[{at}].file")


def _check_file(file: File, path: str) -> None:
    if file.file_id is not None:
        raise Rejected(404, f"No such File object: {file.file_id}", param=f"{path}.file_id")
    if file.filename is None or file.file_data is None:
        missing = "filename" if file.filename is None else "file_data"
        raise Rejected(
            400, f"Missing required parameter: '{path}.{missing}'.", code="missing_required_parameter", param=f"{path}.{missing}"
        )
    try:
        if not file.file_data.startswith(_PDF_DATA):
            raise ValueError("no PDF")
        pdf_chars(file.file_data.removeprefix(_PDF_DATA))
    except ValueError:
        raise Rejected(
            400,
            f"Invalid file data: '{path}.file_data'. Expected a base64-encoded data URL with an application/pdf MIME type.",
            code="invalid_value",
            param=f"{path}.file_data",
        ) from None


def _tool_mode(body: Body) -> tuple[ToolMode, str | None]:
    if isinstance(body.tool_choice, NamedChoice):
        return ToolMode.NAMED, body.tool_choice.function.name
    modes = {None: ToolMode.AUTO, "auto": ToolMode.AUTO, "none": ToolMode.NONE, "required": ToolMode.ANY}
    return modes[body.tool_choice], None


def _effort(body: Body, model: Model) -> str:
    return body.reasoning_effort or ("medium" if model.reasons else "none")


def _text(message: Message) -> str:
    if isinstance(message.content, list):
        return "\n".join(part.text or "" for part in message.content)
    return message.content or ""


def _message_chars(message: Message) -> int:
    chars = MESSAGE_OVERHEAD_CHARS
    if isinstance(message.content, str):
        chars += len(message.content)
    elif message.content is not None:
        chars += sum(_part_chars(part) for part in message.content)
    for call in message.tool_calls or ():
        chars += len(call.function.name) + len(call.function.arguments)
    return chars


def _part_chars(part: Part) -> int:
    if part.type == "image_url":
        return IMAGE_TOKENS * CHARS_PER_TOKEN
    if part.file is not None:
        return pdf_chars((part.file.file_data or "").removeprefix(_PDF_DATA))
    return len(part.text or "")


def _cached(body: Body, model: Model, key: str, cache: PrefixCache, total: int) -> tuple[Input, list[tuple[bytes, float]]]:
    """The provider caches by itself: every 128 tokens of a prompt of at least 1,024 tokens are a prefix that it may know."""
    if total < cache.minimum_tokens:
        return Input(uncached=total), []
    prompt = bytes(body.messages)
    step = _CACHE_STEP_TOKENS * CHARS_PER_TOKEN
    running = hashlib.blake2b(f"{key}\x00{body.model}\x00{body.prompt_cache_key}".encode(), digest_size=16)
    read = covered = 0
    unbroken = True
    writes: list[tuple[bytes, float]] = []
    for at in range(0, min(len(prompt), total * CHARS_PER_TOKEN) - step + 1, step):
        running.update(prompt[at : at + step])
        covered += _CACHE_STEP_TOKENS
        prefix = running.digest()
        unbroken = unbroken and cache.read(prefix)
        if unbroken:
            read = covered
        else:
            writes.append((prefix, _CACHE_SECONDS))
    read = read if read >= cache.minimum_tokens else 0
    written = covered - read if model.reports_cache_writes else 0
    return Input(uncached=total - read - written, read=read, write_5m=written), writes
