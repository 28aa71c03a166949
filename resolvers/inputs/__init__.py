"""What clients send, and how it becomes values of the domain. The enums are imported first; `enums` says why."""

from resolvers.inputs import enums

__all__ = ["enums"]
