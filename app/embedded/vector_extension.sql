do $$$$ begin
    if exists (select from pg_available_extensions where name = 'vector') then
        create schema if not exists vectors authorization greenlang_owner;
        create extension if not exists vector schema vectors;
        alter extension vector update;
    end if;
end $$$$;
