CREATE FEATURE SERVICE s AS SELECT customer_spend.amont, customer_spnd.amount, other.x, customer_spend.customer_id
FROM customer_spend, customer_profil;
CREATE FEATURE SERVICE t AS SELECT payments.* FROM payments;
