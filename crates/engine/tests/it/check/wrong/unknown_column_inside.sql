CREATE VIEW v AS
WITH good AS (SELECT customer_id, amount FROM payments),
     bad  AS (SELECT customer_id, amout FROM good)
SELECT * FROM bad;
CREATE VIEW w AS SELECT x.customer_id FROM (SELECT customer_idd FROM payments) x;
CREATE VIEW u AS
SELECT customer_id FROM payments
UNION ALL
SELECT custommer_id FROM payments;
