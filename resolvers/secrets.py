from __future__ import annotations

from app.secret_stores.watch import SecretState
from resolvers.info import Info


async def secrets(info: Info) -> list[SecretState]:
    return info.context.services.secrets.states()
