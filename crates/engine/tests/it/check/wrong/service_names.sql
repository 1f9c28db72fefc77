CREATE FEATURE SERVICE s AS SELECT customer_spend.*, device_use.last_amount AS amount, customer_profile.income AS customer_id
FROM customer_spend, device_use, customer_profile;
CREATE FEATURE SERVICE t AS SELECT customer_spend.amount FROM customer_spend, customer_spend;
