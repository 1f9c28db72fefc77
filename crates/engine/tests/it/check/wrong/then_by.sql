CREATE FEATURE VIEW v ENTITY customer THEN BY (payment_id) EVENT TIME at AS SELECT customer_id, at, amount FROM payments;
CREATE FEATURE VIEW w ENTITY customer THEN BY (at, customer_id) EVENT TIME at AS SELECT customer_id, at, amount FROM payments;
CREATE FEATURE VIEW y ENTITY customer THEN BY (pair) EVENT TIME at AS SELECT customer_id, at, make_array(amount) AS pair, amount FROM payments;
