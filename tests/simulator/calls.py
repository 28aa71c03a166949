"""Calls through the real SDKs that keep what arrived before a stream broke."""

from __future__ import annotations

from anthropic import AsyncAnthropic
from anthropic.types import RawMessageStreamEvent
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

CLAUDE, GPT = "claude-haiku-5-5", "gpt-5.4-mini"
FIFTY = "[[simulator tokens=50]]"


async def claude(client: AsyncAnthropic, text: str = FIFTY) -> str:
    message = await client.messages.create(model=CLAUDE, max_tokens=60_000, messages=[{"role": "user", "content": text}])
    return "".join(block.text for block in message.content if block.type == "text")


async def claude_events(client: AsyncAnthropic, events: list[RawMessageStreamEvent]) -> None:
    stream = await client.messages.create(
        model=CLAUDE, max_tokens=60_000, messages=[{"role": "user", "content": FIFTY}], stream=True
    )
    async for event in stream:
        events.append(event)  # noqa: PERF401 -- kept when the stream breaks


async def gpt(client: AsyncOpenAI, text: str = FIFTY, *, model: str = GPT) -> str | None:
    completion = await client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    return completion.choices[0].message.content


async def gpt_chunks(client: AsyncOpenAI, chunks: list[ChatCompletionChunk]) -> None:
    stream = await client.chat.completions.create(
        model=GPT, messages=[{"role": "user", "content": FIFTY}], stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        chunks.append(chunk)  # noqa: PERF401 -- kept when the stream breaks


def deltas(events: list[RawMessageStreamEvent]) -> int:
    return sum(event.type == "content_block_delta" for event in events)


def contents(chunks: list[ChatCompletionChunk]) -> int:
    return sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks)
