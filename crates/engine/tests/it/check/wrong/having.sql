CREATE VIEW v AS SELECT customer_id, sum(amount) AS total FROM payments GROUP BY customer_id HAVING sum(amonut) > 1;
