CREATE FEATURE VIEW v ENTITY customer EVENT TIME att AS SELECT customer_id, at, amount FROM payments;
CREATE FEATURE VIEW w ENTITY customer EVENT TIME at AS SELECT customer_id, amount FROM payments;
