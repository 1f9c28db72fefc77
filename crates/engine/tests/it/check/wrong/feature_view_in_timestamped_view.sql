CREATE FEATURE VIEW v ENTITY customer EVENT TIME at AS
SELECT p.customer_id, p.at, p.amount, s.payments FROM payments p JOIN customer_spend s ON s.customer_id = p.customer_id;
