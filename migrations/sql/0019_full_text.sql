-- Longer texts do not fit into a tsvector. Only a text with a vector of its own can be so long.
alter table chunks add column words tsvector generated always as (to_tsvector('english', left(text, 200000))) stored
--
create index ix_chunks_words on chunks using gin (words)
