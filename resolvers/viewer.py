from __future__ import annotations

from app.access.allowance import Allowance
from app.access.principal import Principal, Scope
from resolvers.info import Info


def viewer(info: Info) -> Principal:
    return info.context.principal


def allowance(info: Info) -> Allowance:
    return info.context.allowance


def scopes(root: Principal) -> list[Scope]:
    return [scope for scope in Scope if scope in root.scopes]
