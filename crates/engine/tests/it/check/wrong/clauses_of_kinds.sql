CREATE FEATURE VIEW v ENTITY customer MAX EVENTS 10 AS SELECT customer_id, sum(amount) AS amount FROM payments GROUP BY customer_id;
CREATE FEATURE VIEW w ENTITY customer SERVE QUERY REFRESH EVERY INTERVAL '1 day' AS SELECT customer_id, sum(amount) AS amount FROM payments GROUP BY customer_id;
CREATE FEATURE VIEW x ENTITY customer SERVE QUERY TTL INTERVAL '1 day' AS SELECT customer_id, sum(amount) AS amount FROM payments GROUP BY customer_id;
CREATE FEATURE VIEW y ENTITY customer EVENT TIME at SERVE QUERY AS
SELECT customer_id, sum(amount) OVER (PARTITION BY customer_id ORDER BY at) AS s FROM payments;
