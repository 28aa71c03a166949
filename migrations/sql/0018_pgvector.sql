create schema if not exists vectors
--
alter table collections add column shortened boolean not null default false
--
alter table documents add column vector_sha256 bytea constraint ck_documents_vector_sha256 check (octet_length(vector_sha256) = 32)
--
alter table documents alter column metadata type json
--
insert into maintenance (task, begun_at) values ('vectors', '-infinity')
