CREATE FEATURE VIEW v ENTITY customer EVENT TIME at AS SELECT customer_id, at FROM payments;
