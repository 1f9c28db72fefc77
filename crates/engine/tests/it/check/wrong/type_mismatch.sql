CREATE VIEW v AS
SELECT customer_id,
       amount - at AS nonsense
FROM payments;
CREATE VIEW w AS SELECT customer_id FROM payments WHERE amount + INTERVAL '1 day' > 3;
CREATE VIEW x AS SELECT sqrt(currency, 2) AS root FROM payments;
