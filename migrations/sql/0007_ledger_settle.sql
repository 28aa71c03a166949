-- Where the row of a call lies. It stays there while it is locked, so that it need not be looked up again to be ended.
alter type ledger_found add attribute place tid;
