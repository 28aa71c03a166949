"""The tool calls of a streamed answer in OpenAI's protocol, assembled from their pieces.

Servers number the pieces wrongly or not at all. A piece belongs to the call with its id, else to the call with its index, else
to the last call. A name begins a new call if it comes with another id or after complete arguments, whatever the index says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from app.llm.messages import ToolCall, ToolCallDelta
from app.llm.providers.answers import CallIds
from app.llm.providers.opaque_fields import Fields, join
from app.llm.providers.openai.content import CallPiece
from app.llm.providers.openai.response import new_tool_call_id
from app.llm.providers.unsupported import Notes
from app.llm.providers.wire_text import Malformed, clean

REPEATED_CALL = "The provider sent a tool call twice; it counts once."
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Call:
    __slots__ = ("fields", "given_id", "id", "index", "name", "pieces")

    def __init__(self, call_id: str, name: str, piece: CallPiece) -> None:
        self.id = call_id
        self.name = name
        self.given_id = piece.id
        self.index = piece.index
        self.pieces: list[str] = []
        self.fields: Fields = {}

    @property
    def is_whole(self) -> bool:
        """The arguments are the JSON text of an object, so nothing can follow."""
        try:
            _OBJECT.decode("".join(self.pieces))
        except (msgspec.MsgspecError, RecursionError):
            return False
        return True


class ToolCallAssembly:
    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._ids = CallIds(notes, new_tool_call_id)
        self._calls: list[_Call] = []
        self._announced: CallPiece | None = None

    def __bool__(self) -> bool:
        return bool(self._calls)

    def take(self, piece: CallPiece) -> Sequence[ToolCallDelta]:
        """Returns the parts to pass on. Raises Malformed for a piece of a call that has not begun."""
        made = self._call_of(piece)
        parts: list[ToolCallDelta] = []
        if made is not None and self._says_again(piece, made):
            return parts
        if made is None or self._begins_another(piece, made):
            if not piece.name:
                self._announce(piece)
                return parts
            name, piece = clean(piece.name), self._with_announced_id(piece)
            made = _Call(self._ids.distinct(piece.id), name, piece)
            self._calls.append(made)
            parts.append(ToolCallDelta(made.id, "", name))
        join(made.fields, piece.fields)
        if arguments := clean(piece.arguments):
            made.pieces.append(arguments)
            parts.append(ToolCallDelta(made.id, arguments))
        return parts

    def _says_again(self, piece: CallPiece, made: _Call) -> bool:
        """Some servers send a whole call again at the end."""
        named = piece.id is not None and (piece.id, piece.index) == (made.given_id, made.index) and bool(piece.name)
        if not named or piece.arguments != "".join(made.pieces) or not made.is_whole:
            return False
        self._notes.add(REPEATED_CALL)
        return True

    def _announce(self, piece: CallPiece) -> None:
        """Some servers send the id of a call before its name."""
        if piece.arguments or self._announced is not None or piece.id is None:
            raise Malformed
        self._announced = piece

    def _with_announced_id(self, piece: CallPiece) -> CallPiece:
        announced, self._announced = self._announced, None
        if announced is None:
            return piece
        if announced.index != piece.index or piece.id not in {None, announced.id}:
            raise Malformed
        return replace(piece, id=announced.id, fields={**announced.fields, **piece.fields})

    def whole(self) -> tuple[ToolCall, ...]:
        """Raises Malformed if a call has no name."""
        if self._announced is not None:
            raise Malformed
        return tuple(ToolCall(made.id, made.name, "".join(made.pieces) or "{}") for made in self._calls)

    def fields(self) -> dict[str, Fields]:
        """The fields of each call, by its id."""
        return {made.id: made.fields for made in self._calls if made.fields}

    def _call_of(self, piece: CallPiece) -> _Call | None:
        """Returns the call that a piece continues, unless its name says otherwise; the newest one if several match."""
        newest = self._calls[::-1]
        if piece.id is not None:
            same_id = [made for made in newest if made.given_id == piece.id]
            if same_id:
                return next((made for made in same_id if made.index == piece.index), same_id[0])
        if piece.index is not None:
            same_index = next((made for made in newest if made.index == piece.index), None)
            if same_index is not None or piece.name or any(made.index is not None for made in newest):
                return same_index
        return newest[0] if newest else None

    def _begins_another(self, piece: CallPiece, made: _Call) -> bool:
        """Some servers repeat id and name in every piece of a call."""
        if not piece.name:
            return False
        if piece.id is not None and piece.id == made.given_id:
            return clean(piece.name) != made.name or (bool(piece.arguments.strip()) and made.is_whole)
        if piece.id is not None and made.given_id is not None:
            return True
        return clean(piece.name) != made.name or made.is_whole or (piece.index is None and not made.pieces)
