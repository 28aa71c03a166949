"""From one request to its result, for every transport: read the document, pay for it, run it with its own context.

Every operation gets a new context, and so does every event of a subscription that calls a resolver. No loader or cache is used
by two of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, cast

from graphql import ExecutionResult, FieldNode, GraphQLError, NullValueNode, ValueNode, VariableNode
from graphql.execution.execute import create_source_event_stream
from strawberry import Schema

from app.access.allowance import Allowance, AllowanceExceeded, Allowances
from app.access.audience import Audience
from app.access.principal import Principal, Scope
from app.domain.errors import DeadlineExceeded, Forbidden, GreenLangError, LimitExceeded
from app.graphql.body import GraphQLRequest
from app.graphql.documents import Document, Documents, Operation
from app.graphql.errors import (
    Code,
    RequestFailed,
    failed_by,
    failure,
    format_document_error,
    format_field_error,
)
from app.graphql.plans import PlannedExecutor
from app.runtime.clock import Clock
from app.runtime.offload import Offload
from app.settings import Settings
from app.web.error_body import FormattedError
from app.web.misuse import Misuse, Origin

MakeContext: TypeAlias = Callable[[Principal, str, Allowance], object]
Payload: TypeAlias = dict[str, object]

_LARGE_VARIABLES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Caller:
    principal: Principal
    request_id: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Prepared:
    """A valid document with the requested operation. Nothing is paid or run yet."""

    request: GraphQLRequest
    document: Document
    operation: Operation

    @property
    def audience(self) -> Audience | None:
        """Who may share the events. None if the stream resumes after a cursor, because each subscriber has missed different
        events."""
        return None if self._resumes() else self.operation.audience

    def _resumes(self) -> bool:
        return any(
            not isinstance(field, FieldNode)
            or any(argument.name.value == "after" and self._is_given(argument.value) for argument in field.arguments or ())
            for field in self.operation.node.selection_set.selections
        )

    def _is_given(self, value: ValueNode) -> bool:
        if not isinstance(value, VariableNode):
            return not isinstance(value, NullValueNode)
        defaults = {
            definition.variable.name.value
            for definition in self.operation.node.variable_definitions or ()
            if definition.default_value is not None
        }
        return (self.request.variables or {}).get(value.name.value) is not None or value.name.value in defaults


@dataclass(slots=True)
class Run:
    executor: PlannedExecutor
    cost: int
    allowance: Allowance


class Engine:
    def __init__(
        self, schema: Schema, settings: Settings, make_context: MakeContext, *, clock: Clock, offload: Offload, misuse: Misuse
    ) -> None:
        self._schema = schema._schema
        self._limits = settings.limits
        self._production = settings.server.production
        self._make_context = make_context
        self._allowances = Allowances(settings.limits.allowance_capacity, settings.limits.allowance_per_second, clock)
        self._documents = Documents(self._schema, settings.limits, offload)
        self._offload = offload
        self._misuse = misuse

    async def prepare(self, request: GraphQLRequest, caller: Caller) -> Prepared:
        """Raises RequestFailed; then nothing was executed."""
        privileged = Scope.ADMIN in caller.principal.scopes
        hide_suggestions = self._production and not privileged
        try:
            document = await self._documents.read(
                request, caller.principal.key_id, privileged=privileged, hide_suggestions=hide_suggestions
            )
            if document.introspects and hide_suggestions:
                raise Forbidden("introspection needs the scope ADMIN here")
        except Forbidden as refusal:
            self._misuse.note(refusal, caller.origin, caller.principal.hint)
            raise failed_by(refusal, caller.request_id) from None
        return Prepared(request, document, document.operation(request.operation_name))

    async def execute(self, prepared: Prepared, caller: Caller) -> Payload:
        """Returns the result of a query or mutation, ready to encode. Raises RequestFailed."""
        return await self.execute_admitted(await self.admit_operation(prepared, caller), prepared, caller)

    async def execute_admitted(self, run: Run, prepared: Prepared, caller: Caller) -> Payload:
        """Runs an admitted operation and returns its result. Raises RequestFailed."""
        run.executor.context_value = self._context(run, caller)
        try:
            async with asyncio.timeout(self._limits.execution_timeout.total_seconds()):
                if prepared.operation.introspection_only:
                    outcome = await self._offload.run_in_thread(len(prepared.document.text), run.executor.execute_operation)
                else:
                    outcome = run.executor.execute_operation()
                result = cast("ExecutionResult", await outcome if run.executor.is_awaitable(outcome) else outcome)
        except TimeoutError:
            raise failed_by(DeadlineExceeded("the operation took too long"), caller.request_id) from None
        return self._payload(result, run, prepared, caller)

    async def subscribe(self, run: Run, caller: Caller) -> AsyncGenerator[Payload, None]:
        """Returns the events of an admitted subscription, ready to encode. The source is open when this returns. Both this
        method and the events raise RequestFailed."""
        run.executor.context_value = self._context(run, caller)
        stream = create_source_event_stream(run.executor)
        source = await stream if isinstance(stream, Awaitable) else stream
        if isinstance(source, ExecutionResult):
            raise RequestFailed(self._formatted(source.errors or (), caller), 400, in_document=True)
        return self._events(source, run, caller)

    def greet(self, prepared: Prepared, run: Run, caller: Caller) -> None:
        """Call it when a subscriber joins a stream that already has others."""
        if prepared.operation.joined is not None:
            prepared.operation.joined(self._context(run, caller))

    async def admit_operation(self, prepared: Prepared, caller: Caller) -> Run:
        """Reads the operation's variables and takes its points; nothing runs yet. Raises RequestFailed."""
        try:
            if prepared.request.size > _LARGE_VARIABLES:
                executor = await self._offload.run_in_thread(prepared.request.size, partial(self._executor, prepared, caller))
            else:
                executor = self._executor(prepared, caller)
            cost = prepared.operation.cost.requested(executor.variable_values.coerced)
            if cost > self._limits.cost:
                raise LimitExceeded("cost", cost, self._limits.cost)
            allowance = self._allowances.take(caller.principal.key_id, cost)
        except AllowanceExceeded as error:
            raise _allowance_exceeded(error) from None
        except LimitExceeded as error:
            raise failed_by(error, caller.request_id) from None
        return Run(executor, cost, allowance)

    async def _events(self, source: AsyncIterable[object], run: Run, caller: Caller) -> AsyncGenerator[Payload, None]:
        iterator = aiter(source)
        try:
            while True:
                try:
                    event = await anext(iterator)
                except StopAsyncIteration:
                    return
                except Exception as error:  # noqa: BLE001 (whatever ends a source is reported to its subscriber, masked and logged)
                    self._misuse.note(error, caller.origin, caller.principal.hint)
                    raise failed_by(error, caller.request_id) from None
                planned = run.executor.complete_event(event)
                yield {"data": planned} if planned is not None else await self._event(event, run, caller)
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    async def _event(self, event: object, run: Run, caller: Caller) -> Payload:
        executor = run.executor.build_per_event_executor(event)
        try:
            executor.context_value = self._context(run, caller)
            async with asyncio.timeout(self._limits.execution_timeout.total_seconds()):
                outcome = executor.execute_operation(False)
                result = cast("ExecutionResult", await outcome if executor.is_awaitable(outcome) else outcome)
        except TimeoutError:
            return failed_by(DeadlineExceeded("the event took too long"), caller.request_id).payload
        except RequestFailed as failed:
            return failed.payload
        return self._result_payload(result, caller)

    def _context(self, run: Run, caller: Caller) -> object:
        try:
            return self._make_context(caller.principal, caller.request_id, run.allowance)
        except GreenLangError as error:
            raise failed_by(error, caller.request_id) from None

    def _executor(self, prepared: Prepared, caller: Caller) -> PlannedExecutor:
        """Builds an executor with coerced variables and without a context. Raises LimitExceeded."""
        variables = prepared.request.variables
        prepared.operation.uses.check(variables)
        built = PlannedExecutor.build(
            self._schema,
            prepared.document.node,
            raw_variable_values=dict(variables) if variables else None,
            operation_name=prepared.operation.name,
            hide_suggestions=self._production and Scope.ADMIN not in caller.principal.scopes,
        )
        if isinstance(built, list):
            errors = [format_document_error(error, Code.BAD_USER_INPUT) for error in built]
            raise RequestFailed(errors, 400, in_document=True)
        executor = cast("PlannedExecutor", built)
        executor.plans = prepared.document.plans
        return executor

    def _payload(self, result: ExecutionResult, run: Run, prepared: Prepared, caller: Caller) -> Payload:
        payload = self._result_payload(result, caller)
        actual = prepared.operation.cost.actual(result.data)
        left = run.allowance
        if actual < run.cost:
            left = self._allowances.give_back(caller.principal.key_id, run.cost - actual)
        payload["extensions"] = {"cost": {"requested": run.cost, "actual": actual, "remaining": left.remaining}}
        return payload

    def _result_payload(self, result: ExecutionResult, caller: Caller) -> Payload:
        if not result.errors:
            return {"data": result.data}
        return {"data": result.data, "errors": self._formatted(result.errors, caller)}

    def _formatted(self, errors: Sequence[GraphQLError], caller: Caller) -> list[FormattedError]:
        """A forbidden operation is noted once, even if several of its fields are forbidden."""
        causes = (error.original_error for error in errors)
        forbidden = next((cause for cause in causes if isinstance(cause, Forbidden)), None)
        self._misuse.note(forbidden, caller.origin, caller.principal.hint)
        return [format_field_error(error, caller.request_id) for error in errors]


def _allowance_exceeded(error: AllowanceExceeded) -> RequestFailed:
    wait_ms = max(1, round(error.retry_after_seconds * 1000))
    failed = failure(
        Code.LIMIT_EXCEEDED,
        f"the document costs {error.had} points and {error.allowed} are left",
        429,
        limit=error.limit,
        had=error.had,
        allowed=error.allowed,
        retryAfterMs=wait_ms,
    )
    failed.headers = ((b"retry-after", str(-(-wait_ms // 1000)).encode()),)
    return failed
