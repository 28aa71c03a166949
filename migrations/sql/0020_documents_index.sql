create index ix_documents_collection on documents (collection, id)
--
alter table collections add column drift bigint, add column compared_at timestamptz
