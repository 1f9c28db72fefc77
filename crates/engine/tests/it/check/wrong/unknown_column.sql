CREATE FEATURE VIEW v ENTITY customer AS
SELECT customer_id,
       sum(ammount) AS amount,
       max(p.att)   AS last_at,
       count(*)     AS payments
FROM payments p
WHERE curency = 'CZK'
GROUP BY customer_id;
CREATE VIEW capitals AS SELECT customer id FROM profiles;
CREATE VIEW quoted AS SELECT "Customer Id" FROM profiles;
