-- Whether providers may be at link-local and metadata addresses; null: no. A program that does not know the column leaves it null.
alter table gateway_setting add column link_local_targets boolean;
