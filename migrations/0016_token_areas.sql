-- A token may be bound to areas of the API; null: it is for all of them.
alter table admin_token add column areas text[] check (cardinality(areas) between 1 and 20);
