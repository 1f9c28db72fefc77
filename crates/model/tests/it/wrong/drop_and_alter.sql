DROP FEATURE VIEW customer_spend;
ALTER ENTITY customer ADD KEY (x INT);
SET datafusion.execution.batch_size = 1;
