-- Prices with a date and off-peak windows, each as in the document, as JSON. Null: none, or written before there were any.
alter table instance add column prices text[] check (cardinality(prices) <= 100);
