CREATE FEATURE VIEW v ENTITY customer AS SELECT customer_id AS customerid, count(*) AS n FROM payments GROUP BY customer_id;
CREATE FEATURE VIEW w ENTITY customer, device AS SELECT customer_id, count(*) AS n FROM payments GROUP BY customer_id;
