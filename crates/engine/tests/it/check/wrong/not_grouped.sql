CREATE FEATURE VIEW v ENTITY customer AS SELECT customer_id, currency, sum(amount) AS amount FROM payments GROUP BY customer_id;
