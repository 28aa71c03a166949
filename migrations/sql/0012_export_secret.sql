-- Counts the secrets that one name has had, so that what an earlier one signed is known.
alter table installation_secrets add column version integer not null default 1;
