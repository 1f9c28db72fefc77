CREATE FEATURE VIEW v ENTITY custmer AS SELECT customer_id, amount FROM payments;
CREATE FEATURE VIEW w ENTITY payments AS SELECT customer_id, amount FROM payments;
