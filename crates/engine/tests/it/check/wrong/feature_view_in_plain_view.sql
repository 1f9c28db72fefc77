CREATE VIEW v AS SELECT customer_id, amount FROM customer_spend;
