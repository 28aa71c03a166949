"""What clients send, and how it becomes what the domain takes. The enums come first, see there."""

from resolvers.inputs import enums

__all__ = ["enums"]
