CREATE ON DEMAND FEATURE VIEW a INPUT (code VARCHAR) AS SELECT customer_spend.amount AS amount
FROM customer_spend KEY (customer_id => upper(code));
CREATE FEATURE SERVICE s AS SELECT customer_spend.amount FROM customer_spend KEY (customer_id => cod + 1);
CREATE FEATURE SERVICE t AS SELECT customer_spend.amount FROM customer_profile, customer_spend KEY (customer_id => sum(customer_profile.income));
CREATE FEATURE SERVICE u AS SELECT x.amount FROM customer_spend AS x KEY (customer_id => y.payments + 1),
customer_spend AS y KEY (customer_id => x.payments + 1);
CREATE FEATURE SERVICE v AS SELECT customer_spend.amount FROM customer_spend KEY (customer_id => input.code);
CREATE FEATURE SERVICE w AS SELECT customer_spend.amount FROM a, customer_spend KEY (customer_id => input.code);
