CREATE ENTITY customer KEY (customer_id BIGINT) COMMENT person;
CREATE ENTITY customer KEY (customer_id BIGINT) COMMENT "person";
CREATE FEATURE VIEW v ENTITY customer OWNER 7 AS SELECT 1;
