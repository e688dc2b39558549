-- A node goes away and comes back once, whichever control plane notices; and a snapshot that a node refuses is on record like a text.

alter table node add column live boolean not null default true;

alter table node_report drop constraint node_report_stage_check;
alter table node_report add constraint node_report_stage_check check (stage in ('test', 'load', 'start', 'push'));
