-- A period that is spent in names its currency, '2026-11:GBP' or '2026-11-25:GBP', where the node has told it: a budget's may be changed.
alter table client_spending drop constraint client_spending_period_check;
alter table client_spending add constraint client_spending_period_check check (length(period) <= 14);
