alter table api_keys add column calls_cancelled_at timestamptz;
