from __future__ import annotations

from uuid import UUID

from app.access.running_calls import RunningCalls

KEY, OTHER = UUID(int=1), UUID(int=2)


class TestCancelling:
    def test_reaches_every_call_of_the_key_and_no_other(self) -> None:
        calls, cancelled = RunningCalls(), list[str]()
        with (
            calls.running(KEY, lambda: cancelled.append("one")),
            calls.running(KEY, lambda: cancelled.append("two")),
            calls.running(OTHER, lambda: cancelled.append("other")),
        ):
            calls.cancel(KEY)
        assert cancelled == ["one", "two"]
        assert (calls.is_cancelled(KEY), calls.is_cancelled(OTHER)) == (True, False)

    def test_reaches_a_call_that_begins_later(self) -> None:
        calls, cancelled = RunningCalls(), list[str]()
        calls.cancel(KEY)
        with calls.running(KEY, lambda: cancelled.append("late")):
            pass
        assert cancelled == ["late"]

    def test_leaves_alone_what_has_ended(self) -> None:
        calls, cancelled = RunningCalls(), list[str]()
        with calls.running(KEY, lambda: cancelled.append("ended")):
            pass
        calls.cancel(KEY)
        assert cancelled == []
