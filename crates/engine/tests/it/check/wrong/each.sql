CREATE FEATURE SERVICE a AS SELECT c.amount FROM customer_spend, customer_spend AS c KEY (customer_id => EACH make_array(customer_spend.payments));
CREATE FEATURE SERVICE b AS SELECT sum(c.amount) FROM customer_spend, customer_spend AS c KEY (customer_id => EACH make_array(customer_spend.payments));
CREATE FEATURE SERVICE d AS SELECT sum(c.amount) AS s FROM customer_spend, customer_spend AS c KEY (customer_id => EACH customer_spend.payments);
CREATE FEATURE SERVICE e AS SELECT sum(customer_spend.amount) AS s FROM customer_spend;
CREATE FEATURE SERVICE f AS SELECT upper(device_use.last_device) AS s, sum(c.amount) AS t
FROM device_use, customer_spend AS c KEY (customer_id => EACH make_array(device_use.last_amount));
CREATE ON DEMAND FEATURE VIEW g AS SELECT sum(c.amount) + sum(d.amount) AS fine, sum(c.amount * d.amount) AS two
FROM customer_spend, customer_spend AS c KEY (customer_id => EACH make_array(customer_spend.payments)),
     customer_spend AS d KEY (customer_id => EACH make_array(customer_spend.payments + 1));
CREATE ON DEMAND FEATURE VIEW h AS SELECT c.amount + 1 AS one
FROM customer_spend, customer_spend AS c KEY (customer_id => EACH make_array(customer_spend.payments));
CREATE FEATURE SERVICE i AS SELECT d.amount FROM customer_spend, customer_spend AS c KEY (customer_id => EACH make_array(customer_spend.payments)),
     customer_spend AS d KEY (customer_id => c.payments);
