CREATE FEATURE VIEW v ENTITY customer AS
SELECT customer_id, count(*) FILTER (WHERE at > now() - INTERVAL '7 days') AS n, current_date AS today, random() AS dice
FROM payments
WHERE at < CURRENT_TIMESTAMP
GROUP BY customer_id;
CREATE VIEW w AS SELECT uuid() AS id;
