CREATE FEATURE SERVICE s AS SELECT customer_label.is_big FROM customer_label;
