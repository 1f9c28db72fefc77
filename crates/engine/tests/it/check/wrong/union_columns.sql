CREATE VIEW v AS
SELECT customer_id, amount FROM payments
UNION ALL
SELECT customer_id FROM payments;
