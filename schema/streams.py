"""Events of a stream. Each has a position from which the stream can be taken up again."""

from __future__ import annotations

from datetime import datetime

import strawberry
from strawberry import field

from app import completion_events
from app.events import heartbeat
from resolvers.inputs.paging import Cursor
from schema.describes import describes


@strawberry.interface(description="Something that happened, at its position in a stream.")
class StreamEvent:
    cursor: Cursor = field(description="Its position: pass it as `after` to take the stream up behind it.")
    at: datetime = field(description="When it happened.")


@describes(
    completion_events.CompletionHeartbeat,
    heartbeat.Heartbeat,
    description="Nothing happened; the stream is alive and the cursor moved.",
)
class Heartbeat(StreamEvent):
    pass
