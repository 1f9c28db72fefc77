CREATE FEATURE SERVICE s AS SELECT customer_spend.amount FROM customer_spend KEY (custmer_id => x);
CREATE FEATURE SERVICE t AS SELECT customer_spend.amount, device_use.last_amount
FROM customer_spend KEY (customer_id => id), device_use KEY (device_id => id);
CREATE FEATURE SERVICE u AS SELECT device_use.last_amount, customer_profile.income
FROM customer_profile, device_use KEY (device_id => customer_profile.income);
CREATE FEATURE SERVICE w AS SELECT a.amount, b.amount AS other
FROM customer_spend AS a KEY (customer_id => b.payments), customer_spend AS b KEY (customer_id => a.payments);
