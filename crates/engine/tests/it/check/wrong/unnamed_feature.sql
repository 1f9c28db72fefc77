CREATE FEATURE VIEW v ENTITY customer AS SELECT customer_id, count(*), max(amount) AS "max;amount" FROM payments GROUP BY customer_id;
CREATE FEATURE VIEW w ENTITY customer AS SELECT customer_id, amount AS _as_of FROM payments;
