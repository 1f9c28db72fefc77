CREATE FEATURE VIEW v ENTITY customer EVENT TIME currency AS SELECT customer_id, currency, amount FROM payments;
EVENT TIME OF profiles IS home CREATED TIME income;
