"""An agent as its own process: a loop of turns with two tools at once, a thinking model and a PDF. After every turn it saves its
conversation to a file; started again it goes on from there.

    python -m tests.drills.agent_loop URL FILE MODEL TURNS --pause-before TURN [--stream]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from tests.pdfs import base64_pdf

Data: TypeAlias = "dict[str, Any]"  # JSON as a client sees it

COMPLETE = """
mutation($input: CompletionInput!) {
  completionCreate(input: $input) {
    __typename
    ... on Completion {
      id text finishReason reasoning providerState toolCalls { id name arguments providerState }
    }
  }
}"""
WATCH = """
subscription($input: CompletionInput!) {
  completionStream(input: $input) {
    __typename
    ... on CompletionFinished {
      completion { id text finishReason reasoning providerState toolCalls { id name arguments providerState } }
    }
    ... on CompletionFailed { problem { ... on Problem { code message } } }
  }
}"""
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
TOOLS = [{"name": name, "description": f"The {name} of a city.", "parameters": CITY} for name in ("weather", "clock")]


def main() -> None:
    options = _options()
    file = Path(options.file)
    messages: list[Data] = json.loads(file.read_text()) if file.exists() else [_question()]
    while (turn := sum(message["role"] == "ASSISTANT" for message in messages)) < options.turns:
        if turn == options.pause_before:
            _say("pausing")
        asked = {
            "messages": messages,
            "model": options.model,
            "tools": TOOLS,
            "toolChoice": {"mode": "NONE"} if turn == options.turns - 1 else None,
            "reasoningEffort": "LOW",
            "maxOutputTokens": 4000,
            "idempotencyKey": f"{file.name}-{turn}",
        }
        answer = _streamed(options.url, asked) if options.stream else _whole(options.url, asked)
        messages += [_assistant(answer), *map(_result, answer["toolCalls"])]
        if turn + 1 < options.turns:
            messages.append({"role": "USER", "text": f"Turn {turn + 1}: ask weather and clock about Bergen."})
        _save(file, messages)
    _say("done")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("file")
    parser.add_argument("model")
    parser.add_argument("turns", type=int)
    parser.add_argument("--pause-before", type=int, default=-1)
    parser.add_argument("--stream", action="store_true")
    return parser.parse_args()


def _question() -> Data:
    pdf = {"document": {"base64": {"data": base64_pdf(2), "mediaType": "application/pdf"}, "name": "cities.pdf"}}
    return {"role": "USER", "parts": [{"text": "Ask weather and clock about the cities in this document."}, pdf]}


def _assistant(answer: Data) -> Data:
    return {
        "role": "ASSISTANT",
        "text": answer["text"] or None,
        "toolCalls": answer["toolCalls"] or None,
        "reasoning": answer["reasoning"],
        "providerState": answer["providerState"],
    }


def _result(call: Data) -> Data:
    city = json.loads(call["arguments"])["city"]
    return {"role": "TOOL", "toolResult": {"id": call["id"], "content": f"{call['name']} in {city}: fine"}}


def _save(file: Path, messages: list[Data]) -> None:
    """Never half a file, wherever this process is killed."""
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(messages))
    beside.replace(file)


def _whole(url: str, asked: Data) -> Data:
    with urllib.request.urlopen(_request(url, COMPLETE, asked, "application/json")) as answered:
        answer: Data = json.load(answered)
    completion: Data = answer["data"]["completionCreate"]
    assert completion["__typename"] == "Completion", answer
    return completion


def _streamed(url: str, asked: Data) -> Data:
    last: Data = {}
    for event in _events(url, asked):
        last = event
    assert last["__typename"] == "CompletionFinished", last
    completion: Data = last["completion"]
    return completion


def _events(url: str, asked: Data) -> Iterator[Data]:
    with urllib.request.urlopen(_request(url, WATCH, asked, "text/event-stream")) as stream:
        for line in stream:
            if line.startswith(b"data: {"):
                answer: Data = json.loads(line[6:])
                assert "errors" not in answer, answer
                yield answer["data"]["completionStream"]


def _request(url: str, query: str, asked: Data, accept: str) -> urllib.request.Request:
    body = json.dumps({"query": query, "variables": {"input": asked}}).encode()
    headers = {
        "Content-Type": "application/json",
        "Accept": accept,
        "Authorization": f"Bearer {os.environ['GREENLANG_KEY']}",
    }
    return urllib.request.Request(url, body, headers)


if __name__ == "__main__":
    main()
