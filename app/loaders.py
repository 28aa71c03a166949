"""Loaders collect the keys that sibling fields ask for and fetch them with one statement. A fresh set for every operation:
nothing one operation has seen is shown to another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.access.principal import Principal

if TYPE_CHECKING:
    from app.services import Services


class Loaders:
    """Each loader is made when it is first asked for; most operations need none."""

    def __init__(self, services: Services, principal: Principal) -> None:
        self._services = services
        self._principal = principal
