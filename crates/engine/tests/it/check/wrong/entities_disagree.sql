CREATE ENTITY client KEY (customer_id VARCHAR);
CREATE FEATURE VIEW v ENTITY customer, client AS SELECT customer_id, amount FROM payments;
