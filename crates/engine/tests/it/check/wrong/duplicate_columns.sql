CREATE VIEW v AS SELECT p.customer_id, c.customer_id FROM payments p JOIN clean_profiles c ON p.customer_id = c.customer_id;
CREATE FEATURE VIEW w ENTITY customer AS SELECT customer_id, amount AS x, currency AS x FROM payments;
