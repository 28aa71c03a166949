from __future__ import annotations

import strawberry
from strawberry import field

from app.domain.usage import Label
from resolvers.inputs.checks import Path, check_count, check_distinct, check_length

_MAX_LABELS = 16
_MAX_KEY_LENGTH = 64
_MAX_VALUE_LENGTH = 256


@strawberry.input(description="A label on a call, by which its costs can be found and grouped.")
class LabelInput:
    key: str = field(description="1 to 64 characters, such as `team`.")
    value: str = field(description="1 to 256 characters, such as `search`.")

    def to_domain(self, path: Path) -> Label:
        check_length(self.key, _MAX_KEY_LENGTH, (*path, "key"))
        check_length(self.value, _MAX_VALUE_LENGTH, (*path, "value"))
        return Label(self.key, self.value)


def to_labels(labels: list[LabelInput] | None, path: Path) -> tuple[Label, ...]:
    """At most 16, each key once."""
    if not labels:
        return ()
    check_count(labels, _MAX_LABELS, path)
    check_distinct((label.key for label in labels), path)
    return tuple(label.to_domain((*path, str(position))) for position, label in enumerate(labels))
