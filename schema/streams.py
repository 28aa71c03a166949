"""Events of a stream. Each has a position from which the stream can be resumed."""

from __future__ import annotations

from datetime import datetime

import strawberry
from strawberry import field

from app.events import heartbeat
from app.gateway.streams import events as completion_events
from resolvers.inputs.paging import Cursor
from schema.describes import describes


@strawberry.interface(description="An event with its position in a stream.")
class StreamEvent:
    cursor: Cursor = field(description="Its position. Pass it as `after` to resume the stream after this event.")
    at: datetime = field(description="When it happened.")


@describes(
    completion_events.CompletionHeartbeat,
    heartbeat.Heartbeat,
    description="Nothing happened. The stream is alive and the cursor moved.",
)
class Heartbeat(StreamEvent):
    pass
