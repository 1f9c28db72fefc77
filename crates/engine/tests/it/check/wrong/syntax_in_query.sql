CREATE VIEW v AS SELECT customer_id, FROM payments WHERE;
CREATE FEATURE VIEW w ENTITY customer AS
SELECT customer_id,
       sum(amount AS amount
       FROM payments) GROUP BY customer_id;
CREATE FEATURE VIEW x ENTITY customer AS SELECT customer_id amount currency FROM payments;
