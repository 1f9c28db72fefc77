CREATE ENTITY customer KEY (customer_id BIGINT) COMMENT 'a person
