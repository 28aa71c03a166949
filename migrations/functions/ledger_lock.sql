-- The number of the ledger's advisory lock. A transaction that writes calls and sums takes it shared; one that makes or changes a budget
-- takes it exclusively (`pg_advisory_xact_lock(ledger_lock())`), so that a budget opens with the sums of everything that was committed and
-- nothing else. It is always the first lock of its transaction. It is held until the transaction ends.
create or replace function ledger_lock() returns bigint
language sql immutable
return 7246001;
