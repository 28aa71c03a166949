"""A tool that the caller wants called in any case. Some models cannot be made to call one while they reason: they are left the
choice, and a note says so. A note also says if the tool was not called."""

from __future__ import annotations

from collections.abc import Sequence

from app.llm.messages import ModelCall, NamedTool, ToolCall, ToolChoiceMode, UnsupportedPolicy
from app.llm.providers.unsupported import Notes, refuse


def is_forced(call: ModelCall) -> bool:
    return isinstance(call.tool_choice, NamedTool) or call.tool_choice is ToolChoiceMode.REQUIRED


def leave_the_choice(notes: Notes) -> None:
    """Raises Refused(InvalidInput) if the call's policy is to refuse."""
    call = notes.call
    if call.unsupported is UnsupportedPolicy.REFUSE:
        raise refuse(f"{call.model} cannot be made to call a tool while it reasons.", ("toolChoice",))
    notes.add(f"toolChoice was changed to AUTO: {call.model} cannot be made to call a tool while it reasons.")


def note_if_not_called(tool_calls: Sequence[ToolCall], notes: Notes) -> None:
    choice = notes.call.tool_choice
    if isinstance(choice, NamedTool) and all(made.name != choice.name for made in tool_calls):
        notes.add(f"The model did not call the tool {choice.name} that toolChoice names.")
    elif choice is ToolChoiceMode.REQUIRED and not tool_calls:
        notes.add("The model called no tool, although toolChoice is REQUIRED.")
