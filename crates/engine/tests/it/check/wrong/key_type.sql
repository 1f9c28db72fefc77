CREATE FEATURE VIEW v ENTITY customer AS SELECT device_id AS customer_id, amount FROM payments;
CREATE FEATURE VIEW w ENTITY customer AS SELECT amount AS customer_id, currency FROM payments;
