from __future__ import annotations

import pytest
from anthropic import AsyncAnthropic

pytestmark = pytest.mark.anyio
MODEL = "claude-haiku-5-5"


class TestPlainAnswer:
    async def test_has_the_ids_and_usage_of_the_real_api(self, anthropic_client: AsyncAnthropic) -> None:
        message = await anthropic_client.messages.create(
            model=MODEL, max_tokens=200, messages=[{"role": "user", "content": "Hello there"}]
        )

        assert message.id.startswith("msg_01")
        assert message._request_id is not None
        assert message._request_id.startswith("req_011C")
        assert message.model == MODEL
        assert message.stop_reason == "end_turn"
        assert 24 <= message.usage.output_tokens <= 63
