CREATE VIEW v AS SELECT * FROM customer;
CREATE FEATURE VIEW w ENTITY customer AS SELECT customer_id, amount FROM admission;
