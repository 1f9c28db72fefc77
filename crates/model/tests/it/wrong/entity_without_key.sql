CREATE ENTITY customer;
CREATE ENTITY customer COMMENT 'a person';
CREATE ENTITY customer (customer_id BIGINT);
